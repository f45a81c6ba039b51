"""hotnic-standalone: serves one CNI call without an agent, for who calls without Kubernetes: podman, nerdctl, cnitool.

The executable starts it for a configuration with `"agent": "none"` and talks to it as to the agent (cni.wire), over
descriptor 3. It is the agent's own code for a call, with a journal, in a process that ends with the call.

Rules
1. One call at a time on a state directory: the journal is read at the start of each.
2. Nothing is begun for a caller that is gone by the time it is its turn.
3. A pod's call is refused: the configuration may be a tenant's, who must not choose what serves it. Its DEL has
   nothing to do then, and succeeds, or the pod could never be deleted.
4. IPAM plugins are those of the call's CNI_PATH, which is the administrator's as the configuration is.
5. Who called waits for the start of this: nothing is imported that a single call has no use for.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from agent import calls, cni_connection, delegate, descendants, netns, primary
from agent.attach import Attachments, Settings
from agent.device import Native
from agent.journal import InUse, Journal
from agent.locks import Locks
from agent.netlink import Kernel
from agent.outcomes import Outcomes
from agent.sandboxes import Sandboxes
from cni import errors, request, version

CALL_DESCRIPTOR = 3
STATE_DIR = Path("/var/lib/hotnic/standalone")


def main() -> NoReturn:
    """Serve the call on descriptor 3. Exit status 0, whatever the answer is: that goes over the descriptor; else 2."""
    parser = argparse.ArgumentParser(prog="hotnic-standalone", description="Serves one call of the CNI plugin hotnic.")
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help="the journal")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="hotnic-standalone: %(message)s")
    try:
        connection = socket.socket(fileno=CALL_DESCRIPTOR)
    except OSError as problem:
        print(f"hotnic-standalone: is started by the CNI plugin, with a call: {problem}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    serve(connection, arguments.state_dir)
    sys.stderr.flush()
    os._exit(0)  # the caller waits for the end, and there is nothing left to finalise


def serve(connection: socket.socket, state_dir: Path) -> None:
    """Serve one call and close the connection."""
    opened = ExitStack()

    def handle(environ: Mapping[str, str], stdin: bytes, netns_fd: int | None) -> calls.Answer:
        config = _config(stdin)
        if environ.get("CNI_COMMAND") == "DEL" and _is_a_pods(environ):
            return calls.Answer(0, b"")
        try:
            _refuse_pods(environ, config)
            journal = _journal(state_dir, environ.get("CNI_COMMAND", ""))
            opened.callback(journal.close)
            kernel = Kernel()
            opened.callback(kernel.close)
            served = _calls(journal, kernel, environ.get("CNI_PATH", ""))
        except (errors.CNIError, OSError, ValueError) as problem:
            return _refusal(problem, config)
        if cni_connection.hung_up(connection):
            return calls.Answer(1, b"")
        config.pop("agent", None)  # who serves the call is said, and the daemon's journal has no such key either
        return served.handle(environ, json.dumps(config).encode() if config else stdin, netns_fd)

    with opened:  # until the answer is delivered, or undone
        cni_connection.serve(connection, handle)


def _config(stdin: bytes) -> dict[str, Any]:
    """Return the configuration; empty where it is none, which Calls tells the caller."""
    try:
        config = json.loads(stdin)
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _refuse_pods(environ: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Raise CNIError 7 for what only the node's agent does (rule 3)."""
    if _is_a_pods(environ):
        message = (
            'agent="none" is not for pods: CNI_ARGS name K8S_POD_NAMESPACE, so the node\'s agent has to serve this'
        )
        raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
    if primary.is_meant(config):
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f'agent="none" cannot serve device={primary.DEVICE!r}')


def _is_a_pods(environ: Mapping[str, str]) -> bool:
    """Raises CNIError 4 where CNI_ARGS cannot be read."""
    return "K8S_POD_NAMESPACE" in request.parse_args(environ.get("CNI_ARGS", ""))


def _journal(state_dir: Path, command: str) -> Journal:
    """Open the journal when it is this call's turn. Raises CNIError where that does not come in time."""
    try:
        return Journal(state_dir, calls.DEADLINES_S.get(command, calls.OTHERS_S))
    except InUse as problem:
        code = errors.Code.NOT_AVAILABLE if command == "STATUS" else errors.Code.TRY_AGAIN
        raise errors.CNIError(code, str(problem)) from None


def _calls(journal: Journal, kernel: Kernel, cni_path: str) -> calls.Calls:
    view = netns.View()
    plugins = tuple(Path(directory) for directory in cni_path.split(":") if directory)
    execute = delegate.Executor(plugins)
    descendants.kill_survivors()  # of a predecessor that was killed: an ADD that finishes late would leak
    native = Native(kernel, execute, view, journal)
    attachments = Attachments(journal, kernel, native, execute, Settings(plugins, (), view))
    networks = primary.Networks(journal, Sandboxes(None, journal, view), Outcomes(), lambda _: None)
    return calls.Calls(journal, native, attachments, Locks(), tuple, networks)


def _refusal(problem: Exception, config: Mapping[str, Any]) -> calls.Answer:
    if not isinstance(problem, errors.CNIError):
        problem = errors.CNIError(errors.Code.IO_FAILURE, f"hotnic-standalone: {problem}")
    stated = config.get("cniVersion")
    document = problem.document(stated if stated in version.SUPPORTED else version.CURRENT)
    return calls.Answer(1, json.dumps(document).encode())


if __name__ == "__main__":
    main()
