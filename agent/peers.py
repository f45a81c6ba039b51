"""What the controller has told of the underlay, kept over restarts: `underlay.json` in the state directory.

Rules
1. The file is whole or not there, and synced to disk: after a power loss with the API server away it is all there is.
2. What was told last counts until something else is told, however long ago that was.
3. A file that cannot be read is set aside for people (`damaged/`); the controller tells it all again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

from agent import underlay
from agent.underlay import Underlay

FORMAT = 1

log = logging.getLogger(__name__)


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
                self._write(told)
                self._told = told

    def _read(self) -> Underlay | None:
        if not self._path.exists():
            return None
        try:
            document = json.loads(self._path.read_bytes())
            version = document["format"]
            told = underlay.decode(document) if version == FORMAT else None
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            log.critical("damaged file set aside: %s: %s", self._path, problem)
            damaged = self._path.parent / "damaged"
            damaged.mkdir(exist_ok=True, mode=0o700)
            self._path.rename(damaged / self._path.name)
            return None
        if version != FORMAT:
            raise ValueError(f"{self._path} says version {version}, this agent understands {FORMAT}")
        return told

    def _write(self, told: Underlay) -> None:
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump({"format": FORMAT, **underlay.encode(told)}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
