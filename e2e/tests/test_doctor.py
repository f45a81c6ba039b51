"""`hotnic-agent doctor` on a real node: nothing is wrong, then one thing after the other is, and each is named."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e import daemonset
from e2e import doctor_command as doctor
from e2e.product import BIN, NAMESPACE

pytestmark = pytest.mark.lane


@contextmanager
def there(path: Path, text: str) -> Iterator[None]:
    """Have a file for a while, in place of what was there."""
    before = path.read_bytes() if path.exists() else None
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def test_what_is_broken_on_a_node_is_named_and_nothing_else(product, node, cluster):
    well = doctor.run(node)
    assert (well.status, well.wrong) == (0, set()), well.findings
    assert "containerd" in well.of("container runtime", "ok")
    assert "network lane, plugins " in well.of("CNI chain", "ok")
    assert "is of this version" in well.of("CNI executable", "ok")
    assert "answers at /run/hotnic/agent.sock" in well.of("agent", "ok")
    assert "veth" in well.of("kernel", "ok")

    assert doctor.run(node, policy=None, cri=None).findings == well.findings  # it has asked the agent

    wrong_policy = cluster.state / "wrong-policy.yaml"
    wrong_policy.write_text("rules: [{namespaces: nobody}]")
    told = doctor.run(node, policy=str(wrong_policy), cri="unix:///run/nobody.sock")
    assert (told.status, told.wrong) == (1, {"policy", "container runtime"})
    assert f"say --cri unix://{node.cri_socket}" in told.of("container runtime", "fail")
    assert "namespaces" in told.of("policy", "fail")

    foreign = {"cniVersion": "1.0.0", "name": "foreign", "plugins": [{"type": "nowhere"}]}
    ours = {"cniVersion": "1.0.0", "name": "late", "plugins": [{"type": "bridge"}, {"type": "hotnic"}]}
    conf = node.path("/etc/cni/net.d")
    with there(conf / "00-foreign.conflist", json.dumps(foreign)), there(conf / "99-x.conflist", json.dumps(ours)):
        told = doctor.run(node)
        assert (told.status, told.wrong) == (1, {"CNI chain"})
        assert "plugins that are not there: nowhere" in told.of("CNI chain", "fail")
        assert "hotnic is in /etc/cni/net.d/99-x.conflist, which is not used" in told.of("CNI chain", "warn")

    product.agents[node.name].stop()  # which would put its executable back
    executable, aside = node.path("/opt/cni/bin/hotnic"), node.path("/opt/cni/bin/.hotnic-aside")
    try:
        told = doctor.run(node)
        assert told.wrong == {"agent", "CNI executable"}
        assert "passes STATUS on, and is told" in told.of("CNI executable", "fail")
        executable.rename(aside)
        with there(node.path("/var/lib/hotnic/format"), "9\n"):
            told = doctor.run(node)
        assert (told.status, told.wrong) == (1, {"agent", "CNI executable", "state directory"})
        assert "hotnic is not in /opt/cni/bin" in told.of("CNI executable", "fail")
        assert "says version '9'" in told.of("state directory", "fail")
        executable.write_text("#!/bin/sh\necho another's\n")
        executable.chmod(0o755)
        assert "is not hotnic's" in doctor.run(node).of("CNI executable", "fail")
    finally:
        if aside.exists():
            aside.rename(executable)
        product.start_agent(node)
    again = doctor.run(node)
    assert (again.status, again.wrong) == (0, set()), again.findings


def test_a_kubelets_directory_that_is_not_covered_is_named(product, node, monkeypatch):
    """As with a wrong `kubeletDir`: the folder that is covered in its place is there, as the profile is put into it."""
    elsewhere = node.path("/var/lib/nokubelet")
    right = json.dumps(product.manifests())
    wrong = json.loads(right.replace("/host/var/lib/kubelet", "/host/var/lib/nokubelet"))
    monkeypatch.setattr(product, "manifests", lambda: wrong)
    elsewhere.mkdir()
    try:
        with daemonset.running(product, node) as name:
            command = f"{BIN}/hotnic-agent doctor --json || true"
            out = product.cluster.kubectl("exec", "-n", NAMESPACE, name, "-c", "agent", "--", "sh", "-c", command)
    finally:
        elsewhere.rmdir()
    told = doctor.Told(1, tuple(map(json.loads, out.splitlines())))
    assert told.wrong == {"kubelet's directory"}, out
    found = told.of("kubelet's directory", "fail")
    assert "the kubelet uses /var/lib/kubelet, " in found
    assert "kubeletDir in settings.yaml" not in told.of("kubelet's directory", "warn")
    assert "covered is /var/lib/nokubelet" in found
    assert "set kubeletDir in settings.yaml to /var/lib/kubelet, " in found
