"""What the guest tells on its serial console: its NICs, each time that they change (`files/guest_init`)."""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from e2e.timeline import Seen

_TOLD = re.compile(r"^hotnic guest:(.*)\r?\n", re.MULTILINE)
_LOOK_S = 0.005


def told(text: str) -> Iterator[dict[str, str]]:
    """Yield the MACs of the NICs by name, once for each change, the oldest first; without loopback."""
    for line in _TOLD.findall(text):
        pairs = dict(word.split("=") for word in line.split())
        yield {name: mac for name, mac in pairs.items() if name != "lo"}


@contextmanager
def listening(path: Path, before: Mapping[str, str]) -> Iterator[Seen]:
    """Note when MACs come and go: from what they are now (`before`) on, to some 5 ms."""
    seen, stop = Seen(), threading.Event()
    position = path.stat().st_size

    def run() -> None:
        known, read = set(before.values()), position
        while not stop.is_set():
            more = path.read_bytes()[read:]
            lines = more[: more.rfind(b"\n") + 1]
            read += len(lines)
            for nics in told(lines.decode(errors="replace")):
                now = set(nics.values())
                for mac in now ^ known:
                    seen.note(mac, present=mac in now)
                known = now
            time.sleep(_LOOK_S)

    listener = threading.Thread(target=run)
    listener.start()
    try:
        yield seen
    finally:
        stop.set()
        listener.join()
