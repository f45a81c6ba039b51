"""One cluster of two nodes with KubeVirt and hotnic for the whole run, and one VM that most tests share."""

import time
from collections.abc import Iterator

import pytest

from e2e import audit, networks
from e2e.cluster import Cluster
from e2e.kubevirt import installation, machines
from e2e.kubevirt.machines import VirtualMachine
from e2e.node import Node
from e2e.pods import Api, Namespace, Pod
from e2e.product import Product
from e2e.tests.conftest import api, cluster

__all__ = ["api", "cluster", "namespace", "peers", "product", "vm"]

FIRST_NIC = {"lo", "eth0", "k6t-eth0", "tap0"}


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> Iterator[Product]:
    """KubeVirt, and hotnic on both nodes."""
    installation.install(cluster)
    product = Product(cluster, ("--log-level", "debug"))
    product.install()
    product.start()
    yield product
    product.stop()


@pytest.fixture(scope="session")
def namespace(product: Product, api: Api) -> Namespace:  # noqa: ARG001 brings the definition of networks
    """The namespace of all VMs, with networks that reach over their node only; `plain` leases no addresses."""
    namespace = api.namespace("vms")
    for number, name in enumerate(("blue", "red"), 1):
        ipam = {"type": "host-local", "subnet": f"10.42.{number}.0/24"}
        namespace.network(name, networks.native(f"br-{name}", mtu=1400, capabilities={"mac": True}, ipam=ipam))
    namespace.network("plain", networks.native("br-plain", capabilities={"mac": True}))
    return namespace


@pytest.fixture(scope="session")
def vm(namespace: Namespace) -> VirtualMachine:
    """A VM that runs; each test leaves it running, with one NIC."""
    vm = machines.create(namespace, "guest")
    vm.wait_booted()
    return vm


@pytest.fixture(scope="session")
def peers(namespace: Namespace, cluster: Cluster) -> dict[str, Pod]:
    """A pod on each node that is on both networks, by the node's name."""
    pods = {node.name: namespace.pod(f"peer-{node.name}", "blue,red", nodeName=node.name) for node in cluster.nodes}
    for pod in pods.values():
        pod.wait_ready("net1", "net2")
    return pods


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest, product: Product, vm: VirtualMachine) -> Iterator[None]:
    """After a test the VM runs, with its first NIC only, and of the others nothing is left on any node."""
    before = {node.name: _on(node) for node in product.cluster.nodes}
    yield
    if request.session.testsfailed:
        return  # what a failed test leaves is no second failure
    assert set(vm.nics()) == {"eth0"}
    vm.wait("its launcher has nothing more", lambda: vm.pod_links() == FIRST_NIC)
    for node in product.cluster.nodes:
        end = time.monotonic() + 40
        while _on(node) != before[node.name]:
            assert time.monotonic() < end, f"{node.name}: had {before[node.name]}, has {_on(node)}"
            time.sleep(0.2)
    for process in (*product.agents.values(), *product.controllers.values()):
        assert process.poll() is None, process.output()[-4000:]


def _on(node: Node) -> tuple[set[str], set[str], set[str]]:
    """Return what a node has of secondary networks: links, addresses, attachments."""
    addresses = {f"{name} {one}" for name in ("blue", "red") for one in audit.addresses(node, name)}
    return audit.host_ends(node), addresses, {path.name for path in audit.records(node)}
