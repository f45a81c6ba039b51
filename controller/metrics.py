"""What the controller counts, and where it can be read: Prometheus text, /healthz and /readyz over HTTP.

Rules
1. Healthy: every thread is alive. Ready: nothing is waited for. The answer names what is missing.
2. No host means all addresses, of both families where the kernel has both.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

APPLY = Histogram("hotnic_controller_apply_seconds", "From a change of a pod to the agent's receipt", buckets=_SECONDS)
PUBLISH = Histogram(
    "hotnic_controller_publish_seconds", "From the agent's outcome to the status written", buckets=_SECONDS
)
WRITES = Counter("hotnic_controller_api_writes_total", "Writes to the API server", ("kind",))
WATCHES = Counter("hotnic_controller_watch_restarts_total", "Watches taken up anew", ("resource",))
QUEUE = Gauge("hotnic_controller_queue_depth", "Pods that wait for a worker")
LEADING = Gauge("hotnic_controller_leading", "Whether this one holds the lease of the cluster role")

CALLER_S = 10.0  # a caller that sends or reads nothing must not hold its thread

log = logging.getLogger(__name__)

Check = Callable[[], tuple[str, ...]]


class Meter:
    """What the passes report."""

    def applied(self, seconds: float) -> None:
        APPLY.observe(seconds)

    def published(self, seconds: float) -> None:
        PUBLISH.observe(seconds)


def serve(address: str, dead: Check, waiting_for: Check) -> ThreadingHTTPServer:
    """Serve on `host:port` or `:port`, in a thread of its own (rule 2).

    Raises ValueError for what is no address, OSError for one that cannot be had.
    """
    told: dict[str, tuple[str, ...]] = {}  # probes' callers read no reasons: the log has them

    class Handler(BaseHTTPRequestHandler):
        timeout = CALLER_S

        def do_GET(self) -> None:
            match self.path:
                case "/metrics":
                    self._answer(200, generate_latest(REGISTRY))
                case "/healthz":
                    self._say(dead())
                case "/readyz":
                    self._say(waiting_for())
                case _:
                    self._answer(404, b"not found\n")

        def _say(self, missing: tuple[str, ...]) -> None:
            if missing != told.get(self.path, ()):
                log.warning("%s: waits for %s", self.path, "; ".join(missing) or "nothing any more")
            told[self.path] = missing
            self._answer(503 if missing else 200, "\n".join(missing or ("ok",)).encode() + b"\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class names it so
            log.debug(format, *args)

    server = _listening(address, Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _listening(address: str, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """Raises ValueError for what is no address, OSError, which names it, where it cannot be had."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"--metrics-address {address}: is not HOST:PORT")
    try:
        return _Server(host.strip("[]"), int(port), handler)
    except OSError as problem:
        raise OSError(f"--metrics-address {address}: {problem.strerror}") from problem


class _Server(ThreadingHTTPServer):
    """Rule 2."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        """`host` without brackets; "" for all addresses."""
        self._is_dual = not host and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if self._is_dual or ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        if self._is_dual:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
