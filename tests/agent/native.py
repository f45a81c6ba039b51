"""A native device called as a plugin is, on the real kernel: what its tests share.

from tests.agent.native import Plugin, ip, link

Plugin(pod_netns, device="macvlan", master="m0")("ADD")     verb, optionally ifname=, container=, more configuration
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent import netns
from agent.device import Native
from agent.netlink import Kernel
from cni import errors

CONTAINER = "c" * 64


def ip(*arguments: str, netns: str = "") -> list[dict[str, Any]]:
    prefix = ["ip", "netns", "exec", Path(netns).name] if netns else []
    run = subprocess.run([*prefix, "ip", "-json", *arguments], check=True, capture_output=True, text=True)
    return json.loads(run.stdout or "[]")


def link(name: str, netns: str = "") -> dict[str, Any] | None:
    return next((one for one in ip("-d", "link", netns=netns) if one["ifname"] == name), None)


class FakeIPAM:
    """Says what it was asked, and answers with what the test wants."""

    def __init__(self, answer: Mapping[str, Any] | errors.CNIError) -> None:
        self.answer, self.calls = answer, []

    def __call__(self, plugin_type, command, env, config, deadline_s):
        self.calls.append((plugin_type, command, env["CNI_COMMAND"], config["ipam"]))
        if command != "ADD":
            return None
        if isinstance(self.answer, errors.CNIError):
            raise self.answer
        return self.answer


class Notes(dict):
    """In place of the journal."""

    def saved(self, key):
        return self.get(key, {})

    def save(self, key, note):
        self[key] = note

    def made(self, key, ifindex):
        pass

    def records(self):
        return ()


KERNELS: list[Kernel] = []  # of the test that runs (fixture `kernel`)


class Plugin:
    """One attachment of the device, called as a plugin is."""

    def __init__(self, pod_netns: str, fake: "FakeIPAM | None" = None, **config: Any) -> None:
        self.notes = Notes()
        self.native = Native(KERNELS[-1], fake or FakeIPAM({}), netns.View(), self.notes)
        self.config = {
            "cniVersion": "1.1.0",
            "name": "n",
            "type": "hotnic",
            **config,
        }
        self.netns = pod_netns

    def __call__(self, command: str, ifname: str = "net1", container: str = CONTAINER, **config: Any):
        env = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname, "CNI_NETNS": self.netns}
        return self.native(command, env, {**self.config, **config}, 10.0)

    def update(self, before: Mapping[str, Any], ifname: str = "net1", **config: Any):
        env = {"CNI_CONTAINERID": CONTAINER, "CNI_IFNAME": ifname, "CNI_NETNS": self.netns}
        return self.native.update(env, {**self.config, **config}, 10.0, before)


def ping(path: str, address: str, *options: str) -> None:
    """One answer within three tries, or the test fails."""
    command = ["ip", "netns", "exec", Path(path).name, "busybox", "ping", "-c", "1", "-W", "2", *options, address]
    for _ in range(3):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
    raise AssertionError(f"{address} does not answer")
