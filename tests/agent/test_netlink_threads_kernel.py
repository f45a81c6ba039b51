"""Threads come and go with the work; their netlink sockets go with them."""

import os
import threading

import pytest

pytestmark = pytest.mark.netns


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_thread_that_has_ended_leaves_no_socket(kernel):
    before = descriptors()
    for _ in range(50):
        thread = threading.Thread(target=kernel.bridge_mac, args=("lo",))
        thread.start()
        thread.join()
    assert descriptors() - before <= 1


def test_threads_that_live_keep_theirs(kernel):
    both, seen = threading.Barrier(3), []

    def look() -> None:
        for _ in range(3):
            both.wait(10)
            seen.append(kernel.bridge_mac("lo"))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [""] * 9
