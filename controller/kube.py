"""The Kubernetes API server. The only module that knows the `kubernetes` package.

Of that package only the configuration and the HTTP transport are used: its typed objects cost milliseconds for every
event, and its watches neither back off nor time out.

Rules
1. Every request has a deadline. A connection that is dead without a sign is found out within half a minute (TCP's
   keepalive), a watch that is merely quiet is renewed by the server every five minutes.
2. A change is handed on in the moment its line is complete.
3. Foreign errors end here: 404 is Gone, 409 and 422 are Conflict, all else is Unavailable and tried again.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import client, config
from kubernetes.client import rest

from cni import jsontext
from controller import follow, watch
from controller.follow import Resource
from controller.model import Event, Network, Pod, PodRef, network_from, pod_from
from controller.nodes import Node, node_from
from controller.patch import Operation
from controller.reconcile import Conflict, Gone
from controller.relay import Denied
from controller.workers import Unavailable

CONNECTIONS = 64  # kept open; more are opened where needed
CONNECT_S, READ_S = 3.0, 10.0
WATCH_S = 300
PAGE = 500
_KEEPALIVE = (  # seconds idle, between probes, and until unacknowledged data mean a dead peer
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
_COMPONENT = "hotnic"
_FAILED_TEST = "the server rejected our request due to an error in our request"  # a JSON Patch's, with 422

log = logging.getLogger(__name__)


def pods_of(node: str) -> Resource[Pod]:
    return Resource("/api/v1/pods", pod_from, f"spec.nodeName={node}")


NETWORKS: Resource[Network] = Resource("/apis/k8s.cni.cncf.io/v1/network-attachment-definitions", network_from)
NODES: Resource[Node] = Resource("/api/v1/nodes", node_from)


class ConfigurationError(ValueError):
    """`str()` says why the API server cannot be reached as configured."""


def configuration(kubeconfig: str | None) -> Any:
    """Read a kubeconfig, or what a pod is given by its service account. Raises ConfigurationError."""
    settings = client.Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(settings)
        else:
            config.load_kube_config(kubeconfig, client_configuration=settings, persist_config=False)
    except (config.ConfigException, OSError) as problem:
        where = kubeconfig or "not in a pod, and no --kubeconfig given"
        raise ConfigurationError(f"{where}: {problem}") from None
    settings.socket_options = list(_KEEPALIVE)
    settings.connection_pool_maxsize = CONNECTIONS
    return settings


class Kube:
    """One API server's client; safe for many threads."""

    def __init__(self, settings: Any, node: str, wrote: Callable[[str], None]) -> None:
        self._settings = settings
        self._node = node
        self._wrote = wrote
        self._pool = rest.RESTClientObject(settings).pool_manager
        self._agent = f"hotnic-controller/{importlib.metadata.version('hotnic')}"

    # -- reads and writes -------------------------------------------------------------------------------------------

    def find(self, ref: PodRef) -> Pod | None:
        """Return the pod of that name, whichever its UID."""
        try:
            return pod_from(self._call("GET", _pod_path(ref)))
        except Gone:
            return None

    def patch_status(self, pod: Pod, operations: Sequence[Operation]) -> Pod:
        """Return the pod as it is then. Raises Conflict and Gone."""
        self._wrote("status")
        path = f"{_pod_path(pod.ref)}/status"
        return pod_from(self._call("PATCH", path, operations, "application/json-patch+json"))

    def tell(self, pod: Pod, event: Event) -> None:
        """Create the event. One that the API server refuses is lost."""
        self._wrote("event")
        try:
            self._call("POST", f"/api/v1/namespaces/{quote(pod.ref.namespace)}/events", _event(pod, event, self._node))
        except (Conflict, Gone) as problem:
            log.warning("pod %s: event not taken: %s", pod.ref, problem)

    def write(self, kind: str, method: str, path: str, body: Any, seconds: float) -> Mapping[str, Any]:
        """Send a JSON document (a list with PATCH is a JSON Patch) and return what is there then.

        Raises Conflict, Gone, and Denied for what admission or the definition of the kind does not allow.
        """
        self._wrote(kind)
        content = "application/json-patch+json" if method == "PATCH" else "application/json"
        return self._call(method, path, body, content, seconds, _verdict)

    def read(self, path: str, seconds: float) -> Mapping[str, Any]:
        """Return the object. Raises Gone."""
        return self._call("GET", path, seconds=seconds)

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        kind: str = "application/json",
        seconds: float = math.inf,
        error: Callable[[int, str], Exception] | None = None,
    ) -> Mapping[str, Any]:
        # in Go's spelling: the tests of a JSON Patch are comparisons of bytes, with what the API server writes itself
        raw = None if body is None else jsontext.dumps(body).encode("utf-8", "backslashreplace")
        headers = {} if raw is None else {"Content-Type": kind}
        response = self._request(method, path, headers, raw, min(seconds, READ_S), error or _error)
        try:
            document: Mapping[str, Any] = watch.document(response.data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
            raise Unavailable(f"API server: {method} {path}: {problem}") from None
        return document

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        read_s: float,
        error: Callable[[int, str], Exception],
    ) -> Any:
        """Return the response, whose body is not read yet."""
        timeout = urllib3.Timeout(connect=CONNECT_S, read=read_s)
        what = f"API server: {method} {path.partition('?')[0]}"
        try:
            response = self._pool.urlopen(
                method, self._settings.host + path, body=body, headers={**self._headers(), **headers},
                timeout=timeout, retries=False, redirect=False, preload_content=False,
            )  # fmt: skip
            if response.status < 400:
                return response
            answer = f"{what}: {response.status} {_message(response.data)}"
        except (urllib3.exceptions.HTTPError, OSError, config.ConfigException) as failure:
            raise Unavailable(f"{what}: {failure}") from None
        raise error(response.status, answer)

    def _headers(self) -> dict[str, str]:
        """Return what goes with every request; the token may have been renewed."""
        tokens = {setting["key"]: setting["value"] for setting in self._settings.auth_settings().values()}
        return {"Accept": "application/json", "User-Agent": self._agent, **tokens}

    # -- list and watch ---------------------------------------------------------------------------------------------

    def list(self, path: str, selector: str) -> tuple[Sequence[Mapping[str, Any]], str]:
        """Return all objects and the version to watch from."""
        items: list[Mapping[str, Any]] = []
        query = {"limit": str(PAGE), "fieldSelector": selector}
        while True:
            with _kind_exists():
                page = self._call("GET", f"{path}?{urlencode(query)}")
            items += page["items"]
            if not page["metadata"].get("continue"):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = page["metadata"]["continue"]

    def watch(self, path: str, selector: str, version: str) -> Iterator[watch.Change]:
        """Yield every change since `version`, until the API server ends it."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_S),
            "fieldSelector": selector,
        }
        with _kind_exists():
            response = self._request("GET", f"{path}?{urlencode(query)}", {}, None, WATCH_S + 30.0, _error)
        try:
            yield from watch.changes(_chunks(response, path))
        finally:
            response.close()


@contextmanager
def _kind_exists() -> Iterator[None]:
    try:
        yield
    except Gone as problem:
        raise follow.Unknown(str(problem)) from None


def _chunks(response: Any, path: str) -> Iterator[bytes]:
    """Yield what has arrived, as soon as it has: `read` would wait for more."""
    try:
        while chunk := response.read1(1 << 16):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as problem:
        raise Unavailable(f"API server: watch {path}: {problem}") from None


def _error(status: int, text: str) -> Exception:
    match status:
        case 404:
            return Gone(text)
        case 409 | 422:
            return Conflict(text)
        case 410:
            return watch.Expired(text)
        case _:
            return Unavailable(text)


def _verdict(status: int, text: str) -> Exception:
    """Tell what will be refused again from what need only be decided anew."""
    is_denied = " denied " in text and status in {400, 403, 422}  # webhooks choose their code
    is_test = _FAILED_TEST in text or status == 409
    if is_denied or (status == 422 and not is_test):
        return Denied(text.split(": ", 2)[-1])  # users read it: without the call
    return _error(status, text)


def _message(body: bytes) -> str:
    """Return what a Status object says, or the start of whatever the answer is."""
    try:
        return str(watch.document(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip()


def _pod_path(ref: PodRef) -> str:
    return f"/api/v1/namespaces/{quote(ref.namespace)}/pods/{quote(ref.name)}"


def _event(pod: Pod, event: Event, node: str) -> Mapping[str, Any]:
    involved = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": pod.ref.namespace,
        "name": pod.ref.name,
        "uid": pod.api_uid,
        "resourceVersion": pod.resource_version,
    }
    return event_document(involved, event, {"component": _COMPONENT, "host": node})


def event_document(involved: Mapping[str, str], event: Event, source: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a v1 Event, of now, about the object that `involved` refers to."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": involved["namespace"],
            # unique as client-go's names are; at most 253 characters
            "name": f"{involved['name'][:230].rstrip('.-')}.{time.time_ns():x}",
        },
        "involvedObject": involved,
        "reason": event.reason,
        "message": event.message,
        "type": "Warning" if event.warning else "Normal",
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": source,
    }
