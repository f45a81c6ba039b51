"""The demo: one real cluster, hotnic installed as users do it, two pods, one annotation edited, narrated.

`python -m e2e.demo [--keep]`, after `make image`. Outside of a lane it makes one and calls itself inside; with --keep
the lane stays up.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from e2e import networks
from e2e.cluster import Cluster
from e2e.installed import ARCHIVE, Installed
from e2e.pods import CONDITION, NETWORKS, STATUS, Api, Pod
from e2e.product import NAMESPACE, OVERLAY
from e2e.timeline import pod_links, published

LANE = "demo"


def main() -> int:
    """Run the demo; the exit status says whether all that it shows was seen."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up and say how to use and stop it")
    arguments = parser.parse_args()
    if os.environ.get("HOTNIC_LANE"):
        Demo(keep=arguments.keep).run()
        return 0
    again = [sys.executable, "-m", "e2e.demo", *(["--keep"] if arguments.keep else [])]
    if not arguments.keep:
        return subprocess.run([sys.executable, "-m", "e2e.lane", "run", "--", *again], check=False).returncode
    subprocess.run([sys.executable, "-m", "e2e.lane", "up", "--name", LANE], check=True)
    return subprocess.run(
        [sys.executable, "-m", "e2e.lane", "exec", "--name", LANE, "--", *again], check=False
    ).returncode


class Demo:
    """The story, step by step."""

    def __init__(self, *, keep: bool) -> None:
        self.cluster = Cluster.from_environment()
        self.product = Installed(self.cluster)
        self.keep = keep

    def run(self) -> None:
        started = time.monotonic()
        say("a real etcd, kube-apiserver, controller manager, scheduler, containerd and kubelet are up",
            f"now hotnic: its image ({ARCHIVE.stat().st_size / 1e6:.0f} MB) goes into the node's containerd, and its",
            "manifests are applied")  # fmt: skip
        self.install()
        pods = self.make_pods()
        self.plug(pods)
        self.use(pods)
        self.unplug(pods[0])
        say(f"that was all, {time.monotonic() - started:.0f} s after the cluster was up")
        if self.keep:
            self.explain()
        else:
            self.product.stop()

    def install(self) -> None:
        begun = time.monotonic()
        show(f"$ ctr -n k8s.io images import {os.path.relpath(ARCHIVE)}\n$ kubectl apply -k {OVERLAY}")
        self.product.install()
        self.product.start()
        say(f"rolled out after {time.monotonic() - begun:.1f} s: one pod on each node, with two containers:",
            "the agent (rights, no API credentials) and the node's controller (credentials, no rights)")  # fmt: skip
        self.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide")

    def make_pods(self) -> list[Pod]:
        say("a network called `blue` (a NetworkAttachmentDefinition), and two pods that know nothing of it")
        namespace = Api(self.cluster).namespace("demo")
        spec = networks.native("br-blue", mtu=1400, ipam={"type": "host-local", "subnet": "10.42.0.0/24"})
        show(json.dumps(spec))
        namespace.network("blue", spec)
        pods = [namespace.pod("alice"), namespace.pod("bob")]
        self.kubectl("get", "pods", "-n", "demo")
        say("alice's annotation before, and her interfaces")
        show(f"{NETWORKS}: {pods[0].get()['metadata'].get('annotations', {}).get(NETWORKS, '(none)')}")
        self.kubectl("exec", "-n", "demo", "alice", "--", "ip", "-o", "link")
        return pods

    def plug(self, pods: list[Pod]) -> None:
        say("the edit, while both run: one annotation on each")
        for pod in pods:
            self.kubectl(
                "annotate", "pod", pod.name, "-n", "demo", f'{NETWORKS}=[{{"name": "blue", "interface": "net1"}}]'
            )
            self.kubectl("wait", f"--for=condition={CONDITION}", f"pod/{pod.name}", "-n", "demo", "--timeout=10s")
        say("alice now has net1")
        self.kubectl("exec", "-n", "demo", "alice", "--", "ip", "addr", "show", "dev", "net1")
        say("and the API says so: status, condition, event")
        show(json.dumps(pods[0].reported()["net1"], indent=2))
        show(json.dumps(pods[0].condition()))
        pods[0].wait_event("AddedInterface")
        self.kubectl(
            "get", "events", "-n", "demo", "--field-selector", "involvedObject.name=alice,reason=AddedInterface"
        )

    def use(self, pods: list[Pod]) -> None:
        address = pods[1].reported()["net1"]["ips"][0]
        say(f"alice pings bob over it ({address})")
        self.kubectl("exec", "-n", "demo", "alice", "--", "ping", "-c", "3", "-I", "net1", address)

    def unplug(self, pod: Pod) -> None:
        say("the timeline, as the kernel and a watch tell it; milliseconds since the PATCH was sent")
        with pod_links(self.cluster.nodes[0], pod, "net1") as links, published(pod, "net1") as status:
            for text, verb in (("", "out"), ("blue@net1", "in"), ("", "out"), ("blue@net1", "in")):
                begun = time.perf_counter()
                pod.plug(text)
                answered = (time.perf_counter() - begun) * 1000
                link, told = (seen.wait("net1", begun, present=verb == "in") for seen in (links, status))
                show(
                    f"{verb:>4}: PATCH answered {answered:5.1f}  link {verb} {link:5.1f}  status published {told:5.1f}"
                )
                time.sleep(0.2)
        say("the unplug: the annotation goes, and so do interface, address and status entry")
        self.kubectl("annotate", "pod", pod.name, "-n", "demo", f"{NETWORKS}-")
        pod.wait_ready()
        self.kubectl("exec", "-n", "demo", "alice", "--", "ip", "-o", "link")
        show(f"{STATUS}: {json.dumps(pod.status())}")

    def kubectl(self, *arguments: str) -> None:
        print("    $ kubectl " + " ".join(f"'{one}'" if " " in one else one for one in arguments), flush=True)
        show(self.cluster.kubectl(*arguments))

    def explain(self) -> None:
        say("the cluster stays up. To use it:")
        show(f"{os.path.relpath(sys.executable)} -m e2e.lane exec --name {LANE} -- kubectl get pods -A\n"
             f"{os.path.relpath(sys.executable)} -m e2e.lane shell --name {LANE}")  # fmt: skip
        say("to stop it, without a trace:")
        show(f"{os.path.relpath(sys.executable)} -m e2e.lane down --name {LANE}")


def say(*lines: str) -> None:
    print(
        "\n" + "\n".join(f"==> {line}" if number == 0 else f"    {line}" for number, line in enumerate(lines)),
        flush=True,
    )


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"      {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
