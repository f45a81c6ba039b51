"""The demo: a running VM gets a NIC by one annotation, uses it, and loses it, narrated. See `__main__.py`."""

import json
import time

from e2e import networks
from e2e.cluster import Cluster
from e2e.demo import say, show
from e2e.kubevirt import installation, machines
from e2e.kubevirt.machines import VirtualMachine
from e2e.pods import NETWORKS, STATUS, Api, Namespace
from e2e.product import Product
from e2e.relay import scene

_MAC = "02:00:00:00:00:2a"
_READY = "jsonpath={.metadata.annotations.hotnic\\.dev/networks-ready}"


class Demo:
    """The story, step by step."""

    def __init__(self) -> None:
        self.cluster = Cluster.from_environment()

    def run(self) -> None:
        started = time.monotonic()
        say("a real cluster is up. Now the real KubeVirt v1.7.0, unmodified, by its operator: this takes two minutes")
        installation.install(self.cluster)
        self.cluster_shows("get", "pods", "-n", installation.NAMESPACE)
        say("and hotnic: on the node, in the place of the dynamic networks controller (there is no Multus), and its",
            "relay, which makes annotations of VirtualMachines KubeVirt's own changes")  # fmt: skip
        product = Product(self.cluster)
        product.install()
        product.start()
        scene.install(self.cluster)
        relay = scene.Controller.start(self.cluster, 1)
        namespace = Api(self.cluster).namespace("demo")
        ipam = {"type": "host-local", "subnet": "10.42.0.0/24"}
        spec = networks.native("br-blue", capabilities={"mac": True}, ipam=ipam)
        say("a network called `blue`, a pod that is on it, and a VM that is not")
        show(json.dumps(spec))
        namespace.network("blue", spec)
        vm = self.boot(namespace)
        self.plug(vm)
        self.use(vm, namespace)
        self.unplug(vm)
        say(f"that was all, {time.monotonic() - started:.0f} s after the cluster was up")
        relay.end()
        product.stop()

    def boot(self, namespace: Namespace) -> VirtualMachine:
        vm = machines.create(namespace, "guest")
        vm.wait_booted()
        self.cluster_shows("get", "vm,vmi,pods", "-n", "demo")
        say("in the guest, which is emulated: its kernel, and its NICs")
        self.guest_shows(vm, "uname -sr; ip -o link")
        return vm

    def plug(self, vm: VirtualMachine) -> None:
        say("the edit: one annotation on the VirtualMachine, while it runs")
        begun = time.monotonic()
        wish = json.dumps([{"name": "blue", "interface": "blue", "mac": _MAC}])
        self.cluster_shows("annotate", "vm", vm.name, "-n", vm.namespace.name, f"{NETWORKS}={wish}")
        vm.wait("the guest has told of its NIC", lambda: _MAC in vm.told().values())
        say(
            f"the guest told of the NIC on its console {time.monotonic() - begun:.1f} s later, with two runs of kubectl"
        )
        self.guest_shows(vm, "ip -o link")
        say("what the relay asked KubeVirt for")
        template = vm.get()["spec"]["template"]["spec"]
        show(json.dumps([template["domain"]["devices"]["interfaces"][-1], template["networks"][-1]]))
        say("the launcher's annotation, which KubeVirt wrote, and the status, which hotnic wrote")
        launcher = vm.launcher()
        show(launcher.get()["metadata"]["annotations"][NETWORKS])
        show(json.dumps(launcher.status()))
        say("and how far it is, on the VirtualMachine")
        self.cluster_shows("wait", f"--for={_READY}=True", f"vm/{vm.name}", "-n", vm.namespace.name, "--timeout=60s")
        show(json.dumps(json.loads(vm.get()["metadata"]["annotations"][STATUS]), indent=1))

    def use(self, vm: VirtualMachine, namespace: Namespace) -> None:
        peer = namespace.pod("peer", "blue", nodeName=vm.instance()["status"]["nodeName"])
        peer.wait_ready("net1")
        (ours,) = vm.launcher().status()[-1]["ips"]
        (theirs,) = peer.reported()["net1"]["ips"]
        say(f"the guest ({ours}) pings the pod ({theirs}) over it")
        nic = next(nic for nic, mac in vm.nics().items() if mac == _MAC)
        vm.sh(f"ip link set {nic} up; ip addr add {ours}/24 dev {nic}")
        self.guest_shows(vm, f"ping -c 3 -I {nic} {theirs}")

    def unplug(self, vm: VirtualMachine) -> None:
        say("the unplug: the annotation goes")
        self.cluster_shows("annotate", "vm", vm.name, "-n", vm.namespace.name, f"{NETWORKS}-")
        vm.wait("the guest has lost it", lambda: _MAC not in vm.nics().values())
        vm.wait("KubeVirt has forgotten it", lambda: vm.names() == ["default"])
        self.guest_shows(vm, "ip -o link")
        say("and nothing is left of it in the launcher, though KubeVirt leaves its NIC behind (its issue 14074)")
        vm.wait("the launcher is clean", lambda: vm.pod_links() == {"lo", "eth0", "k6t-eth0", "tap0"})
        show(" ".join(sorted(vm.pod_links())))

    def cluster_shows(self, *arguments: str) -> None:
        print("    $ kubectl " + " ".join(f"'{one}'" if " " in one else one for one in arguments), flush=True)
        show(self.cluster.kubectl(*arguments))

    def guest_shows(self, vm: VirtualMachine, command: str) -> None:
        print(f"    guest # {command}", flush=True)
        show(vm.sh(command))
