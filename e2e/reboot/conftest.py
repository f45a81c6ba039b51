"""A lane of its own, since its node is rebooted and soaked; otherwise as in e2e/tests."""

from e2e.tests.conftest import api, cluster, node, ns, product

__all__ = ["api", "cluster", "node", "ns", "product"]
