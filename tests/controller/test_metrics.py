"""Where the controller's figures can be read: on one address, or on all that the node has, of both families."""

import socket
import urllib.request

import pytest

from controller import metrics


def answers(family: socket.AddressFamily, address: str, port: int) -> bool:
    host = f"[{address}]" if family is socket.AF_INET6 else address
    with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=30) as answer:
        return answer.read() == b"ok\n"


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_without_a_host_it_listens_on_all_addresses_of_both_families_that_there_are(monkeypatch, has_ipv6):
    if not has_ipv6:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    elif not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    server = metrics.serve(":0", tuple, tuple)
    try:
        assert answers(socket.AF_INET, "127.0.0.1", server.server_port)
        if has_ipv6:
            assert answers(socket.AF_INET6, "::1", server.server_port)
        else:
            assert server.socket.family is socket.AF_INET
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_with_a_host_it_listens_there_alone(address):
    if address == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this kernel has no IPv6")
    server = metrics.serve(f"{address}:0", tuple, tuple)
    try:
        assert server.server_address[0] == address.strip("[]")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("address", ["9415", "localhost", "localhost:", "localhost:http"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        metrics.serve(address, tuple, tuple)


def test_an_address_that_somebody_has_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"--metrics-address {address}: Address already in use"):
            metrics.serve(address, tuple, tuple)
