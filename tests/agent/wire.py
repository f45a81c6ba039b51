"""Frames sent and received at an interface as they are: what a test of a switch looks at.

    wire = Wire("/run/netns/x", "net1")
    wire.send(b"a", vlan=100)           tagged; from the interface's own MAC, or `source`
    wire.until(b"end")                  what has come until that payload, as {(VLAN or 0, payload)}

Frames are broadcast, of a type of their own, so that nothing else on the wire is taken for one. Nobody waits for a
frame that must not come: the one that ends the list is sent last, on the same way.
"""

import socket
import struct

from agent import netns

TYPE = 0x88B5  # IEEE 802, for local experiments
_TAGGED = 0x8100
_ALL = 0x0003
_SOL_PACKET, _AUXDATA, _VLAN_VALID = 263, 8, 0x10
_AUX = struct.Struct("=IIIHHHH")
_TIMEOUT_S = 10.0
_WAY = b"way?"


class Wire:
    def __init__(self, path: str, ifname: str) -> None:
        with netns.View().opened(path) as fd, netns.entered(fd):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._socket.bind((ifname, _ALL))
        self._socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        self._socket.settimeout(_TIMEOUT_S)
        self.mac = self._socket.getsockname()[4].hex(":")

    def close(self) -> None:
        self._socket.close()

    def send(self, payload: bytes, vlan: int = 0, source: str = "") -> None:
        tag = struct.pack("!HH", _TAGGED, vlan) if vlan else b""
        header = b"\xff" * 6 + bytes.fromhex((source or self.mac).replace(":", "")) + tag + struct.pack("!H", TYPE)
        self._socket.send(header + struct.pack("!B", len(payload)) + payload + bytes(46 - len(payload)))

    def await_way_to(self, other: "Wire", vlan: int = 0) -> None:
        """Send until the other one receives: a port forwards some moments after its link is up."""
        for number in range(100):
            self.send(b"%s %d" % (_WAY, number), vlan)
            other._socket.settimeout(0.1)
            try:
                other._one()
            except TimeoutError:
                continue
            other._socket.settimeout(_TIMEOUT_S)
            return
        raise AssertionError("nothing comes through")

    def until(self, last: bytes) -> set[tuple[int, bytes]]:
        """Return what came before that payload. Raises TimeoutError where it does not come."""
        found: set[tuple[int, bytes]] = set()
        while True:
            vlan, payload = self._one()
            if payload == last:
                return found
            if not payload.startswith(_WAY):
                found.add((vlan, payload))

    def _one(self) -> tuple[int, bytes]:
        while True:
            frame, extra, _, sender = self._socket.recvmsg(2048, 256)
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            vlan = 0
            for level, kind, data in extra:
                if (level, kind) == (_SOL_PACKET, _AUXDATA):
                    status, *_, number, _ = _AUX.unpack_from(data)
                    vlan = number & 0xFFF if status & _VLAN_VALID else 0
            kind, offset = struct.unpack_from("!H", frame, 12)[0], 14
            if kind == _TAGGED:
                vlan, kind, offset = *struct.unpack_from("!HH", frame, 14), 18
            if kind == TYPE:
                return vlan & 0xFFF, frame[offset + 1 : offset + 1 + frame[offset]]
