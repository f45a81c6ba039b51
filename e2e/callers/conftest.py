"""hotnic under callers that are not Kubernetes with Multus: one cluster with Debian's containerd, as in e2e/tests."""

from e2e.tests.conftest import api, cluster, node, ns, product

__all__ = ["api", "cluster", "node", "ns", "product"]
