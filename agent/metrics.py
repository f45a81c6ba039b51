"""What the agent counts, and where it can be read: Prometheus text, /healthz and /readyz over HTTP.

Loopback or a Unix socket only: the agent listens on no network (design: it has the privileges).
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

PASSES = Histogram("hotnic_agent_pass_seconds", "One pass over one pod", buckets=_SECONDS)
ATTACH = Histogram("hotnic_agent_attach_seconds", "One attachment made, or failed", buckets=_SECONDS)
DETACH = Histogram("hotnic_agent_detach_seconds", "One attachment removed, or not", buckets=_SECONDS)
FAILURES = Counter("hotnic_agent_failures_total", "Failed additions and removals", ("verb", "reason"))
DRIFT = Counter(
    "hotnic_agent_drift_total",
    "Attachments found changed by others, what came of it, and whether an event led to it or a look now and then",
    ("outcome", "cause"),
)
CNI_CALLS = Counter("hotnic_agent_cni_calls_total", "Calls of the CNI executable", ("command", "code"))
RECORDS = Gauge("hotnic_agent_records", "Attachments in the journal")
PODS = Gauge("hotnic_agent_pods", "Pods with a desired set in the journal")
JOURNAL_DAMAGED = Gauge("hotnic_agent_journal_damaged", "Files of the journal that were set aside as damaged")

CALLER_S = 10.0  # a caller that sends or reads nothing must not hold its thread

log = logging.getLogger(__name__)

Reasons = Callable[[], tuple[str, ...]]


def serve(address: str, waiting_for: Reasons, lost: Reasons) -> ThreadingHTTPServer:
    """Serve on `host:port`, in a thread of its own.

    Raises ValueError for an address that others can reach, OSError for one that cannot be had.

    `waiting_for`: why this process is not ready; `lost`: why only another process in its place can be.
    """
    if not ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback:
        raise ValueError(f"--metrics-address {address}: the agent listens on loopback addresses only")

    told: dict[str, tuple[str, ...]] = {}  # probes' callers read no reasons: the log has them

    class Handler(BaseHTTPRequestHandler):
        timeout = CALLER_S

        def do_GET(self) -> None:
            match self.path:
                case "/metrics":
                    self._answer(200, generate_latest(REGISTRY))
                case "/healthz":
                    self._say(lost())
                case "/readyz":
                    self._say(waiting_for())
                case _:
                    self._answer(404, b"not found\n")

        def _say(self, reasons: tuple[str, ...]) -> None:
            if reasons != told.get(self.path, ()):
                log.warning("%s: %s", self.path, "; ".join(reasons) or "ok")
            told[self.path] = reasons
            self._answer(503 if reasons else 200, "\n".join(reasons or ("ok",)).encode() + b"\n")

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
    """Raises OSError, which names the address."""
    host, _, port = address.rpartition(":")
    try:
        return ThreadingHTTPServer((host.strip("[]"), int(port)), handler)
    except OSError as problem:
        raise OSError(f"--metrics-address {address}: {problem.strerror}") from problem
