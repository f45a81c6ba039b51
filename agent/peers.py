"""What the controller has told of the underlay, kept over restarts: `underlay.json` in the state directory.

Rules
1. The file is whole or not there, and synced to disk: after a power loss with the API server away it is all there is.
2. What was told last counts until something else is told, however long ago that was.
3. A file that cannot be read is set aside for people (`damaged/`); the controller tells it all again.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from agent import files, underlay
from agent.underlay import Underlay

FORMAT = 1


class Peers:
    """Safe for use by many threads."""

    def __init__(self, directory: Path) -> None:
        """Read what was told before. Raises ValueError where a newer version wrote it."""
        self._path = directory / "underlay.json"
        self._lock = threading.Lock()
        self._told = self._read()

    def get(self) -> Underlay | None:
        """Return what was told; None: nothing yet."""
        return self._told

    def set(self, told: Underlay) -> None:
        """Replace what was told. Raises OSError where it cannot be written: nothing has changed then."""
        with self._lock:
            if told != self._told:
                files.write(self._path, {"format": FORMAT, **underlay.encode(told)}, durable=True)
                self._told = told

    def _read(self) -> Underlay | None:
        if not os.path.lexists(self._path):
            return None
        try:
            document = files.read(self._path)
            version = document["format"]
            told = underlay.decode(document) if version == FORMAT else None
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            damaged = self._path.parent / "damaged"
            damaged.mkdir(exist_ok=True, mode=0o700)
            files.set_aside(self._path, damaged, problem)
            return None
        if version != FORMAT:
            raise ValueError(f"{self._path} says version {version}, this agent understands {FORMAT}")
        return told
