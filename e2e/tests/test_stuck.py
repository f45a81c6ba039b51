"""An agent that does not start: what is told of it, and the ways that docs/install.md has for that.

One story on one node, whose state directory says that a later version wrote it: the doctor finds that without an agent,
hotnic cannot be taken off, and where that was forced nothing more is changed; then there is the way back.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e import audit, installed, networks
from e2e.installed import Installed
from e2e.node import Node
from e2e.pods import Namespace
from e2e.product import NAMESPACE, REPOSITORY
from e2e.tests.test_installation import script

pytestmark = [
    pytest.mark.lane,
    pytest.mark.skipif(not installed.is_chosen(), reason="is about pods of the DaemonSet: in `hotnic installed`"),
]

LINKS = "cat /sys/class/net/x1/ifindex /sys/class/net/x1/carrier_changes"
LATER = "9"
REFUSAL = f"/var/lib/hotnic says version '{LATER}'"


def documented(words: str) -> list[str]:
    """Return the commands of that block in docs/install.md which has these words."""
    blocks = re.findall(r"```console\n(.*?)```", (REPOSITORY / "docs/install.md").read_text(), re.DOTALL)
    (block,) = [one for one in blocks if words in one]
    return [line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines()]


def shell(line: str) -> str:
    done = subprocess.run(["sh", "-euc", line], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def wait_until(what: str, holds: Callable[[], object], product: Installed) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, f"{what}\n{product.describe()}"
        time.sleep(0.2)


def template(product: Installed) -> dict[str, Any]:
    """Return what the DaemonSet makes its pods of."""
    found = product.cluster.kubectl("get", "daemonset", "hotnic", "-n", NAMESPACE, "-o", "jsonpath={.spec.template}")
    document: dict[str, Any] = json.loads(found)
    return document


def pods(product: Installed) -> list[dict[str, Any]]:
    """Return the DaemonSet's pods that are not being taken away."""
    selector = ("-l", "app.kubernetes.io/name=hotnic", "-o", "json")
    found = json.loads(product.cluster.kubectl("get", "pods", "-n", NAMESPACE, *selector))["items"]
    return [one for one in found if "deletionTimestamp" not in one["metadata"]]


def has_ended(product: Installed, args: str) -> bool:
    """Whether an agent that was started with this among its arguments has ended as it should, and more than once."""
    statuses = [
        status
        for pod in pods(product) if args in json.dumps(pod["spec"]["containers"])
        for status in pod["status"].get("containerStatuses", ()) if status["name"] == "agent"
    ]  # fmt: skip
    return any(one["restartCount"] and one["lastState"]["terminated"]["exitCode"] == 2 for one in statuses)


def last_words(product: Installed, args: str) -> str:
    """Return the end of the log of an agent's container that was started with this among its arguments."""
    names = [one["metadata"]["name"] for one in pods(product) if args in json.dumps(one["spec"]["containers"])]
    logs = ("logs", "-n", NAMESPACE, "-c", "agent", "--tail=3")
    return "".join(product.cluster.kubectl(*logs, name, check=False) for name in names)


def left(node: Node) -> set[str]:
    """Return the files that hotnic has on the node, but for those that say that it serves."""
    return {path for path in audit.traces(node).files if not path.startswith("/run/")}


@contextmanager
def refusing(node: Node, product: Installed) -> Iterator[None]:
    """Have the node's agent end again and again, as the kubelet starts it. Afterwards hotnic is there as before."""
    file, agent = node.path("/var/lib/hotnic/format"), product.agents[node.name]
    agent.stop()
    before = file.read_text()
    file.write_text(f"{LATER}\n")
    agent.let_restart()
    try:
        yield
    finally:
        product.stop()  # a step that was forced would go on as soon as nothing is in the way
        file.write_text(before)
        product.install()
        product.start()


def diagnosed(node: Node, product: Installed) -> None:
    """The doctor needs no agent: by the documented commands it names what keeps it from its start, and nothing else."""
    debug, logs, delete = documented("kubectl debug")
    told = shell(debug.replace("NODE", node.name))
    (pod,) = set(re.findall(r"node-debugger-[\w-]+", told))
    phase = ("get", "pod", pod, "-n", NAMESPACE, "-o", "jsonpath={.status.phase}")
    wait_until("it has looked", lambda: product.cluster.kubectl(*phase) in ("Succeeded", "Failed"), product)
    found = shell(logs.replace("DEBUGGINGPOD", pod))
    shell(delete.replace("DEBUGGINGPOD", pod))
    said = [re.fullmatch(r"(ok|warn|fail) +([^:]+): (.*)", line) for line in found.splitlines()]
    of = {status: {one[2]: one[3] for one in said if one and one[1] == status} for status in ("ok", "warn", "fail")}
    assert of["fail"].keys() == {"agent", "state directory", "CNI executable"}, found
    assert REFUSAL in of["fail"]["state directory"]
    assert "nobody answers" in of["fail"]["agent"]
    assert "containerd" in of["ok"]["container runtime"]
    assert "network lane" in of["ok"]["CNI chain"]
    assert of["warn"].keys() <= {"policy", "kernel", "leftovers"}, found
    assert of["warn"]["policy"].startswith("not looked at: ")
    assert REFUSAL in of["warn"]["leftovers"]


def test_an_agent_that_does_not_start_is_diagnosed_and_in_the_way_and_hotnic_comes_back(
    ns: Namespace, node: Node, product: Installed
) -> None:
    for name in ("blue", "red"):
        ns.network(name, networks.native(f"br-{name}"))
    pod = ns.pod("a", "blue@x1")
    pod.wait_ready("x1")
    made_of, there, files = template(product), pod.sh(LINKS), left(node)
    with refusing(node, product):
        wait_until("the agent ends", lambda: has_ended(product, "--policy"), product)
        diagnosed(node, product)

        done = script("--detach")
        assert (done.returncode, template(product)) == (1, made_of), done.stdout + done.stderr
        assert f"node {node.name}: its agent does not run" in done.stdout
        assert f"nothing was changed; first see to: {node.name}" in done.stderr

        script("--detach", "--force", timeout="1s")
        wait_until("the agent ends there too", lambda: has_ended(product, "--withdraw"), product)
        done = script("--detach", "--force", timeout="1s")
        assert (done.returncode, REFUSAL in done.stdout) == (1, True), done.stdout + done.stderr
        assert "repeat it to go on, or go back" in done.stderr

        script("--keep", "--force", timeout="1s")  # goes on to the step that cleans the node
        wait_until("it says what is in the way", lambda: REFUSAL in last_words(product, "uninstall"), product)
        done = script("--detach", timeout="1s")
        assert (done.returncode, "begun the other way" in done.stderr) == (1, True), done.stdout + done.stderr
        done = script("--keep", timeout="1s")
        assert (done.returncode, REFUSAL in done.stdout) == (1, True), done.stdout + done.stderr
        assert (pod.sh(LINKS), left(node)) == (there, files)

        delete, apply = documented("kubectl delete daemonset")
        assert apply.startswith("kubectl apply -k manifests/overlays/")  # with the tests' settings: product.install
        shell(delete)
        assert pods(product) == []
    assert template(product) == made_of
    pod.plug("blue@x1,red@x2")
    pod.wait_ready("x1", "x2")
    assert pod.sh(LINKS) == there
    pod.plug("")
    pod.wait_ready()
