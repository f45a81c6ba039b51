"""The wire between executable and agent, both halves, over real sockets."""

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import wire

ENVIRON = {b"CNI_COMMAND": b"ADD", b"CNI_NETNS": b"/run/netns/x", b"CNI_ARGS": b"A=b=c;D=\xff"}
STDIN = b'{"name": "blue"}'
REQUEST = wire.encode_request(ENVIRON, STDIN)
SOON = 0.3


@pytest.fixture
def pair():
    client, server = socket.socketpair()
    with client, server:
        yield client, server


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def read_through(raw, chunk=1 << 16):
    """Send bytes in chunks, hang up, and return what the agent's half makes of them."""
    client, server = socket.socketpair()
    with server:
        sender = threading.Thread(target=drip, args=(client, raw, chunk))
        sender.start()
        try:
            return wire.receive_request(server, 10)
        finally:
            server.close()
            sender.join()


def drip(client, raw, chunk):
    with client:
        try:
            for start in range(0, len(raw), chunk):
                client.sendall(raw[start : start + chunk])
        except OSError:
            pass  # the other half has seen enough


# requests


def test_request_layout_is_two_lengths_environment_stdin():
    assert wire.encode_request({b"CNI_A": b"1", b"CNI_B": b""}, b"xyz") == (
        b"\x0e\x00\x00\x00\x03\x00\x00\x00CNI_A=1\x00CNI_B=xyz"
    )


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_a_request_arrives_as_it_was_sent(chunk):
    call = read_through(REQUEST, chunk)
    assert call == wire.Call(
        {"CNI_COMMAND": "ADD", "CNI_NETNS": "/run/netns/x", "CNI_ARGS": "A=b=c;D=\udcff"}, STDIN, None
    )


def test_a_kept_request_is_read_as_a_received_one():
    call = read_through(REQUEST)
    assert wire.decode_request(REQUEST) == (call.environ, call.stdin)


def test_a_request_of_the_largest_size_arrives():
    environ = {b"CNI_ARGS": b"x" * (wire.MAX_ENVIRONMENT - len(b"CNI_ARGS="))}
    call = read_through(wire.encode_request(environ, b"y" * wire.MAX_STDIN))
    assert (len(call.environ["CNI_ARGS"]), len(call.stdin)) == (len(environ[b"CNI_ARGS"]), wire.MAX_STDIN)


@pytest.mark.parametrize(
    ("environ", "stdin"), [({b"CNI_ARGS": b"x" * wire.MAX_ENVIRONMENT}, b""), ({}, b"x" * (wire.MAX_STDIN + 1))]
)
def test_a_larger_request_is_not_sent(environ, stdin):
    with pytest.raises(wire.WireError, match="too large"):
        wire.encode_request(environ, stdin)


@given(
    st.dictionaries(
        st.binary(min_size=1).filter(lambda name: not {0, ord("=")} & set(name)),
        st.binary().filter(lambda value: 0 not in value),
    ),
    st.binary(),
)
def test_any_request_survives_the_way_there(environ, stdin):
    read, config = wire.decode_request(wire.encode_request(environ, stdin))
    assert {os.fsencode(name): os.fsencode(value) for name, value in read.items()} == environ
    assert config == stdin


@pytest.mark.parametrize("cut", range(len(REQUEST)))
def test_a_request_cut_short_is_an_error(cut):
    with pytest.raises(wire.WireError):
        wire.decode_request(REQUEST[:cut])
    with pytest.raises(wire.WireError, match="connection closed"):
        read_through(REQUEST[:cut])


def test_a_kept_request_with_something_behind_it_is_damaged():
    with pytest.raises(wire.WireError):
        wire.decode_request(REQUEST + b"x")


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 8,
        (wire.MAX_ENVIRONMENT + 1).to_bytes(4, "little") + bytes(4),
        bytes(4) + (wire.MAX_STDIN + 1).to_bytes(4, "little"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_sizes_out_of_bounds_are_refused_without_waiting_for_them(raw):
    with pytest.raises(wire.WireError, match="too large"):
        read_through(raw)


@pytest.mark.parametrize("block", [b"CNI_COMMAND", b"A=1\0", b"\0A=1"])
def test_an_environment_without_equals_sign_is_refused(block):
    raw = len(block).to_bytes(4, "little") + bytes(4) + block
    with pytest.raises(wire.WireError, match="no '='"):
        read_through(raw)
    with pytest.raises(wire.WireError, match="no '='"):
        wire.decode_request(raw)


def test_an_empty_environment_is_one():
    assert wire.decode_request(bytes(8)) == ({}, b"")


# the descriptor


def test_the_descriptor_is_of_the_same_file(pair):
    client, server = pair
    with Path(__file__).open("rb") as sent:
        wire.send_request(client, REQUEST, sent.fileno())
        call = wire.receive_request(server, 1)
        try:
            assert os.path.sameopenfile(call.netns, sent.fileno())
            assert not os.get_inheritable(call.netns)
        finally:
            os.close(call.netns)


def test_the_descriptor_arrives_where_the_request_trickles(pair):
    client, server = pair
    with Path(__file__).open("rb") as sent:
        socket.send_fds(client, [REQUEST[:1]], [sent.fileno()])
        client.sendall(REQUEST[1:])
        call = wire.receive_request(server, 1)
        assert os.path.sameopenfile(call.netns, sent.fileno())
        os.close(call.netns)


@pytest.mark.parametrize(
    ("raw", "count"),
    [(REQUEST[:1], 1), (REQUEST[:-1], 1), (b"\xff" * 8, 1), (REQUEST, 2), (REQUEST, 8), (REQUEST, 9), (REQUEST, 200)],
)
def test_no_descriptor_stays_open_after_an_error(pair, raw, count):
    client, server = pair
    before = descriptors()
    with Path(__file__).open("rb") as sent:
        socket.send_fds(client, [raw], [sent.fileno()] * count)
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(wire.WireError):
            wire.receive_request(server, 1)
    assert descriptors() == before


class Quick(socket.socket):
    """A client whose agent has answered, and hung up, before anything else is done with the connection."""

    def __init__(self, client, server):
        super().__init__(fileno=client.detach())
        self.server = server

    def sendmsg(self, *arguments):
        sent = super().sendmsg(*arguments)
        self.server.recv(1 << 16)
        self.server.sendall(wire.encode_reply(0, b"{}"))
        self.server.close()
        return sent


def test_an_answer_that_comes_at_once_is_one(pair):
    with Quick(*pair) as client:
        wire.send_request(client, REQUEST, None)
        assert wire.receive_reply(client) == (0, b"{}")


def test_descriptors_that_come_later_count_too(pair):
    client, server = pair
    before = descriptors()
    with Path(__file__).open("rb") as sent:
        socket.send_fds(client, [REQUEST[:9]], [sent.fileno()])
        socket.send_fds(client, [REQUEST[9:]], [sent.fileno()])
        with pytest.raises(wire.WireError, match="2 descriptors"):
            wire.receive_request(server, 1)
    assert descriptors() == before


# deadlines


@pytest.mark.parametrize("sent", [b"", REQUEST[:4], REQUEST[:-1]])
def test_a_client_that_says_nothing_more_is_given_up(pair, sent):
    client, server = pair
    client.sendall(sent)
    with pytest.raises(wire.WireError, match="cannot read the request"):
        wire.receive_request(server, SOON)


def test_a_trickling_client_does_not_get_longer(pair):
    client, server = pair
    done = threading.Event()

    def trickle():
        for byte in REQUEST:
            if done.wait(SOON / 8):
                return
            client.send(bytes([byte]))

    sender = threading.Thread(target=trickle)
    sender.start()
    try:
        with pytest.raises(wire.WireError, match="cannot read the request"):
            wire.receive_request(server, SOON)
    finally:
        done.set()
        sender.join()


# replies


@given(st.integers(0, 255), st.binary())
def test_any_reply_survives_the_way_back(code, stdout):
    client, server = socket.socketpair()
    with client, server:
        server.sendall(wire.encode_reply(code, stdout))
        assert wire.receive_reply(client) == (code, stdout)


@pytest.mark.parametrize(("code", "stdout"), [(-1, b""), (256, b""), (0, b"x" * (wire.MAX_REPLY + 1))])
def test_a_reply_that_a_client_would_refuse_is_not_made(code, stdout):
    with pytest.raises(wire.WireError, match="out of range"):
        wire.encode_reply(code, stdout)
