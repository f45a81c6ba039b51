"""One execution of a CNI plugin, as a runtime does it, and what is seen of it from outside.

Rule 1: an outcome can be reproduced by hand: `Call.shell` is the command that shows it.
Rule 2: nothing hangs: a plugin that has not ended within the limit is killed, which is an outcome as well.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LIMIT_S = 60.0
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SHOWN, _SHOWN_STDIN = 800, 4096  # characters of what came out and of what went in, in the evidence


@dataclass(frozen=True, slots=True)
class Call:
    """What a runtime hands to a plugin."""

    plugin: str
    environ: Mapping[str, str] = field(hash=False)
    stdin: bytes

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": SYSTEM_PATH, **self.environ}

    @property
    def shell(self) -> str:
        """The command that does the same."""
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environ.items())
        return f"{variables} {shlex.quote(self.plugin)} <<< {shlex.quote(_excerpt(self.stdin, _SHOWN_STDIN))}".lstrip()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `code` is negative for a signal, None where it did not end in time."""

    call: Call
    code: int | None
    stdout: bytes
    stderr: bytes = b""

    @property
    def ok(self) -> bool:
        return self.code == 0

    def document(self) -> dict[str, Any]:
        """Return the one JSON object on stdout. Raises ValueError where there is none, or more than that."""
        document = json.loads(self.stdout)
        if not isinstance(document, dict):
            raise ValueError(f"stdout has a JSON {type(document).__name__}, not an object")  # noqa: TRY004 -- as json does
        return document

    def error(self) -> tuple[int | None, str]:
        """Return code and message of the error on stdout, None and nothing where there is no such document."""
        try:
            document = self.document()
        except ValueError:
            return None, ""
        code = document.get("code")
        number = code if isinstance(code, int) and not isinstance(code, bool) else None
        return number, f"{document.get('msg', '')} {document.get('details', '')}".strip()

    def __str__(self) -> str:
        ended = "did not end in time and was killed" if self.code is None else f"exit {self.code}"
        told = f"; stderr {_excerpt(self.stderr)!r}" if self.stderr.strip() else ""
        return f"$ {self.call.shell}\n  -> {ended}; stdout {_excerpt(self.stdout)!r}{told}"


def run(call: Call, limit_s: float = LIMIT_S) -> Outcome:
    """Execute it and wait until it has ended and nobody holds its stdout any more."""
    with subprocess.Popen(
        [call.plugin], env=call.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            stdout, stderr = process.communicate(call.stdin, timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return Outcome(call, None, b"", b"")
    return Outcome(call, process.returncode, stdout, stderr)


def _excerpt(stream: bytes, most: int = _SHOWN) -> str:
    text = stream.decode(errors="backslashreplace").strip()
    return text if len(text) <= most else f"{text[:most]}... ({len(stream)} bytes)"
