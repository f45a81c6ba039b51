"""A virtual machine without a guest: QEMU's monitor and guest agent, as far as NICs need them, in a pod's namespace.

Rules
1. It is a process of its own, which outlives the agent; one client at a time, as QEMU's monitor has.
2. It holds the taps that it was given, and lets go of them as QEMU does: a device that has gone leaves its backend.
3. What it has is in a file for whoever audits, written before each answer.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent import netns

GREETING = {"QMP": {"version": {"qemu": {"major": 8, "minor": 0, "micro": 0}, "package": ""}, "capabilities": []}}
QMP, AGENT, STATE = "qmp.sock", "qga.sock", "machine.json"


class Refused(Exception):
    """`args`: class and words of QEMU's error."""


class Machine:
    """What there is in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._given: dict[str, int] = {}
        self._backends: dict[str, int] = {}
        self._devices: dict[str, dict[str, Any]] = {}
        self._news: list[Mapping[str, Any]] = []
        self.write()

    def write(self) -> None:
        temporary = self._folder / f"{STATE}.new"
        nics = {name: one["mac"] for name, one in self._devices.items()}
        temporary.write_text(json.dumps({"nics": nics, "taps": sorted([*self._backends, *self._given])}))
        temporary.rename(self._folder / STATE)

    def interfaces(self) -> list[Mapping[str, Any]]:
        return [{"name": name, "hardware-address": one["mac"]} for name, one in self._devices.items()]

    def answer(  # noqa: C901 -- one command after the other
        self, command: str, arguments: Mapping[str, Any], fds: list[int]
    ) -> Any:
        """Do what is asked. Raises Refused."""
        match command:
            case "query-status":
                return {"status": "running"}
            case "qom-list":
                return self._listed(arguments["path"])
            case "qom-get":
                return {"parent_bus": "/machine/i440fx/pci.0", "addr": 4}.get(arguments["property"])
            case "x-query-virtio-status":
                return {"status": {"statuses": ["VIRTIO_CONFIG_S_DRIVER_OK"]}}
            case "device-list-properties":
                return [{"name": "host_mtu"}]
            case "getfd":
                self._close(self._given, arguments["fdname"])
                self._given[arguments["fdname"]] = fds.pop()
            case "closefd":
                self._refuse_unknown(self._given, arguments["fdname"], "GenericError")
                self._close(self._given, arguments["fdname"])
            case "netdev_add":
                self._refuse_known(self._backends, arguments["id"])
                self._refuse_unknown(self._given, arguments["fd"], "GenericError")
                self._backends[arguments["id"]] = self._given.pop(arguments["fd"])
            case "netdev_del":
                self._refuse_unknown(self._backends, arguments["id"], "DeviceNotFound")
                self._close(self._backends, arguments["id"])
            case "device_add":
                self._refuse_known(self._devices, arguments["id"])
                self._refuse_unknown(self._backends, arguments["netdev"], "GenericError")
                self._devices[arguments["id"]] = dict(arguments)
            case "device_del":
                self._refuse_unknown(self._devices, arguments["id"], "DeviceNotFound")
                del self._devices[arguments["id"]]
                self._news.append({"event": "DEVICE_DELETED", "data": {"device": arguments["id"]}})
        return {}

    def news(self) -> Iterator[Mapping[str, Any]]:
        while self._news:
            yield self._news.pop()

    def _listed(self, path: str) -> list[Mapping[str, str]]:
        if path == "/machine":
            return [{"name": "i440fx", "type": "link"}]
        names = self._devices if path == "/machine/peripheral" else ()
        return [{"name": name, "type": "child<virtio-net-pci>"} for name in names]

    @staticmethod
    def _close(held: dict[str, int], name: str) -> None:
        if (fd := held.pop(name, None)) is not None:
            os.close(fd)

    @staticmethod
    def _refuse_known(held: Mapping[str, Any], name: str) -> None:
        if name in held:
            raise Refused("GenericError", f"Duplicate ID '{name}'")

    @staticmethod
    def _refuse_unknown(held: Mapping[str, Any], name: str, kind: str) -> None:
        if name not in held:
            raise Refused(kind, f"'{name}' not found")


def main(asked: Mapping[str, Any]) -> None:
    """Serve in the namespace `netns`, at sockets in `folder`, until killed."""
    folder = Path(asked["folder"])
    fd = os.open(asked["netns"], os.O_RDONLY)
    netns._setns(fd)  # the whole process stays there
    machine = Machine(folder)
    agent = _listening(folder / AGENT)
    threading.Thread(target=_serve_agent, args=(agent, machine), daemon=True).start()
    monitor = _listening(folder / QMP)
    while True:
        client, _ = monitor.accept()
        with client:
            try:
                _serve(client, machine)
            except OSError:
                continue


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    return listener


def _serve(client: socket.socket, machine: Machine) -> None:
    _say(client, GREETING)
    data, fds = b"", []
    while True:
        chunk, new, _, _ = socket.recv_fds(client, 65536, 4)
        if not chunk:
            return
        data, fds = data + chunk, [*fds, *new]
        *lines, data = data.split(b"\n")
        for line in filter(None, lines):
            said = json.loads(line)
            try:
                reply = {"return": machine.answer(said["execute"], said.get("arguments", {}), fds)}
            except Refused as refusal:
                kind, text = refusal.args
                reply = {"error": {"class": kind, "desc": text}}
            machine.write()
            for event in machine.news():
                _say(client, event)
            _say(client, {**reply, "id": said.get("id")})


def _serve_agent(listener: socket.socket, machine: Machine) -> None:
    while True:
        client, _ = listener.accept()
        with client, client.makefile("rb") as lines:
            try:
                for line in lines:
                    said = json.loads(line.lstrip(b"\xff"))
                    if said["execute"] == "guest-sync-delimited":
                        client.sendall(b"\xff" + json.dumps({"return": said["arguments"]["id"]}).encode() + b"\n")
                    else:
                        _say(client, {"return": machine.interfaces()})
            except OSError:
                continue


def _say(client: socket.socket, message: Mapping[str, Any]) -> None:
    client.sendall(json.dumps(message).encode() + b"\r\n")
