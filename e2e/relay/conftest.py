"""One cluster for the whole run (the lane that pytest was started in): KubeVirt's definitions, and two controllers."""

import itertools
import re
from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.pods import Api
from e2e.relay import scene
from e2e.relay.scene import Cast, Controller

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster.from_environment()


@pytest.fixture(scope="session")
def controllers(cluster: Cluster) -> Iterator[dict[int, Controller]]:
    """The relay, twice, started before the cluster knows what a VirtualMachine is."""
    scene.install(cluster)
    running = {number: Controller.start(cluster, number) for number in (1, 2)}
    scene.define_machines(cluster)
    yield running
    for one in running.values():
        one.end()


@pytest.fixture
def cast(cluster: Cluster, controllers: dict[int, Controller], request: pytest.FixtureRequest) -> Iterator[Cast]:
    """A namespace of the test's own, with networks blue and red."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    namespace = Api(cluster).namespace(f"r{next(_numbers)}-{words}")
    one = Cast(cluster, namespace.name, controllers)
    one.network("blue")
    one.network("red")
    yield one
    namespace.drop()
    for number, controller in controllers.items():
        assert controller.process.poll() is None, f"controller {number} has ended:\n{controller.output()[-3000:]}"
        assert "Traceback" not in controller.output()
