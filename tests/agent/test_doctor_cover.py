"""Which directory is the kubelet's, and whether it is covered: from mounts as a kubelet makes them for the agent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.doctor import cover
from agent.doctor.contract import Kubelet

HOST, POD = Path("/host"), "/pods/0b7f-5c"
VOLUMES = f"{POD}/volumes/kubernetes.io~"
LINE = "{number} 1 {device} {root} {point} rw,relatime shared:7 - ext4 /dev/sda rw"


@pytest.fixture
def seen(monkeypatch):
    """Return what is seen with these mounts, each (device, root, point), where these directories are there."""

    def look(mounts, *there, root=HOST):
        lines = [
            LINE.format(number=number, device=device, root=mounted, point=point)
            for number, (device, mounted, point) in enumerate(mounts)
        ]
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: "".join(f"{line}\n" for line in lines))
        monkeypatch.setattr(cover.os.path, "isdir", lambda path: path in there)
        return cover.look(root)

    return look


def agent(folder: str, covered: str, device: str = "8:1") -> list[tuple[str, str, str]]:
    """Return the mounts of the agent's container on a node whose root is 8:1."""
    return [
        ("0:90", "/", "/"),
        ("0:91", "/", "/proc"),
        ("8:1", "/", "/host"),
        ("0:23", "/", "/host/run"),
        ("0:40", "/", f"/host{folder}{VOLUMES}projected/api-access"),  # the node's own, which came along
        (device, f"{folder}{VOLUMES}configmap/config", "/etc/hotnic"),
        (device, f"{folder}{VOLUMES}empty-dir/nothing", f"/host{covered}"),
        (device, f"{folder}{POD}/containers/agent/1f", "/dev/termination-log"),
    ]


def test_covered_as_configured(seen):
    mounts = agent("/var/lib/kubelet", "/var/lib/kubelet")
    assert seen(mounts) == Kubelet((), ("/var/lib/kubelet",), ("/var/lib/kubelet",))


def test_another_directory_was_named(seen):
    mounts = agent("/var/lib/kubelet", "/var/lib/nokubelet")
    found = seen(mounts, f"/host/var/lib/kubelet{POD}")
    assert found == Kubelet(("/var/lib/kubelet",), (), ("/var/lib/nokubelet",))


def test_mounts_of_others_that_came_along_with_the_node_say_nothing_of_ours(seen):
    mounts = [*agent("/k", "/k"), ("8:1", f"/former{VOLUMES}configmap/x/file", "/host/elsewhere/file")]
    assert seen(mounts, f"/host/former{POD}") == Kubelet((), ("/k",), ("/k",))


def test_a_file_system_of_its_own(seen):
    """The node's root came with the mounts below it; the cover is one more over that."""
    mounts = [
        *agent("", "/var/lib/nokubelet", device="8:2"),
        ("8:2", "/", "/host/data\\040disk"),
    ]
    assert seen(mounts, f"/host/data disk{POD}").lies_open == ("/data disk",)
    assert seen(mounts) == Kubelet((), ("/data disk",), ("/var/lib/nokubelet",))


def test_a_directory_with_two_names_has_to_be_covered_twice(seen):
    mounts = [*agent("/data/kubelet", "/var/lib/kubelet"), ("8:1", "/data/kubelet", "/host/var/lib/kubelet")]
    found = seen(mounts, f"/host/data/kubelet{POD}")
    assert (found.lies_open, found.covered) == (("/data/kubelet",), ("/var/lib/kubelet",))


def test_the_container_in_its_own_view_is_no_finding(seen):
    """containerd has it below /run, which it mounts after the node's root: with the node once more, and not covered."""
    rootfs = "/host/run/containerd/tasks/1f/rootfs"
    mounts = [
        *agent("/k", "/k"),
        ("0:90", "/", rootfs),
        ("8:1", "/", f"{rootfs}/host"),
        ("8:1", f"/k{VOLUMES}configmap/config", f"{rootfs}/etc/hotnic"),
    ]
    assert seen(mounts, f"{rootfs}/host/k{POD}") == Kubelet((), ("/k",), ("/k",))
    assert seen(mounts) == Kubelet((), ("/k",), ("/k",))
    wrong = [*agent("/k", "/other"), ("8:1", "/", f"{rootfs}/host")]
    found = seen(wrong, f"{rootfs}/host/k{POD}", f"/host/k{POD}")
    assert found == Kubelet(("/k",), (), ("/other",))


def test_a_root_that_is_itself_a_folder_of_its_file_system(seen):
    """As on btrfs, and where the node is a container."""
    mounts = [("0:50", "/@", "/host"), ("0:50", f"/@/k{VOLUMES}configmap/config", "/etc/hotnic")]
    assert seen(mounts, f"/host/k{POD}") == Kubelet(("/k",))


def test_a_kubelet_whose_directory_is_not_below_the_root_is_not_told(seen):
    assert seen([("8:1", "/", "/host"), ("8:7", f"/k{VOLUMES}configmap/config", "/etc/hotnic")]) == Kubelet()
    assert seen([("8:1", "/r", "/host"), ("8:1", f"/k{VOLUMES}configmap/config", "/etc/hotnic")]) == Kubelet()


def test_without_a_root_of_the_node_or_a_kubelet_nothing_is_told(seen):
    assert seen(agent("/var/lib/kubelet", "/x"), f"/host/var/lib/kubelet{POD}", root=None) == Kubelet()
    assert seen([("8:1", "/", "/"), ("8:1", "/", "/host")]) == Kubelet()


CONTAINER = """
set -e
mount --make-rprivate /
mount --bind {node} {host}
mount --bind {node}{volumes}configmap/config {node}/mine
mount --bind {node}{volumes}empty-dir/nothing {host}{covered}
exec {python} -c 'import json, sys
from dataclasses import asdict
from pathlib import Path
from agent.doctor import cover
print(json.dumps(asdict(cover.look(Path(sys.argv[1])))))' {host}
"""


@pytest.mark.netns
@pytest.mark.parametrize(
    ("covered", "expected"),
    [
        ("/k", {"lies_open": [], "covered": ["/k"], "covers": ["/k"]}),
        ("/other", {"lies_open": ["/k"], "covered": [], "covers": ["/other"]}),
    ],
)
def test_with_mounts_of_the_kernel(tmp_path, covered, expected):
    node, host = tmp_path / "node", tmp_path / "host"
    for folder in (host, node / "mine", node / "other"):
        folder.mkdir(parents=True)
    for name in ("configmap/config", "empty-dir/nothing"):
        Path(f"{node}/k{VOLUMES}{name}").mkdir(parents=True)
    script = CONTAINER.format(node=node, host=host, volumes=f"/k{VOLUMES}", covered=covered, python=sys.executable)
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
