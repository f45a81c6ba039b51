"""One cluster of two nodes with hotnic for the whole run; otherwise as in e2e/tests."""

import itertools
import re
from collections.abc import Iterator

import pytest

from e2e import audit
from e2e.pods import Api, Namespace
from e2e.product import Product
from e2e.tests.conftest import api, cluster, product

__all__ = ["api", "cluster", "ns", "product"]

_numbers = itertools.count(1)


@pytest.fixture
def ns(product: Product, api: Api, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own. Nothing of it may be left on any node that is up."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    namespace = api.namespace(f"o{next(_numbers)}-{words}")
    yield namespace
    pods = api.call("list_namespaced_pod", namespace.name)["items"]
    for pod in pods:
        api.call("delete_namespaced_pod", pod["metadata"]["name"], namespace.name, grace_period_seconds=0)
    namespace.drop()
    for node in product.cluster.nodes[:2]:
        audit.wait_clean(node, {pod["metadata"]["uid"] for pod in pods})
        links = node.exec(["ip", "-o", "link"]).stdout
        assert not re.search(r"\bhn[bv]\d", links), f"{node.name}: {links}"
