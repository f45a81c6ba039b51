"""A release is one version: the manifests name the image that this tree makes, so that applying them rolls it out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import __main__ as agent
from controller import __main__ as controller
from image import __main__ as command
from image import oci, parts

ROOT = Path(__file__).parent.parent
IMAGE = f"hotnic:{parts.version()}"
WORKLOADS = ("base/daemonset.yaml", "components/kubevirt/deployment.yaml")


def pod(path: str) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((ROOT / "manifests" / path).read_text())["spec"]["template"]["spec"]
    return spec


def containers() -> Iterator[dict[str, Any]]:
    for path in WORKLOADS:
        spec = pod(path)
        yield from (*spec.get("initContainers", ()), *spec["containers"])


def test_the_manifests_name_the_image_of_this_version_everywhere():
    settings = yaml.safe_load((ROOT / "manifests/base/settings.yaml").read_text())["data"]
    assert settings["image"] == IMAGE
    assert {one["image"] for one in containers()} == {IMAGE}


def test_who_looks_why_an_agent_does_not_start_is_told_to_do_so_with_this_version():
    assert f"--image={IMAGE} " in (ROOT / "docs/install.md").read_text()


@pytest.mark.parametrize(("main", "name"), [(agent.main, "hotnic-agent"), (controller.main, "hotnic-controller")])
def test_the_programs_say_which_version_they_are(main, name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().out) == (0, f"{name} {parts.version()}\n")


def test_the_image_is_made_under_the_name_that_the_manifests_have(monkeypatch):
    made = []
    monkeypatch.setattr(command, "build", lambda output, tag, **_: made.append(tag))
    monkeypatch.setattr("sys.argv", ["image"])
    assert command.main() == 0
    assert made == [IMAGE]
    assert f"-t {IMAGE} ." in (ROOT / "image/Containerfile").read_text()


@pytest.mark.parametrize("path", WORKLOADS)
def test_pods_come_only_to_nodes_of_the_images_architecture(path):
    made = oci.image([], {}, {}, IMAGE, 0)
    config = next(json.loads(blob) for blob in made.blobs.values() if b'"rootfs"' in blob)
    assert pod(path)["nodeSelector"] == {
        "kubernetes.io/os": config["os"], "kubernetes.io/arch": config["architecture"],
    }  # fmt: skip


def test_why_a_container_has_ended_is_seen_in_the_description_of_its_pod():
    assert {one["name"]: one.get("terminationMessagePolicy") for one in containers()} == dict.fromkeys(
        ("seccomp-profile", "agent", "controller"), "FallbackToLogsOnError"
    )
