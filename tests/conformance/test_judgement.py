"""The suite's own judgement: each item fails a plugin that breaks it, and lets one pass that does not."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e import build
from tests.conformance import broken, case, fake_ipam, plugin, report, sandbox, suite, tracer
from tests.conformance.items import crash

PARTS = 4
NUMBERS = [item.number for item in suite.items()]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, str]]:
    folder: Path = tmp_path_factory.mktemp("judged")

    def part(number: int) -> dict[str, tuple[str, str, str]]:
        told = folder / f"{number}.json"
        module = ["tests.conformance.broken", str(build.tools()), f"{number}/{PARTS}", str(told)]
        assert sandbox.isolated(module) == 0
        return json.loads(told.read_text())

    with ThreadPoolExecutor(PARTS) as pool:
        return {number: one for told in pool.map(part, range(1, PARTS + 1)) for number, one in told.items()}


def test_every_item_is_tried_with_a_plugin_that_breaks_it():
    assert set(NUMBERS) == broken.ITEMS
    assert len(NUMBERS) == len(set(NUMBERS))


@pytest.mark.netns
@pytest.mark.parametrize("number", NUMBERS)
def test_a_plugin_that_breaks_it_fails(judged, number):
    assert judged[number][0] == "fail", judged[number][2]


@pytest.mark.netns
@pytest.mark.parametrize("number", sorted(set(NUMBERS) - broken.REFERENCE_FAILS))
def test_a_plugin_that_does_not_break_it_passes(judged, number):
    assert judged[number][1] == "pass"


def outcome(stdout: bytes, code: int = 1) -> plugin.Outcome:
    return plugin.Outcome(plugin.Call("/p", {"CNI_COMMAND": "ADD"}, b"{}"), code, stdout)


@pytest.mark.parametrize("stdout", [b"", b"[]", b"{} {}", b"no", b'{"code": "7"}', b'{"code": true}'])
def test_what_is_not_one_object_with_a_number_is_no_error_code(stdout):
    assert outcome(stdout).error()[0] is None


def test_the_evidence_is_a_command_that_a_shell_takes():
    call = plugin.Call("/opt/cni/bin/p", {"CNI_COMMAND": "ADD", "CNI_ARGS": "A=1;B=2"}, b'{"name": "it\'s"}')
    assert call.shell == """CNI_COMMAND=ADD CNI_ARGS='A=1;B=2' /opt/cni/bin/p <<< '{"name": "it'"'"'s"}'"""


def test_what_the_configuration_names_is_not_left_over():
    before = sandbox.State({"lo": "physical"}, frozenset(), frozenset({"/run/a"}))
    after = sandbox.State(
        {"lo": "physical", "br": "bridge", "v": "veth"}, frozenset({"chain x"}), frozenset({"/run/b"}), frozenset({"p"})
    )
    named = case.named_in({"bridge": "br", "deep": [{"x": "y"}], "mtu": 5})
    assert after.left_since(before, named) == (
        "link v (veth)", "nftables: chain x", "file /run/b", "a service says: p",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("total", "most", "chosen"),
    [(3, 60, [1, 2, 3]), (100, 4, [1, 34, 67, 100]), (61, 60, [*range(1, 31), *range(32, 62)])],
)
def test_the_points_to_die_at_are_all_or_evenly_spread_with_both_ends(total, most, chosen):
    assert list(crash.points(total, most)) == chosen


def verdict(number: str, judgement: suite.Judgement, level: case.Level = case.Level.MUST, version: str = "1.1.0"):
    return suite.Verdict(case.Item(number, "t", level, "§1", lambda _: None), version, judgement, "what was seen")


def test_an_item_counts_as_passed_only_if_no_version_fails_and_applies_if_it_does_in_one():
    passed, failed, absent = suite.Judgement.PASS, suite.Judgement.FAIL, suite.Judgement.NOT_APPLICABLE
    verdicts = [
        verdict("1", passed), verdict("1", failed, version="1.0.0"), verdict("2", passed), verdict("2", absent),
        verdict("3", absent), verdict("4", failed, case.Level.FIELD), verdict("5", suite.Judgement.ERROR),
    ]  # fmt: skip
    must, should, field = suite.sums(verdicts)
    assert (must.passed, must.applicable) == (1, 3)
    assert (should.passed, should.applicable) == (0, 0)
    assert (field.passed, field.applicable) == (0, 1)


def test_the_scorecard_has_the_evidence_of_what_failed_and_keeps_the_sums_apart():
    text = report.scorecard("/p", [verdict("1", suite.Judgement.FAIL), verdict("2", suite.Judgement.PASS)], ["a note"])
    assert "what was seen" in text
    assert text.count("what was seen") == 1
    assert [line.split()[:3] for line in text.splitlines() if " of " in line] == [
        ["1", "of", "2"], ["0", "of", "0"], ["0", "of", "0"],
    ]  # fmt: skip
    assert text.endswith("a note")


def test_the_fake_ipam_plugin_answers_in_the_form_of_the_version(tmp_path):
    (tmp_path / "bin").mkdir()
    fake = fake_ipam.FakeIPAM(tmp_path / "bin", tmp_path / "home")
    for version, has_family in (("0.4.0", True), ("1.0.0", False)):
        fake.reset(version)
        call = plugin.Call(
            str(tmp_path / "bin" / fake_ipam.NAME), {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c"}, b"in"
        )
        (address,) = plugin.run(call).document()["ips"]
        assert ("version" in address) is has_family
        assert [(one.command, one.stdin) for one in fake.calls()] == [("ADD", b"in")]
        assert fake.records() == {"c."}


@pytest.mark.netns
@pytest.mark.parametrize("victim", tracer.Victim)
def test_who_is_to_die_dies_before_what_it_would_have_done_and_nobody_else(tmp_path, victim):
    """Three effects of the process's own, two of its child's."""

    def act() -> None:
        (tmp_path / "own-1").mkdir()
        (tmp_path / "own-2").mkdir()
        subprocess.run(["mkdir", tmp_path / "child-1", tmp_path / "child-2"], check=False)
        (tmp_path / "own-3").mkdir()

    whole = tracer.call(act, 0, victim).seen
    left = {path.name: path.rmdir() for path in tmp_path.iterdir()}
    assert len(left) == 5
    seen = []
    for point in range(1, whole + 1):
        end = tracer.call(act, point, victim)
        assert (end.seen, bool(end.before)) == (point, True)
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        for path in tmp_path.iterdir():
            path.rmdir()
    assert (seen[0] == []) is (victim is tracer.Victim.SELF)
    if victim is tracer.Victim.SELF:
        assert ["own-1"] in seen
        assert ["own-1", "own-2"] in seen
    else:
        assert ["own-1", "own-2", "own-3"] in seen
        assert ["child-1", "own-1", "own-2", "own-3"] in seen
