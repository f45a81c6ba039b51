"""State directories of older versions are brought forward, whatever ends that; those of newer ones are left alone.

`states/` has directories as the versions before wrote them: `<format>-<what had come until then>`.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from agent import __main__ as agent_main
from agent import codec, files, formats, underlay
from agent.audit.look import Node
from agent.journal import Journal
from agent.model import (
    Asked,
    ContainerID,
    Desired,
    Displaced,
    Hold,
    Key,
    Namespace,
    Origin,
    Phase,
    Pod,
    PodUID,
    Record,
    Wanted,
)
from agent.model import State as Progress
from agent.peers import Peers
from cni import multinet

STATES = sorted(path.name for path in (Path(__file__).parent / "states").iterdir())
POD = Pod(PodUID("6f1c2d3e-0000-4000-8000-000000000001"), "shop", "till-0")
ELEMENT = '{"name":"blue","namespace":"shop","interface":"net1"}'
CONFIG = '{"cniVersion":"1.1.0","name":"blue","type":"hotnic","device":"bridge","bridge":"br-blue"}'
SANDBOX = ContainerID("c" * 64)
LINK = {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/var/run/netns/cni-0b1c"}


def came(state: str, version: str) -> bool:
    """Whether what came with that version is in the directory."""
    order = ("first", "with-keep", "with-saved", "with-machines", "with-cookie", "with-sum")
    return order.index(state.partition("-")[2]) >= order.index(version)


def namespace(state: str) -> Namespace:
    cookie = 8193 if came(state, "with-cookie") else 0
    return Namespace("/var/run/netns/cni-0b1c", 4, 4026532000, cookie, "2f1e-boot" if came(state, "with-sum") else "")


def records(state: str) -> list[Record]:
    """What was written, as far as the version could write it."""
    of_pod = Record(
        Key(SANDBOX, "net1"), Origin.ANNOTATION, Phase.ATTACHED, "shop/blue", ELEMENT, CONFIG, namespace(state), POD,
        args=(("IgnoreUnknown", "true"), ("K8S_POD_NAME", "till-0")), runtime={"mac": "02:00:00:00:00:01"},
        cni_args={"a": {"b": 1}}, result={"cniVersion": "1.1.0", "interfaces": [LINK]}, ifindex=7,
        displaced=(Displaced("10.0.0.1", "eth0", None),),
        saved={"claims": ["br-blue"]} if came(state, "with-saved") else {},
        guest={"nic": "hn-net1"} if came(state, "with-machines") else {},
        nad_uid="9a", nad_resource_version="12", sequence=1,
    )  # fmt: skip
    of_runtime = Record(
        Key(ContainerID("pod-of-podman"), "eth1"), Origin.ANNOTATION, Phase.ADDING, "", "", CONFIG, namespace(state),
        runtime={"mac": "02:00:00:00:00:01"}, nad_uid="9a", nad_resource_version="12", sequence=2,
    )  # fmt: skip
    return [of_pod, of_runtime]


def desired(state: str) -> Desired:
    return Desired(
        POD, "r7",
        (Wanted(multinet.Selection("shop", "blue", interface="net1"), CONFIG, "9a", "12"),
         Wanted(multinet.Selection("shop", "red"), "", "", "",
                Hold(Progress.PENDING, "NetworkNotFound", "no network shop/red"))),
        keep=("typo0",) if came(state, "with-keep") else (),
        vm='{"qmp":"/run/vm/qmp.sock"}' if came(state, "with-machines") else "",
        asked=(Asked(ELEMENT, "blue"),), released=("net9 shop/green",), examined=(SANDBOX,),
    )  # fmt: skip


def contents(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def assert_whole(directory: Path, state: str) -> None:
    journal = Journal(directory)
    try:
        assert sorted(journal.records(), key=lambda record: record.sequence) == records(state)
        assert journal.pods() == (desired(state),)
        assert journal.damaged() == 0
    finally:
        journal.close()
    assert (directory / "format").read_text() == f"{formats.CURRENT}\n"
    assert sorted(os.listdir(directory / "records")) == sorted(
        os.listdir(Path(__file__).parent / f"states/{state}/records")
    )
    told = underlay.told("192.0.2.1", {"n2": "192.0.2.2"}) if came(state, "with-machines") else None
    assert Peers(directory).get() == told


@pytest.fixture(params=STATES)
def state(request):
    return request.param


@pytest.fixture
def old(tmp_path, state):
    """A directory as an older version left it."""
    directory = tmp_path / "hotnic"
    shutil.copytree(Path(__file__).parent / "states" / state, directory)
    return directory


def test_nothing_of_an_older_directory_is_lost(old, state):
    assert_whole(old, state)
    assert_whole(old, state)


def test_every_file_of_it_is_whole_afterwards_as_this_version_writes_it(old):
    Journal(old).close()
    for path in (old / "records").iterdir():
        document = files.read(path)
        assert document == {**codec.encode_record(codec.decode_record(document)), "crc32": document["crc32"]}
    for path in (old / "pods").iterdir():
        document = files.read(path)
        assert document == {**codec.encode_desired(codec.decode_desired(document)), "crc32": document["crc32"]}


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("effect", ["rename", "fsync", "fdatasync"])
def test_a_crash_at_any_step_loses_nothing_and_keeps_older_agents_away(old, state, monkeypatch, effect):
    """Ended before each rename and each sync in turn, until one start gets through."""
    owner = Path if effect == "rename" else os
    real, before, steps = getattr(owner, effect), contents(old), 0
    while True:
        left = [steps]

        def step(*arguments, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments)

        monkeypatch.setattr(owner, effect, step)
        try:
            Journal(old).close()
        except Killed:
            steps += 1
        else:
            break
        finally:
            monkeypatch.undo()
        changed = {name for name, content in contents(old).items() if before.get(name, content) != content}
        if changed - {"format"}:
            assert (old / "format").read_text() != "1\n", "an agent of format 1 would take it for its own"
    assert steps >= (2 if effect != "fdatasync" else 0 if state == "1-with-sum" else 2)
    assert_whole(old, state)
    assert not list(old.rglob("*.tmp"))


def test_a_damaged_file_of_an_older_directory_is_set_aside_as_ever_and_hides_no_other(old, state):
    path = max((old / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    journal = Journal(old)
    assert (len(journal.records()), journal.damaged()) == (1, 1)
    journal.close()
    assert (old / "damaged" / path.name).exists()


def test_a_directory_that_lost_its_version_in_a_power_cut_is_read_as_the_oldest(old, state):
    (old / "format").write_bytes(b"")
    assert_whole(old, state)


@pytest.mark.parametrize("text", ["3", "3 from 2", "3 from 1", "99", "2 from 3", "0", "1.5", "two", "2 from", "\xff"])
def test_what_this_version_cannot_read_is_refused_and_not_one_byte_of_it_changes(tmp_path, text):
    directory = tmp_path / "hotnic"
    shutil.copytree(Path(__file__).parent / "states/1-first", directory)
    (directory / "format").write_text(f"{text}\n")
    before, there = contents(directory), sorted(os.listdir(directory))
    with pytest.raises(ValueError, match="reads 1 to 2") as told:
        Journal(directory)
    assert str(directory) in str(told.value)
    assert text in str(told.value)
    assert contents(directory) == before
    assert set(os.listdir(directory)) - set(there) <= {"lock"}
    (directory / "format").write_text("1\n")
    Journal(directory).close()  # the refusal holds nothing


def test_the_agent_refuses_a_downgrade_before_it_touches_anything_of_a_running_node(tmp_path, monkeypatch, capsys):
    directory, run = tmp_path / "hotnic", tmp_path / "run"
    shutil.copytree(Path(__file__).parent / "states/1-with-sum", directory)
    (directory / "format").write_text("3\n")
    run.mkdir()
    for name in ("agent.sock", "cni.sock"):
        (run / name).touch()
    before = contents(directory)
    arguments = ["--state-dir", str(directory), "--run-dir", str(run), "--cri", ""]
    monkeypatch.setattr("sys.argv", ["hotnic-agent", *arguments])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert agent_main.main() == 2
    told = capsys.readouterr().err
    assert str(directory) in told
    assert "version '3'" in told
    assert "reads 1 to 2" in told
    assert contents(directory) == before
    assert sorted(os.listdir(run)) == ["agent.sock", "cni.sock"]


def test_the_audit_reads_an_older_directory_as_it_is_and_says_that_it_cannot_read_a_newer_one(old, state):
    before = contents(old)
    node = Node.__new__(Node)  # what reads the journals, and nothing else of a node
    object.__setattr__(node, "blind", [])
    found = list(Node._records(node, old))
    assert sorted(found, key=lambda record: record.sequence) == records(state)
    assert node.blind == []
    (old / "format").write_text("3\n")
    list(Node._records(node, old))
    assert len(node.blind) == 1
    assert "version '3'" in node.blind[0]
    assert contents(old) == {**before, "format": b"3\n"}


def test_the_states_are_what_the_versions_wrote(state, old):
    """They differ as they should: else the tests above would read the present format."""
    document = json.loads(max((old / "records").iterdir()).read_bytes())
    assert (old / "format").read_text() == "1\n"
    assert ("saved" in document, "guest" in document, len(document["netns"]), "crc32" in document) == (
        came(state, "with-saved"),
        came(state, "with-machines"),
        5 if came(state, "with-sum") else 4 if came(state, "with-cookie") else 3,
        came(state, "with-sum"),
    )
