"""A lane of its own, since its state directory ends in a format of the future; otherwise as in e2e/tests."""

from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.installed import Installed
from e2e.tests.conftest import api, cluster, node, ns

__all__ = ["api", "cluster", "node", "ns"]


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> Iterator[Installed]:
    """Installed by its image and its manifests, which an update changes."""
    product = Installed(cluster, {"logLevel": "info"}, isolation=True)
    product.install()
    product.start()
    yield product
    product.stop()
