"""Pure: the device `ovs`: a veth pair, its host end a port of an Open vSwitch bridge, made so over OVSDB.

Options are named as in the plugin `ovs` of k8snetworkplumbingwg, except that its file of defaults
(`configuration_path`) and its offloaded VFs (`deviceID`) are refused.

Rules
1. The port is known by the derived name of the host end, and is ours if its external ID says so. A port of that name
   that is not ours is a conflict, and is never removed.
2. The switch's database outlives reboots, and our links do not. So the port is removed by what the database says,
   whether or not the link is there; and ports of ours whose link is gone for good leave with the next change.
3. `vlan` makes an access port, `trunk` a trunk, both a trunk whose untagged frames are of that VLAN; neither a trunk
   of all VLANs, as Open vSwitch has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import options
from agent.devices import vlan_ids
from agent.devices.contract import Device
from agent.devices.veth_pair import Pair
from agent.links import Have, Interface, Link, Read, Step
from agent.switch import AddPort, Port, RemovePort, SwitchPort
from cni import errors

DATABASE = "/var/run/openvswitch/db.sock"
UNSUPPORTED = ("configuration_path", "deviceID", "ovnPort")
MAX_OFPORT = 65279
MAX_PATH = 107  # bytes of a Unix socket's path


class Ovs(Device):
    """A port of a bridge of Open vSwitch."""

    OPTIONS = frozenset({"bridge", "vlan", "trunk", "ofport_request", "interface_type", "socket_file"})

    def __init__(self, call: options.Call) -> None:
        config = call.config
        options.refuse(config, UNSUPPORTED, "by device ovs")
        self.interface = options.interface(call)
        self._bridge = options.link_name(config, "bridge")
        self._database = _socket(config)
        self._tag = options.whole(config, "vlan", 0, vlan_ids.MAX_ID)
        self._trunks = vlan_ids.read(config, "trunk")
        self._number = options.whole(config, "ofport_request", 0, MAX_OFPORT) or None
        self._kind = options.choice(config, "interface_type", ("system", "dpdk", "internal", "tap"), "system")
        if self._kind != "system":
            raise options.unsupported("interface_type", self._kind, "a veth pair is of type system")
        self._owner = options.mark(call.key)
        self._pair = Pair(call.key)
        self._told = {"contIface": call.key.ifname, "containerID": call.key.container_id}

    def reads(self) -> tuple[Read, ...]:
        return (self._port_read(), *self._pair.reads())

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        self._pair.refuse_conflicts(have)
        port = self._refuse_foreign(have)
        pair = () if self._pair.host(have) and have.pod else (self._pair.create(want, want.mtu),)
        repair = () if pair else self._pair.repair(want, have)
        whole = not pair and self._is_whole(port)
        return (*pair, *repair, *(() if whole else (self._add(),)))

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        port: Port | None = have.facts[self._port_read()]
        if port is None or not port.has_bridge:
            return (f"bridge {self._bridge} is not in the database {self._database}",)
        if self._pair.host(have) is None:
            return (f"host end {self._pair.host_name} is missing",)
        if not port.there or port.bridge != self._bridge:
            return (f"{self._pair.host_name} is not a port of bridge {self._bridge}",)
        if port.error:
            return (f"port {self._pair.host_name}: {port.error}",)
        if not self._is_whole(port):
            return (f"port {self._pair.host_name} is {_said(port)}, not {_said(self._add())}",)
        return ()

    def shown(self, have: Have) -> tuple[Link, ...]:
        host = self._pair.host(have)
        return (host,) if host else ()

    def host_end(self) -> str:
        return self._pair.host_name

    def kinds(self) -> tuple[str, ...]:
        return ("veth",)

    def removal(self, have: Have) -> tuple[Step, ...]:
        """The port first: without its link it would be an error in the switch's log."""
        port: Port | None = have.facts[self._port_read()]
        ours = port is None or (port.there and port.owner == self._owner)
        gone = (RemovePort(self._database, self._pair.host_name, self._owner),) if ours else ()
        return (*gone, *self._pair.removal(have))

    def refuse_unready(self, have: Have) -> None:
        port: Port | None = have.facts[self._port_read()]
        if port is None:
            message = f"no Open vSwitch answers at {self._database}"
            raise errors.CNIError(errors.Code.LIMITED_CONNECTIVITY, message)
        if not port.has_bridge:
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, f"bridge={self._bridge!r} does not exist")

    def _port_read(self) -> SwitchPort:
        return SwitchPort(self._database, self._bridge, self._pair.host_name)

    def _refuse_foreign(self, have: Have) -> Port:
        """Return the port as it is. Raises CNIError 11 without a switch, 7 for a bridge or port that is not right."""
        port: Port | None = have.facts[self._port_read()]
        if port is None:
            raise errors.CNIError(errors.Code.TRY_AGAIN, f"no Open vSwitch answers at {self._database}")
        if not port.has_bridge:
            raise errors.CNIError(
                errors.Code.INVALID_CONFIG,
                f"bridge={self._bridge!r} does not exist in Open vSwitch at {self._database}",
            )
        if port.there and port.owner != self._owner:
            raise errors.CNIError(
                errors.Code.INVALID_CONFIG, f"port {self._pair.host_name!r} of bridge {port.bridge} is not ours"
            )
        return port

    def _is_whole(self, port: Port) -> bool:
        want = self._add()
        return (
            port.there
            and (port.bridge, port.mode, port.tag, port.trunks) == (self._bridge, want.mode, want.tag, want.trunks)
            and port.number is not None
            and port.number > 0
            and (self._number is None or port.number == self._number)
        )

    def _add(self) -> AddPort:
        """Rule 3."""
        mode = "trunk" if self._tag is None else "native-untagged" if self._trunks else "access"
        return AddPort(
            self._database, self._bridge, self._pair.host_name, self._owner, mode, self._tag, self._trunks,
            number=self._number, external_ids=self._told,
        )  # fmt: skip


def _socket(config: Mapping[str, Any]) -> str:
    """`socket_file`, with or without `unix:` before it. Raises CNIError 7 for what is no absolute path."""
    value = config.get("socket_file") or DATABASE
    path = value.removeprefix("unix:") if isinstance(value, str) else ""
    if not path.startswith("/") or "\0" in path or ".." in path.split("/") or len(path.encode()) > MAX_PATH:
        raise options.invalid(
            "socket_file", value, f"must be the absolute path of a socket, of at most {MAX_PATH} bytes, without .."
        )
    return path


def _said(port: Port | AddPort) -> str:
    tag = "" if port.tag is None else f" tag={port.tag}"
    trunks = f" trunks={','.join(map(str, port.trunks))}" if port.trunks else ""
    return f"{port.mode or 'without mode'}{tag}{trunks}"
