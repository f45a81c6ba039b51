"""The scorecards: hotnic with each of its devices, which has to have full marks, and the reference plugins."""

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from e2e import build, debs
from tests.conformance import suite
from tests.conformance.case import Level
from tests.kernel_features import needs

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).parent / "configs"
NEEDED = ("dummy", "ipvlan", "vlan")  # kinds that are kernel features as well: these run where there is a whole kernel
DEVICES = sorted(path.stem for path in CONFIGS.glob("*.json") if not path.stem.startswith("reference-"))
NUMBERS = [item.number for item in suite.items()]
ALL_POINTS = "100000"
MUSTS = [item.number for item in suite.items() if item.level is Level.MUST]
# those take six minutes each in the emulated machine: there it is what the specification demands, in its newest version
LESS = ("--versions", "1.1.0", "--only", ",".join(MUSTS))
FEW_POINTS = "2"  # what is killed at every point for each device, without a restart: tests/agent/test_killed_kernel.py

AGENT = (
    f"{Path(sys.executable).parent}/hotnic-agent --cri '' --state-dir {{dir}}/state --cni-bin-dir {{dir}}/bin"
    f" --cni-conf-dir {{dir}}/net.d --cni-cache-dir {{dir}}/cache --policy {CONFIGS}/agent-policy.yaml"
)
OPENVSWITCH = f"{sys.executable} -m tests.openvswitch {{dir}}/ovs"
VERIFIED_DEFECTS = {
    "bridge": {
        "1": "answers VERSION with 1.1.0 whatever it was asked with",
        "17v": "no cniVersion in errors (D10)",
        "30": "L2 in 0.2.0 fails after the link was made, and leaves it (D12)",
        "34": "acts in the node's own namespace, then adds an error to the result (D8)",
        "42": "leaves the interface when IPAM cannot be had (D2)",
        "42f": "leaves the interface when IPAM fails (D2)",
        "46": "echoes a route's mtu and advmss, but does not program them (D9)",
        "48": "drops prevResult (D11)",
        "65": "CHECK of an L2 network always fails (D1)",
        "69f": "GC is a success that does nothing",
    },
    "macvlan": {
        "1": "answers VERSION with 1.1.0 whatever it was asked with",
        "17v": "no cniVersion in errors (D10)",
        "30": "L2 in 0.2.0 fails after the link was made, and leaves it (D12)",
        "34": "acts in the node's own namespace, then adds an error to the result (D8)",
        "42": "leaves the interface when IPAM cannot be had (D2)",
        "42f": "leaves the interface when IPAM fails (D2)",
        "44": "no DEL of IPAM after a result without addresses",
        "46": "echoes a route's mtu and advmss, but does not program them (D9)",
        "69f": "GC is a success that does nothing",
    },
}
"""What is known of the reference plugins from their code and from runs by hand: the suite has to find it."""


@functools.cache
def scorecard(plugin: Path, config: str, *more: str) -> Mapping[str, Any] | str:
    """Return the suite's verdicts; a text where this kernel cannot run it."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "verdicts.json"
        command = [sys.executable, "-m", "tests.conformance", "--plugin", str(plugin)]
        command += ["--config", str(CONFIGS / f"{config}.json"), "--json", str(told), *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            return done.stdout.strip()
        assert told.exists(), f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return json.loads(told.read_text())


def hotnic(device: str) -> Mapping[str, Any] | str:
    points = ALL_POINTS if device == "bridge" else FEW_POINTS
    needs = ["--before", AGENT, "--ready", "/run/hotnic/cni.sock", "--state", "{dir}/state/records"]
    if device == "ovs":
        debs.unpacked(*debs.OPENVSWITCH)  # in its own namespaces nothing can be fetched
        needs += ["--service", OPENVSWITCH, "--service-ready", "{dir}/ovs/ready"]
    return scorecard(ROOT / "bin/hotnic", device, *needs, "--crash-points", points, *(LESS if device in NEEDED else ()))


def _marked(device: str, *more: str):
    return pytest.param(device, *more, marks=needs(device)) if device in NEEDED else pytest.param(device, *more)


@pytest.mark.parametrize(
    ("device", "number"),
    [_marked(device, number) for device in DEVICES for number in (MUSTS if device in NEEDED else NUMBERS)],
)
def test_hotnic_passes(device, number):
    card = hotnic(device)
    if isinstance(card, str):
        pytest.skip(card)
    seen = [
        f"{one['title']} ({one['version']}): {one['evidence']}"
        for one in card["verdicts"] if one["item"] == number and one["outcome"] not in ("pass", "not applicable")
    ]  # fmt: skip
    assert not seen, "\n".join(seen)


@pytest.mark.parametrize("device", [_marked(device) for device in DEVICES])
def test_hotnic_has_what_the_items_are_about(device):
    card = hotnic(device)
    if isinstance(card, str):
        pytest.skip(card)
    applicable = [number for number, outcome in card["items"].items() if outcome != "not applicable"]
    assert len(applicable) >= (20 if device in NEEDED else 70), (
        f"only {len(applicable)} items apply: {sorted(set(NUMBERS) - set(applicable))} do not"
    )


@pytest.mark.parametrize("reference", sorted(VERIFIED_DEFECTS))
def test_the_known_defects_of_a_reference_plugin_are_found(reference, capsys):
    card = scorecard(build.tools() / reference, f"reference-{reference}")
    assert not isinstance(card, str), card
    with capsys.disabled():
        sums = ", ".join(f"{level} {one['passed']} of {one['applicable']}" for level, one in card["sums"].items())
        print(f"\nscore of the reference plugin {reference}: {sums}")
    not_found = {number: VERIFIED_DEFECTS[reference][number] for number in VERIFIED_DEFECTS[reference]
                 if card["items"][number] != "fail"}  # fmt: skip
    assert not not_found
    assert "error" not in card["items"].values()
