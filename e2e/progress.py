"""Tell the person who waits what is going on: one line per thing, with the seconds since the start."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Print one progress line to standard error."""
    if not os.environ.get("HOTNIC_QUIET"):
        print(f"[{time.monotonic() - _STARTED:6.1f}s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say that `text` begins, and, if it took over a second, that it is done."""
    say(f"{text} …")
    before = time.monotonic()
    yield
    took = time.monotonic() - before
    if took > 1:
        say(f"{text}: done in {took:.1f} s")
