"""manifests/uninstall.sh against a kubectl that says what a cluster would, and notes what it was asked.

The real cluster: e2e/tests/test_installation.py.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).parent.parent / "manifests"
SCRIPT = MANIFESTS / "uninstall.sh"
FAKE = r"""#!/bin/sh
here=${0%/*}
line="$*"
case "$line" in *--patch-file=/dev/stdin*) line="$line $(tr '\n' ' ')" ;; esac
printf '%s\n' "$line" >>"$here/calls"
[ "$(wc -l <"$here/calls")" != "${FAILS_AT-}" ] || exit 1
while IFS='|' read -r status words answer; do
    case "$line" in *"$words"*) printf '%b' "$answer"; exit "$status" ;; esac
done <"$here/answers"
"""
COMMAND, CONTROLLER = '(@.name=="agent")].command', '(@.name=="controller")].args'
INSTALLED = (
    ("jsonpath={.metadata.name}", "hotnic"),
    (COMMAND, "hotnic-agent"),
    (".containers[*].name", "agent controller"),
    (CONTROLLER, "node --log-level=info"),
    ("CNI_CONF_DIR", "/etc/cni/net.d"),
    (
        "get pods -n hotnic-system -l app.kubernetes.io/name=hotnic -o json",
        "hotnic-a=node-1=true hotnic-b=node-2=true ",
    ),
    ("get clusterroles", "clusterrole/hotnic-node"),
    ("get namespaces", "namespace/hotnic-system"),
    ("api-resources", r"configmaps\nevents\nnetwork-attachment-definitions.k8s.cni.cncf.io\n"),
    ("get configmaps,events,", r"configmap/kube-root-ca.crt\nevent/a.1\nserviceaccount/default\n"),
)
GONE = (("get namespaces", ""), ("get clusterroles", ""))


class Cluster:
    """A folder with a kubectl that answers the first line whose words are in the call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.joinpath("kubectl").write_text(FAKE)
        folder.joinpath("kubectl").chmod(0o755)

    def uninstall(
        self, *argv: str, answers: Sequence[tuple[str, str]] = INSTALLED, fails: Sequence[str] = (), **env: str
    ) -> tuple[int, str]:
        """Return the script's exit status and all that it said. `answers` and `fails` begin with words of a call."""
        lines = [f"1|{words}|\n" for words in fails] + [f"0|{words}|{answer}\n" for words, answer in answers]
        self._folder.joinpath("answers").write_text("".join(lines))
        self._folder.joinpath("calls").write_text("")
        path = f"{self._folder}:{os.environ['PATH']}"
        done = subprocess.run(
            [SCRIPT, *argv], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path, **env}
        )
        return done.returncode, done.stdout + done.stderr

    @property
    def calls(self) -> list[str]:
        return self._folder.joinpath("calls").read_text().splitlines()

    def changes(self) -> list[str]:
        """Return the calls that change anything."""
        return [line for line in self.calls if line.startswith(("patch", "delete"))]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def but(*changed: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the answers of a cluster with hotnic, with these before them."""
    return (*changed, *INSTALLED)


def test_everything_in_its_order_and_nothing_but_what_is_ours(cluster):
    status, said = cluster.uninstall("--detach")
    assert status == 0, said
    changes = cluster.changes()
    assert changes[0].startswith("delete deployment hotnic-cluster ")
    assert "containers/1/args/-, value: --withdraw" in changes[1]
    assert "command: [hotnic-agent, uninstall, --detach, --stay]" in changes[2]
    labelled = re.compile(r"delete \w+( -n hotnic-system)? -l app\.kubernetes\.io/part-of=hotnic")
    assert all(labelled.fullmatch(line) for line in changes[3:-3])
    assert [line.split(" -n ")[0] for line in changes[-3:]] == [
        "delete lease hotnic-cluster", "delete daemonset hotnic", "delete namespace hotnic-system",
    ]  # fmt: skip
    status, said = cluster.uninstall("--keep")
    assert status == 0, said
    assert not any("--withdraw" in line for line in cluster.changes())


@pytest.mark.parametrize(
    ("mode", "answers"),
    [
        ("--detach", INSTALLED),
        ("--keep", INSTALLED),
        ("--keep", (("jsonpath={.metadata.name}", ""), *GONE, *INSTALLED)),
    ],
)
def test_no_call_that_fails_is_taken_for_an_answer(cluster, mode, answers):
    cluster.uninstall(mode, answers=answers)
    whole = cluster.calls
    for number, line in enumerate(whole, start=1):
        status, said = cluster.uninstall(mode, answers=answers, FAILS_AT=str(number))
        assert status != 0, f"{line}\n{said}"
        after = [one for one in cluster.calls[number:] if one.startswith(("patch", "delete"))]
        assert after == [], f"{line} failed, and still: {after}"


@pytest.mark.parametrize(("names", "position"), [("logger agent controller", 2), ("controller logger agent", 0)])
def test_containers_that_users_have_added_change_nothing(cluster, names, position):
    status, said = cluster.uninstall("--detach", answers=but((".containers[*].name", names)))
    assert status == 0, said
    withdraw, clean = [line for line in cluster.changes() if line.startswith("patch")]
    assert f"path: /spec/template/spec/containers/{position}/name, value: controller" in withdraw
    assert "uninstall, --detach" in clean


def test_a_daemonset_whose_agent_is_something_else_is_left_alone(cluster):
    status, said = cluster.uninstall("--keep", answers=but((COMMAND, "sh -c hotnic-agent")))
    assert (status, cluster.changes()) == (1, [])
    assert 'runs "sh -c hotnic-agent", and not hotnic-agent' in said


def test_the_namespace_is_the_one_that_is_named(cluster):
    status, said = cluster.uninstall("--keep", NAMESPACE="mine", answers=but(
        ("get pods -n mine -l app.kubernetes.io/name=hotnic -o json", "hotnic-a=node-1=true "),
    ))  # fmt: skip
    assert status == 0, said
    assert "hotnic-system" not in "\n".join(cluster.calls)
    assert any(line.startswith("exec -n mine hotnic-a ") for line in cluster.calls)
    assert cluster.changes()[-1] == "delete namespace mine"


def test_without_its_daemonset_it_stops_unless_all_is_gone_or_it_is_forced(cluster):
    none = ("jsonpath={.metadata.name}", ""), ("get daemonsets -A", "mine/hotnic ")
    status, said = cluster.uninstall("--detach", answers=but(*none))
    assert (status, cluster.changes()) == (1, [])
    assert "no DaemonSet hotnic in namespace hotnic-system" in said
    assert "mine/hotnic" in said
    status, said = cluster.uninstall("--detach", "--force", answers=but(*none))
    assert status == 0, said
    assert any(line.startswith("delete clusterroles ") for line in cluster.changes())
    status, said = cluster.uninstall("--detach", answers=but(*none, *GONE))
    assert status == 0, said
    assert not any(line.startswith(("patch", "delete namespace")) for line in cluster.changes())


def test_a_namespace_with_something_else_in_it_stays_and_is_told_of(cluster):
    theirs = r"configmap/kube-root-ca.crt\nnetwork-attachment-definition.k8s.cni.cncf.io/blue\nconfigmap/mine\n"
    status, said = cluster.uninstall("--keep", answers=but(("get configmaps,events,", theirs)))
    assert status == 0, said
    assert "stays, as this is in it: network-attachment-definition.k8s.cni.cncf.io/blue configmap/mine\n" in said
    assert not any(line.startswith("delete namespace") for line in cluster.changes())


def test_what_was_begun_goes_on_the_way_that_it_was_begun(cluster):
    begun = but((COMMAND, "hotnic-agent uninstall --keep --stay"))
    status, said = cluster.uninstall("--detach", answers=begun)
    assert (status, cluster.changes()) == (1, [])
    assert "begun the other way (hotnic-agent uninstall --keep --stay)" in said
    status, said = cluster.uninstall("--keep", answers=begun)
    assert status == 0, said
    assert not any(line.startswith(("patch", "exec")) for line in cluster.calls)
    assert any(line.startswith("rollout status") for line in cluster.calls)


def test_controllers_are_withdrawn_once(cluster):
    status, said = cluster.uninstall("--detach", answers=but((CONTROLLER, "node --withdraw")))
    assert status == 0, said
    assert not any("value: --withdraw" in line for line in cluster.changes())
    assert sum(line.startswith("rollout status") for line in cluster.calls) == 2


def test_what_is_in_the_way_on_any_node_is_told_before_anything_is_changed(cluster):
    status, said = cluster.uninstall("--detach", fails=["exec -n hotnic-system hotnic-b"])
    assert (status, cluster.changes()) == (1, [])
    assert "nothing was changed; first see to: node-2\n" in said
    asked = [line for line in cluster.calls if line.startswith("exec")]
    assert [line.split(" -- ")[1] for line in asked] == 2 * [
        "hotnic-agent uninstall --detach --check --host-root=/host --cni-conf-dir=/etc/cni/net.d"
    ]
    status, said = cluster.uninstall("--detach", "--force", fails=["exec -n hotnic-system hotnic-b"])
    assert status == 0, said


@pytest.mark.parametrize("started", ["false", ""])
def test_an_agent_that_ends_again_and_again_is_in_the_way_even_if_it_could_be_entered(cluster, started):
    pods = "get pods -n hotnic-system -l app.kubernetes.io/name=hotnic -o json"
    answers = but((pods, f"hotnic-a=node-1={started} hotnic-b=node-2=true "))
    status, said = cluster.uninstall("--detach", answers=answers)
    assert (status, cluster.changes()) == (1, [])
    assert "node node-1: its agent does not run" in said
    assert "nothing was changed; first see to: node-1\n" in said
    assert [line for line in cluster.calls if line.startswith("exec -n hotnic-system hotnic-a")] == []
    status, said = cluster.uninstall("--detach", "--force", answers=answers)
    assert status == 0, said


@pytest.mark.parametrize("argv", [(), ("--all",), ("--keep", "--yes"), ("--detach", "--force", "--keep")])
def test_words_that_it_does_not_know_change_nothing(cluster, argv):
    status, said = cluster.uninstall(*argv)
    assert (status, cluster.calls) == (2, [])
    assert "manifests/uninstall.sh --keep" in said


def test_the_clean_step_answers_the_agents_probes_wherever_they_ask():
    """With a port of the user's own: an environment's value, which the step leaves as it is."""
    agent, step = (container(path, "agent") for path in ("base/daemonset.yaml", "uninstall/clean.yaml"))
    said = "--metrics-address=127.0.0.1:$(METRICS_PORT)"
    assert said in agent["args"]
    assert said in step["args"]
    assert "env" not in step
    port = next(one["value"] for one in agent["env"] if one["name"] == "METRICS_PORT")
    assert {str(agent[f"{kind}Probe"]["httpGet"]["port"]) for kind in ("startup", "liveness", "readiness")} == {port}


def container(path: str, name: str) -> dict[str, Any]:
    document = yaml.safe_load(MANIFESTS.joinpath(path).read_text())
    found: dict[str, Any] = next(
        one for one in document["spec"]["template"]["spec"]["containers"] if one["name"] == name
    )
    return found


def test_who_keeps_after_a_detach_was_begun_is_told(cluster):
    status, said = cluster.uninstall("--keep", answers=but((CONTROLLER, "node --withdraw")))
    assert (status, "--detach was begun" in said) == (0, True)
    assert "--detach was begun" not in cluster.uninstall("--keep")[1]
