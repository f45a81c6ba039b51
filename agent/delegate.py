"""Executes CNI plugins: the only module that does.

Rules
1. A plugin's type is a file name. One with a slash is refused, so that no configuration names a path.
2. A plugin gets PATH, its CNI_* variables and a mark; nothing else of our environment, no descriptor but
   three.
3. Its error document is its own and is kept. What else goes wrong is told in words, with the end of
   stderr.
4. At the deadline the plugin dies with all that it started, wherever that hid (agent.descendants).
5. A plugin is done when it has exited, even if something that it left behind holds its stdout open.
6. With a host root, plugins are found and run with that directory as their root.

The process is started with vfork (no preexec function, no change of user), which costs the same however
large this one has grown.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from agent import descendants
from cni import errors, jsontext

_STDOUT_LIMIT = 8 << 20
_STDERR_TAIL = 4096
_TOLD = 1024  # of it in an error
_PIPE_MAX = 1 << 20  # the most that one pipe can hold, so that one read empties it

# An executable that is being replaced in place cannot be executed for as long as it is open for writing.
_BUSY_S = 5.0
_BUSY_PAUSE_S = 0.02

_WANTS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # what the node is short of now

_CLONE_FS = 0x200

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")

log = logging.getLogger(__name__)
_listener = threading.local()  # of what plugins say on stderr


class Missing(errors.CNIError):
    """There is no such plugin on this node: nothing was executed."""

    def __init__(self, message: str, details: str = "", code: errors.Code = errors.Code.NOT_AVAILABLE) -> None:
        super().__init__(code, message, details)


class Deadline(errors.CNIError):
    """The plugin did not finish in time and was killed. Code 11: the same call may succeed later."""

    def __init__(self, message: str) -> None:
        super().__init__(errors.Code.TRY_AGAIN, message)


@dataclass(frozen=True, slots=True)
class _Order:
    """One run, before it starts."""

    plugin_type: str
    environ: Mapping[str, str]
    stdin: bytes
    mark: descendants.Mark


@dataclass(slots=True)
class _Output:
    """What a run has come to so far."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)  # the end of it
    has_exited: bool = False
    unkillable: tuple[int, ...] = ()

    @property
    def is_too_long(self) -> bool:
        return len(self.stdout) > _STDOUT_LIMIT


class Executor:
    """Finds and runs plugins. Usable from any thread; calls do not wait for one another."""

    def __init__(self, bin_dirs: Sequence[Path], host_root: Path | None = None) -> None:
        """Plugins are looked for in `bin_dirs`, then in CNI_PATH; both are paths inside `host_root`."""
        self._bin_dirs = tuple(bin_dirs)
        self._host_root = host_root
        descendants.become_subreaper()

    def __call__(
        self,
        plugin_type: str,
        command: str,
        env: Mapping[str, str],
        config: Mapping[str, Any],
        deadline_s: float,
    ) -> Mapping[str, Any] | None:
        """Run one verb and return what it printed, None for nothing. Raises CNIError."""
        stdout = self.run(plugin_type, command, env, json.dumps(config).encode(), deadline_s)
        if command not in ("ADD", "VERSION") or not stdout.strip():
            return None  # whatever a plugin prints on other verbs means nothing, and some do
        try:
            document = jsontext.loads(stdout.decode())
        except ValueError as error:
            raise _undecodable(plugin_type, f"not JSON: {error}", stdout) from None
        if document is None:
            return {}
        if not isinstance(document, dict):
            raise _undecodable(plugin_type, "not a JSON object", stdout)
        return document

    def refuse_missing(self, plugin_type: str) -> None:
        """Raise Missing where nothing of that name could be executed; nothing is."""
        _refuse_path(plugin_type)
        if self._host_root is None:
            self._found(plugin_type, [])
        else:
            below(self._host_root, lambda: self._found(plugin_type, []))

    def run(self, plugin_type: str, command: str, env: Mapping[str, str], stdin: bytes, deadline_s: float) -> bytes:
        """Run one verb and return its stdout. Raises Deadline, or CNIError for all else that goes wrong."""
        _refuse_path(plugin_type)
        ends = time.monotonic() + deadline_s
        mark = descendants.new_mark()
        order = _Order(plugin_type, self._environment(command, env, mark), stdin, mark)
        try:
            process = self._start(order, min(ends, time.monotonic() + _BUSY_S))
            output = _attend(process, mark, ends)
        except OSError as problem:  # no descriptor left to watch it with: it was killed
            raise _unusable(plugin_type, problem) from problem
        finally:
            descendants.finished(mark)
        if not output.has_exited and not output.is_too_long:
            raise _overdue(plugin_type, command, deadline_s, output)
        return _verdict(plugin_type, process.returncode, output)

    def _environment(self, command: str, env: Mapping[str, str], mark: descendants.Mark) -> dict[str, str]:
        path = ":".join(str(directory) for directory in self._bin_dirs)
        own = {"PATH": os.environ.get("PATH", os.defpath), "CNI_PATH": path}
        return {**own, **env, "CNI_COMMAND": command, descendants.VARIABLE: mark.token}

    def _start(self, order: _Order, busy_until: float) -> subprocess.Popen[bytes]:
        while True:
            try:
                if self._host_root is None:
                    return self._launch(order)
                return below(self._host_root, lambda: self._launch(order))
            except OSError as error:
                if error.errno != errno.ETXTBSY or time.monotonic() > busy_until:
                    raise _unusable(order.plugin_type, error) from error
            except ValueError as error:  # a NUL in a variable
                raise errors.CNIError(errors.Code.INVALID_ENVIRONMENT, f"plugin environment: {error}") from None
            time.sleep(_BUSY_PAUSE_S)

    def _launch(self, order: _Order) -> subprocess.Popen[bytes]:
        path = self._found(order.plugin_type, order.environ["CNI_PATH"].split(":"))
        with _file(order.stdin) as fd, descendants.marking(order.mark):
            process = subprocess.Popen(
                [path],
                env=order.environ,
                cwd="/",
                stdin=fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
            descendants.started(order.mark, process.pid)
            return process

    def _found(self, plugin_type: str, cni_path: Sequence[str]) -> str:
        """Return the plugin as libcni finds it: the first regular file of that name."""
        places = [str(directory) for directory in self._bin_dirs]
        places += [place for place in cni_path if place and place not in places]
        for place in places:
            path = os.path.join(place, plugin_type)
            if os.path.isfile(path):
                return path
        where = ", ".join(places) or "no directory at all"
        raise Missing(f"no plugin {plugin_type!r} on this node", f"looked in {where}")


def _refuse_path(plugin_type: str) -> None:
    """Rule 1."""
    if not plugin_type or "/" in plugin_type or "\0" in plugin_type:
        raise Missing(f"plugin type {plugin_type!r} is not a file name", code=errors.Code.INVALID_CONFIG)


@contextmanager
def hearing() -> Iterator[bytearray]:
    """Yield what plugins say on stderr that this thread runs in the body of the `with` (SPEC 1.1.0 §4)."""
    _listener.heard = bytearray()
    try:
        yield _listener.heard
    finally:
        del _listener.heard


@contextmanager
def _file(content: bytes) -> Iterator[int]:
    """Yield a descriptor to read `content` from. Unlike a pipe it takes any length with nobody writing."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _unshare_root() -> None:
    if _libc.unshare(_CLONE_FS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare CLONE_FS: {os.strerror(number)}")


def below(root: Path, action: Callable[[], T]) -> T:
    """Return what `action` returns in a thread that has `root` as its root directory and ends right after.

    Links lead there to where they lead on the node. Raises what `action` raises, OSError without the root.
    """
    outcome: Future[T] = Future()

    def enter_and_act() -> None:
        try:
            _unshare_root()
            os.chroot(root)
            outcome.set_result(action())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.set_exception(error)

    try:
        threading.Thread(target=enter_and_act, name="delegate", daemon=True).start()
    except RuntimeError as problem:  # no thread is to be had
        raise OSError(errno.EAGAIN, str(problem)) from None
    return outcome.result()


def _attend(process: subprocess.Popen[bytes], mark: descendants.Mark, ends: float) -> _Output:
    """Read what the plugin prints until it exits (rule 5). One that may not go on is killed (rule 4)."""
    output = _Output()
    try:
        _read_until_exit(process, output, ends)
    finally:
        if not output.has_exited:
            output.unkillable = _killed(process, mark)
        if process.pid in output.unkillable:
            process.returncode = -signal.SIGKILL  # it is left behind, to be reaped whenever it dies
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return output


def _killed(process: subprocess.Popen[bytes], mark: descendants.Mark) -> tuple[int, ...]:
    """Kill the plugin and all that it started. Where no descriptor is left to look for those, it dies alone."""
    try:
        unkillable = descendants.kill(mark)
    except OSError as problem:
        log.warning("what plugin %d started cannot be looked for: %s", process.pid, problem)
        unkillable = ()
    if process.pid not in unkillable:
        process.kill()  # nothing where it is dead
    return unkillable


def _read_until_exit(process: subprocess.Popen[bytes], output: _Output, ends: float) -> None:
    """Return when the plugin has exited, printed too much, or run out of time."""
    assert process.stdout is not None
    assert process.stderr is not None
    buffers = {process.stdout.fileno(): output.stdout, process.stderr.fileno(): output.stderr}
    poll = select.poll()
    for fd in buffers:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    with descendants.opened(process.pid) as exit_fd:
        poll.register(exit_fd, select.POLLIN)
        while (left := ends - time.monotonic()) > 0 and not output.has_exited and not output.is_too_long:
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            output.has_exited = exit_fd in ready
            for fd, buffer in tuple(buffers.items()):
                # What was printed just before the exit may have come after the poll.
                if (fd in ready or output.has_exited) and not _take(fd, buffer):
                    poll.unregister(fd)
                    del buffers[fd]
            del output.stderr[:-_STDERR_TAIL]


def _take(fd: int, buffer: bytearray) -> bool:
    """Append all that is in the pipe; False at its end."""
    try:
        chunk = os.read(fd, _PIPE_MAX)
    except BlockingIOError:
        return True
    buffer += chunk
    return bool(chunk)


def _verdict(plugin_type: str, status: int, output: _Output) -> bytes:
    """Return the stdout of a plugin that succeeded; raise the error of one that did not (rule 3)."""
    if output.is_too_long:
        message = f"plugin {plugin_type} printed more than {_STDOUT_LIMIT} bytes and was killed"
        raise errors.CNIError(errors.Code.INTERNAL, message)
    if output.stderr:
        log.debug("plugin %s: %s", plugin_type, _tail(output.stderr))
        if (heard := getattr(_listener, "heard", None)) is not None:
            heard += output.stderr
    if status == 0:
        return bytes(output.stdout)
    raise _own_error(output.stdout) or errors.CNIError(
        errors.Code.INTERNAL,
        f"plugin {plugin_type} {_death(status)}",
        _tail(output.stderr) or _tail(output.stdout) or "it printed nothing",
    )


def _own_error(stdout: bytes | bytearray) -> errors.CNIError | None:
    try:
        document = jsontext.loads(stdout.decode())
    except ValueError:
        return None
    if not isinstance(document, dict) or not {"code", "msg"} & document.keys():
        return None
    return errors.CNIError.from_document(document)


def _death(status: int) -> str:
    if status >= 0:
        return f"failed with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _tail(text: bytes | bytearray) -> str:
    return bytes(text[-_TOLD:]).decode(errors="replace").strip()


def _overdue(plugin_type: str, command: str, deadline_s: float, output: _Output) -> Deadline:
    message = f"plugin {plugin_type} did not finish {command} within {deadline_s:.3g} s and was killed"
    if output.unkillable:
        message += f", except for what cannot be killed now: processes {', '.join(map(str, output.unkillable))}"
    return Deadline(message)


def _unusable(plugin_type: str, error: OSError) -> errors.CNIError:
    code = errors.Code.TRY_AGAIN if error.errno in _WANTS else errors.Code.IO_FAILURE
    return errors.CNIError(code, f"plugin {plugin_type} cannot be executed: {error}")


def _undecodable(plugin_type: str, reason: str, stdout: bytes) -> errors.CNIError:
    message = f"plugin {plugin_type} printed a result that is {reason}"
    return errors.CNIError(errors.Code.DECODE_FAILURE, message, _tail(stdout))
