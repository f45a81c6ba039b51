"""The one image in all of its roles, with the users and rights of the manifests."""

import hashlib

import pytest
import yaml

from e2e import installed
from e2e.product import NAMESPACE, REPOSITORY, manifests
from e2e.relay import scene
from image import parts

pytestmark = [
    pytest.mark.lane,
    pytest.mark.skipif(not installed.is_chosen(), reason="is about the image: the lane `hotnic installed` has it"),
]

WHO = "import os; print(os.getuid(), os.getgid())"
WRITES = """
import pathlib
for name in ("/mine", "/tmp/mine", "/usr/bin/mine"):
    try:
        pathlib.Path(name).touch()
    except OSError as refusal:
        print(name, refusal.strerror)
"""
READ_ONLY = [f"{name} Read-only file system" for name in ("/mine", "/tmp/mine", "/usr/bin/mine")]
VERSION = "import importlib.metadata; print(importlib.metadata.version('hotnic'))"


@pytest.fixture
def relay(product):
    """The Deployment of the overlay for KubeVirt, in a cluster that has KubeVirt's definitions."""
    cluster = product.cluster
    scene.define_machines(cluster)
    text = yaml.safe_dump_all(
        one
        for one in manifests(cluster, "manifests/overlays/kubevirt")
        if one["kind"] == "ConfigMap" or one["metadata"]["name"].startswith("hotnic-cluster")
    )
    cluster.kubectl("apply", "--server-side", "-f", "-", input=text)
    yield "deployment/hotnic-cluster"
    cluster.kubectl("delete", "--cascade=foreground", "--wait", "-f", "-", input=text)


def test_every_role_runs_from_it_on_a_root_that_cannot_be_written(cluster, relay):
    def run(who: str, container: str, *command: str) -> str:
        return cluster.kubectl("exec", "-n", NAMESPACE, who, "-c", container, "--", *command)

    arguments = ("rollout", "status", relay, "-n", NAMESPACE, "--timeout=120s")
    cluster.kubectl(*arguments, timeout=130)
    roles = {("daemonset/hotnic", "agent"): "0 0", ("daemonset/hotnic", "controller"): "65414 65414",
             (relay, "controller"): "65532 65532"}  # fmt: skip
    for role, user in roles.items():
        assert run(*role, "python3.11", "-I", "-c", WHO).strip() == user
        assert run(*role, "python3.11", "-I", "-c", WRITES).splitlines() == READ_ONLY
    assert run(relay, "controller", "python3.11", "-I", "-c", VERSION).strip() == parts.version()
    for name in parts.COMMANDS:
        assert run("daemonset/hotnic", "agent", name, "--help").startswith(f"usage: {name} ")
    for name in ("hotnic", "hotnic.py"):
        script = f"import hashlib; print(hashlib.sha256(open('/{parts.EXECUTABLES}/{name}', 'rb').read()).hexdigest())"
        ours = hashlib.sha256((REPOSITORY / "bin" / name).read_bytes()).hexdigest()
        assert run("daemonset/hotnic", "agent", "python3.11", "-I", "-c", script).strip() == ours
