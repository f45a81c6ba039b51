"""Open vSwitch, over its database (OVSDB, RFC 7047): the ports that the device `ovs` makes.

Rules
1. One connection for one job, with a deadline; the database is asked what is there each time.
2. A change is one transaction, and done when the switch has taken it over (`cur_cfg` has reached `next_cfg`).
3. Ports of ours whose link is gone (a reboot) leave with the next change. A port's link is there before the port is,
   and goes after it, so one without a link is nobody's.
4. A configuration names the socket, so anybody may answer there: sizes and times are bounded, and what is no answer of
   a database is an error that says so.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from agent.switch import AddPort, LinkPort, Port, RemovePort, SwitchPort
from cni import errors

if TYPE_CHECKING:
    from ovs.jsonrpc import Connection

DEADLINE_S = 10.0
ANSWER_BYTES = 16 << 20  # of all answers of one connection
OURS = ("owner", "hotnic")  # external ID of all ports that are ours
MARK = "hotnic"  # external ID: of which attachment
_DATABASE = "Open_vSwitch"
_POLL_S = 0.002
_BRIDGE, _PORT = ["name", "ports"], ["_uuid", "name", "external_ids", "interfaces"]


class Unreachable(Exception):
    """Nobody answers at the database's socket."""


Place = Callable[[str], str]  # where a path of the node is for us (netns.View)


def read_port(place: Place, what: SwitchPort) -> Port | None:
    """Return what the database has of a port; None where there is no database."""
    try:
        with _Database(place(what.database)) as database:
            return database.port(what)
    except Unreachable:
        return None


def add_port(place: Place, step: AddPort) -> None:
    """Perform the step. Raises CNIError 11 where the switch does not answer in time, 999 for its refusal."""
    try:
        with _Database(place(step.database)) as database:
            database.remove(database.stale())
            database.set(step)
            database.wait_until_taken()
            if problem := database.refused(step.name):
                raise errors.CNIError(errors.Code.INTERNAL, f"Open vSwitch does not take port {step.name}: {problem}")
    except Unreachable as problem:
        raise errors.CNIError(errors.Code.TRY_AGAIN, str(problem)) from None


def remove_port(place: Place, step: RemovePort) -> None:
    """Perform the step. Without a database there is nothing to be removed now: rule 3."""
    try:
        with _Database(place(step.database)) as database:
            ports = database.select("Port", [["name", "==", step.name], _has(MARK, step.owner)], ["_uuid"])
            database.remove([port["_uuid"] for port in ports])
    except Unreachable:
        return


def link_ports(place: Place, path: str) -> tuple[LinkPort, ...]:
    """Return the ports that are to be links of the node. Raises Unreachable, or CNIError 11."""
    with _Database(place(path)) as database:
        bridges = [(bridge["name"], _values(bridge["ports"])) for bridge in database.select("Bridge", [], _BRIDGE)]
        ports = {tuple(port["_uuid"]): port for port in database.select("Port", [], _PORT)}
        kinds = {tuple(one["_uuid"]): one["type"] for one in database.select("Interface", [], ["_uuid", "type"])}
    there = _links()
    on = [(bridge, ports[tuple(uuid)]) for bridge, uuids in bridges for uuid in uuids if tuple(uuid) in ports]
    return tuple(
        LinkPort(path, bridge, port["name"], dict(port["external_ids"][1]), port["name"] in there)
        for bridge, port in on
        if [kinds.get(tuple(uuid)) for uuid in _values(port["interfaces"])] in ([""], ["system"])
    )


def drop_port(place: Place, port: LinkPort) -> None:
    """Take a port off its bridge, if it is still without a link and nobody has changed whose it is.

    Raises Unreachable, or CNIError 999 for the database's refusal, 11 where links cannot be listed.
    """
    with _Database(place(port.database)) as database:
        found = database.select("Port", [["name", "==", port.name]], ["_uuid", "external_ids"])
        if port.name not in _links():
            database.remove([one["_uuid"] for one in found if dict(one["external_ids"][1]) == port.external_ids])


class _Database:
    """One connection (rule 1)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._end = time.monotonic() + DEADLINE_S

    def __enter__(self) -> Self:
        self._connection = _connect(self._path, self._end)
        return self

    def __exit__(self, _: object, problem: object, __: object) -> None:
        self._connection.close()
        if isinstance(problem, (LookupError, TypeError, ValueError, AttributeError)):
            message = f"what answers at {self._path} is no Open vSwitch database"
            raise errors.CNIError(errors.Code.INTERNAL, message, repr(problem)) from None

    def port(self, what: SwitchPort) -> Port:
        name = [["name", "==", what.name]]
        bridges, ports, interfaces = self._ask(
            _select("Bridge", [["name", "==", what.bridge]], ["_uuid"]),
            _select("Port", name, ["_uuid", "tag", "trunks", "vlan_mode", "external_ids"]),
            _select("Interface", name, ["ofport", "error"]),
        )
        has_bridge = bool(bridges["rows"])
        if not ports["rows"]:
            return Port(has_bridge=has_bridge)
        port = ports["rows"][0]
        interface = interfaces["rows"][0] if interfaces["rows"] else {"ofport": ["set", []], "error": ["set", []]}
        on = self.select("Bridge", [["ports", "includes", port["_uuid"]]], ["name"])
        return Port(
            there=True,
            bridge=on[0]["name"] if on else "",
            owner=dict(port["external_ids"][1]).get(MARK, ""),
            mode=_first(port["vlan_mode"]) or "",
            tag=_first(port["tag"]),
            trunks=tuple(sorted(_values(port["trunks"]))),
            number=_first(interface["ofport"]),
            error=_first(interface["error"]) or "",
            has_bridge=has_bridge,
        )

    def set(self, step: AddPort) -> None:
        """Make the port, in place of one of ours under its name, which may be on another bridge."""
        old = self.select("Port", [["name", "==", step.name], _has(MARK, step.owner)], ["_uuid"])
        told = ["map", [list(OURS), [MARK, step.owner], *(list(pair) for pair in step.external_ids.items())]]
        interface: dict[str, Any] = {"name": step.name, "external_ids": told}
        if step.number is not None:
            interface["ofport_request"] = step.number
        port = {
            "name": step.name,
            "interfaces": ["named-uuid", "interface"],
            "vlan_mode": step.mode,
            "tag": ["set", []] if step.tag is None else step.tag,
            "trunks": ["set", list(step.trunks)],
            "external_ids": told,
        }
        *_, joined, _ = self._ask(
            *(_leave(row["_uuid"]) for row in old),
            {"op": "insert", "table": "Interface", "row": interface, "uuid-name": "interface"},
            {"op": "insert", "table": "Port", "row": port, "uuid-name": "port"},
            _mutate("Bridge", [["name", "==", step.bridge]], ["ports", "insert", ["named-uuid", "port"]]),
            _next_configuration(),
        )
        if joined["count"] != 1:
            raise errors.CNIError(errors.Code.INVALID_CONFIG, f"bridge={step.bridge!r} does not exist in Open vSwitch")

    def remove(self, ports: Sequence[Any]) -> None:
        """Take ports off their bridges; the database drops what no bridge has."""
        if ports:
            self._ask(*(_leave(port) for port in ports), _next_configuration())

    def stale(self) -> list[Any]:
        """Return the ports of rule 3. Raises CNIError 11."""
        ports = self.select("Port", [_has(*OURS)], ["_uuid", "name"])
        there = _links()
        return [port["_uuid"] for port in ports if port["name"] not in there]

    def refused(self, name: str) -> str:
        """Return why the switch has not taken the interface; "": it has."""
        rows = self.select("Interface", [["name", "==", name]], ["ofport", "error"])
        number = _first(rows[0]["ofport"]) if rows else None
        return "" if number is not None and number > 0 else str(_first(rows[0]["error"]) if rows else "it is gone")

    def wait_until_taken(self) -> None:
        """Raises CNIError 11 where the switch does not follow the database in time (rule 2)."""
        wanted: int | None = None
        while True:
            row = self.select(_DATABASE, [], ["next_cfg", "cur_cfg"])[0]
            wanted = row["next_cfg"] if wanted is None else wanted
            if row["cur_cfg"] >= wanted:
                return
            if time.monotonic() > self._end:
                raise errors.CNIError(errors.Code.TRY_AGAIN, "ovs-vswitchd does not take over what its database says")
            time.sleep(_POLL_S)

    def select(self, table: str, where: list[Any], columns: list[str]) -> list[dict[str, Any]]:
        (answer,) = self._ask(_select(table, where, columns))
        rows: list[dict[str, Any]] = answer["rows"]
        return rows

    def _ask(self, *operations: dict[str, Any]) -> list[dict[str, Any]]:
        """Perform one transaction. Raises CNIError 999 for the database's refusal, Unreachable for none at all."""
        from ovs.jsonrpc import Message  # noqa: PLC0415 -- see _connect

        request = Message.create_request("transact", [_DATABASE, *operations])
        self._connection.send(request)
        while True:
            message = self._receive()
            if message.type == Message.T_REQUEST and message.method == "echo":
                self._connection.send(Message.create_reply(message.params, message.id))
            elif message.id == request.id:
                return _accepted(message)
            if time.monotonic() > self._end:
                raise Unreachable(f"Open vSwitch's database {self._path} says all but the answer")

    def _receive(self) -> Any:
        from ovs.poller import Poller  # noqa: PLC0415 -- see _connect

        while True:
            self._connection.run()
            problem, message = self._connection.recv()
            if problem == 0:
                return message
            if problem != errno.EAGAIN or time.monotonic() > self._end:
                why = "does not answer" if problem == errno.EAGAIN else "closed the connection"
                raise Unreachable(f"Open vSwitch's database {self._path} {why}")
            poller = Poller()
            self._connection.wait(poller)
            self._connection.recv_wait(poller)
            poller.timer_wait(int((self._end - time.monotonic()) * 1000) + 1)
            poller.block()


class _Bounded:
    """The stream below a connection, which goes on reading for as long as there is anything to read: rule 4."""

    def __init__(self, stream: Any, end: float) -> None:
        self._stream, self._end, self._left = stream, end, ANSWER_BYTES

    def recv(self, size: int) -> tuple[int, bytes]:
        if self._left <= 0 or time.monotonic() > self._end:
            return errno.EMSGSIZE, b""
        problem, data = self._stream.recv(size)
        self._left -= len(data or b"")
        return problem, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _connect(path: str, end: float) -> Connection:
    """Importing the library takes a tenth of a second, and few nodes have a switch: it is done where there is one."""
    from ovs.jsonrpc import Connection  # noqa: PLC0415
    from ovs.stream import Stream  # noqa: PLC0415

    problem, stream = Stream.open_block(Stream.open(f"unix:{path}"), int(DEADLINE_S * 1000))
    if problem:
        raise Unreachable(f"no Open vSwitch answers at {path}: {os.strerror(problem)}")
    return Connection(_Bounded(stream, end))


def _links() -> frozenset[str]:
    """Return the names of the node's links. Raises CNIError 11.

    Not if_nametoindex: it says of a link that is there that it is not, where no descriptor is left to ask with.
    """
    try:
        return frozenset(name for _, name in socket.if_nameindex())
    except OSError as problem:
        message = "the node's links cannot be listed"
        raise errors.CNIError(errors.Code.TRY_AGAIN, message, str(problem.strerror)) from None


def _accepted(message: Any) -> list[dict[str, Any]]:
    failed = [one for one in message.result or [{"error": message.error}] if one and one.get("error")]
    if failed:
        raise errors.CNIError(
            errors.Code.INTERNAL, f"Open vSwitch's database: {failed[0]['error']}", str(failed[0].get("details") or "")
        )
    return list(message.result)


def _select(table: str, where: list[Any], columns: list[str]) -> dict[str, Any]:
    return {"op": "select", "table": table, "where": where, "columns": columns}


def _mutate(table: str, where: list[Any], mutation: list[Any]) -> dict[str, Any]:
    return {"op": "mutate", "table": table, "where": where, "mutations": [mutation]}


def _leave(port: Any) -> dict[str, Any]:
    return _mutate("Bridge", [["ports", "includes", port]], ["ports", "delete", port])


def _next_configuration() -> dict[str, Any]:
    return _mutate(_DATABASE, [], ["next_cfg", "+=", 1])


def _has(key: str, value: str) -> list[Any]:
    return ["external_ids", "includes", ["map", [[key, value]]]]


def _values(column: Any) -> list[Any]:
    """The values of a column that may have several; one stands alone."""
    return list(column[1]) if isinstance(column, list) and column[0] == "set" else [column]


def _first(column: Any) -> Any:
    return next(iter(_values(column)), None)
