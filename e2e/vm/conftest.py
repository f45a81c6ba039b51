"""One cluster of two nodes with hotnic for the whole run, as in e2e/overlay."""

from e2e.overlay.conftest import api, cluster, ns, product

__all__ = ["api", "cluster", "ns", "product"]
