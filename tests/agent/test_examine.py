"""What is known to fail is refused by the look at a wish alone: with nothing journalled, executed or taken away."""

import json
from pathlib import Path

import pytest

from agent import netns
from agent.attach import Attachments, Settings
from agent.delegate import Executor
from agent.device import Native
from agent.journal import Journal
from agent.model import KUBEVIRT, NotReady, Refused, Wanted
from agent.netlink import Kernel
from agent.policy import Policy, Rule
from cni import multinet

HOTNIC = {"type": "hotnic", "device": "bridge"}


@pytest.fixture
def examine(tmp_path):
    """Examine the wish for a network of these plugins; there are the plugins `host-local` and `tuning`."""
    bin_dir, ran = tmp_path / "bin", tmp_path / "ran"
    bin_dir.mkdir()
    for name in ("host-local", "tuning"):
        (bin_dir / name).write_text(f"#!/bin/sh\n: > {ran}\n")
        (bin_dir / name).chmod(0o755)
    journal, kernel, execute, view = Journal(tmp_path / "state"), Kernel(), Executor([bin_dir]), netns.View()
    native = Native(kernel, execute, view, journal)

    def run(*plugins, rules: tuple[Rule, ...] | None = None, vm: str = "", **wished: str) -> None:
        settings = Settings((bin_dir,), (), view, policy=Policy(rules))
        attachments = Attachments(journal, kernel, native, execute, settings)
        (selection,) = multinet.parse(json.dumps([{"name": "blue", "interface": "net1", **wished}]), "ns")
        document = {"cniVersion": "1.0.0", "name": "blue", "plugins": list(plugins)}
        try:
            attachments.examine(Wanted(selection, json.dumps(document)), vm)
        finally:
            assert (journal.records(), Path(ran).exists()) == ((), False)

    yield run
    kernel.close()
    journal.close()


@pytest.mark.parametrize(
    "plugins",
    [
        (HOTNIC,),
        ({**HOTNIC, "ipam": {}},),
        ({**HOTNIC, "ipam": {"type": "host-local"}},),
        ({**HOTNIC, "ipam": {"type": "host-local"}}, {"type": "tuning"}),
        ({"type": "tuning", "ipam": {"type": "host-local"}},),
        ({"type": "tuning", "ipam": "its own business"},),
    ],
)
def test_nothing_is_said_of_what_may_well_succeed(examine, plugins):
    examine(*plugins)


@pytest.mark.parametrize(
    ("plugins", "reason", "named"),
    [
        (({**HOTNIC, "ipam": {"type": "nosuch"}},), "PluginFailed", "no plugin 'nosuch'"),
        (({"type": "tuning", "ipam": {"type": "nosuch"}},), "PluginFailed", "no plugin 'nosuch'"),
        ((HOTNIC, {"type": "absent"}), "PluginFailed", "no plugin 'absent'"),
        (({"type": "absent"},), "PluginFailed", "no plugin 'absent'"),
        (({**HOTNIC, "ipam": {"type": "../host-local"}},), "InvalidConfiguration", "../host-local"),
        (({**HOTNIC, "ipam": {"type": 5}},), "InvalidConfiguration", "ipam.type=5"),
        (({**HOTNIC, "ipam": ["host-local"]},), "InvalidConfiguration", "ipam=['host-local']"),
        (({**HOTNIC, "ipam": {"type": "hotnic"}},), "InvalidConfiguration", "gives no addresses"),
        (({**HOTNIC, "master": "eth0"},), "InvalidConfiguration", "master='eth0'"),
    ],
)
def test_what_is_known_to_fail_is_refused_and_named(examine, plugins, reason, named):
    with pytest.raises(NotReady) as caught:
        examine(*plugins)
    assert (caught.value.reason, named in str(caught.value)) == (reason, True), caught.value


def test_an_ipam_plugin_that_the_policy_forbids_is_refused_though_it_is_there(examine):
    rule = Rule(("*",), plugins=("*",), ipam=("static",), devices=("*",), bridges=("*",))
    with pytest.raises(Refused, match="host-local"):
        examine({**HOTNIC, "ipam": {"type": "host-local"}}, rules=(rule,))


MAC = "02:00:00:00:00:01"


def test_a_mac_that_no_plugin_would_see_is_refused_but_for_kubevirt_which_sets_it_itself(examine):
    with pytest.raises(Refused, match="does not declare: mac"):
        examine(HOTNIC, mac=MAC)
    with pytest.raises(Refused, match="does not declare: mac"):
        examine(HOTNIC, mac=MAC, vm='{"qmp": "/q"}')
    examine(HOTNIC, mac=MAC, vm=KUBEVIRT)
    examine({**HOTNIC, "capabilities": {"mac": True}}, mac=MAC)
    with pytest.raises(Refused, match="does not declare: ips"):
        examine(HOTNIC, mac=MAC, ips=["10.0.0.1/24"], vm=KUBEVIRT)
