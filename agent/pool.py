"""Threads as needed, as far as there are any to be had.

The system may have no room for one more (memory, a limit of processes). Then what was submitted waits for the threads
that there are, and whoever submitted it, a server's loop maybe, goes on.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)


class Pool(ThreadPoolExecutor):
    """The first thread is there from the start, so that nothing waits for ever."""

    def __init__(self, most: int, thread_name_prefix: str) -> None:
        """Raises RuntimeError where not even one is to be had."""
        super().__init__(most, thread_name_prefix)
        super()._adjust_thread_count()

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError as problem:
            log.warning("%s: work waits for one of the threads that there are", problem)
