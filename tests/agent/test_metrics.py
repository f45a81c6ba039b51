"""What the probes are answered, and what the log says of it."""

import logging
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from agent import metrics

Get = Callable[[str], tuple[int, str]]


class Reasons:
    def __init__(self) -> None:
        self.waiting: tuple[str, ...] = ()
        self.lost: tuple[str, ...] = ()


@pytest.fixture
def reasons() -> Reasons:
    return Reasons()


@pytest.fixture
def get(reasons: Reasons) -> Iterator[Get]:
    server = metrics.serve("127.0.0.1:0", lambda: reasons.waiting, lambda: reasons.lost)

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    yield ask
    server.shutdown()
    server.server_close()


def test_ready_and_alive_are_two_things(get, reasons):
    assert (get("/readyz"), get("/healthz")) == ((200, "ok\n"), (200, "ok\n"))
    reasons.waiting = ("container runtime: away", "CNI executable: foreign")
    assert get("/readyz") == (503, "container runtime: away\nCNI executable: foreign\n")
    assert get("/healthz") == (200, "ok\n")
    reasons.waiting, reasons.lost = (), ("CNI directory was removed",)
    assert (get("/readyz"), get("/healthz")) == ((200, "ok\n"), (503, "CNI directory was removed\n"))
    assert get("/other")[0] == 404
    assert "hotnic_agent_records" in get("/metrics")[1]


def test_the_log_says_once_what_is_waited_for_and_once_that_it_is_there(get, reasons, caplog):
    with caplog.at_level(logging.WARNING, logger="agent.metrics"):
        for waiting in ((), ("a",), ("a",), ("a", "b"), (), ()):
            reasons.waiting = waiting
            get("/readyz")
    assert [record.getMessage() for record in caplog.records] == ["/readyz: a", "/readyz: a; b", "/readyz: ok"]


def test_others_than_loopback_are_refused():
    with pytest.raises(ValueError, match="loopback addresses only"):
        metrics.serve("0.0.0.0:0", tuple, tuple)


@pytest.mark.netns
def test_an_address_that_somebody_has_ends_the_start_with_one_line_and_nothing_is_served(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        places = [f"--run-dir={tmp_path}/run", f"--state-dir={tmp_path}/state", "--cri="]
        command = [sys.executable, "-m", "agent", *places, f"--metrics-address={address}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1:] == [f"hotnic-agent: --metrics-address {address}: Address already in use"]
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run").iterdir()) == []
