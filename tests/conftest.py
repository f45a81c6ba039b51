"""Namespaces of the test's own: two empty ones, the node's and the pod's. Nothing of the machine's is touched."""

import ctypes
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from agent.netlink import Kernel
from tests import kernel_features, sriov
from tests.agent import native
from tests.openvswitch import OpenVSwitch, running

# Machines are noisy: how long an input takes to make says nothing about the code. One commit has one verdict: inputs
# are the same each time; HYPOTHESIS_PROFILE=search looks for others.
_NOISY = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow], "print_blob": True}
hypothesis.settings.register_profile("same", derandomize=True, **_NOISY)
hypothesis.settings.register_profile("search", **_NOISY)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def kernel(node_netns: None) -> Iterator[Kernel]:
    """The agent's hands in the kernel, in the namespace that the test is in."""
    native.KERNELS.append(Kernel())
    yield native.KERNELS[-1]
    native.KERNELS.pop().close()


@pytest.fixture
def second_pod_netns() -> Iterator[str]:
    """The path of another one, for a second pod."""
    yield from _new_netns()


@pytest.fixture
def pod_netns() -> Iterator[str]:
    """The path of a new network namespace that stands for a pod's."""
    yield from _new_netns()


def _new_netns() -> Iterator[str]:
    name = f"hntest-{uuid.uuid4().hex[:12]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def node_netns() -> Iterator[None]:
    """This thread, and those that it starts, in a new network namespace that stands for the node's."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if _libc.unshare(_CLONE_NEWNET) != 0:
        pytest.fail(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    yield
    assert _libc.setns(own, _CLONE_NEWNET) == 0
    os.close(own)


@pytest.fixture(params=["netdev", pytest.param("system", marks=kernel_features.needs("ovs_kernel"))])
def openvswitch(node_netns: None, request: pytest.FixtureRequest) -> Iterator[OpenVSwitch]:
    """A switch in the node's namespace, once with each datapath that this kernel allows; see tests/openvswitch.py."""
    with (
        tempfile.TemporaryDirectory(prefix="ovs-") as folder,  # not tmp_path: a Unix socket's path has 107 bytes
        running(Path(folder), request.param) as switch,
    ):
        yield switch


@pytest.fixture
def virtual_functions() -> Iterator[sriov.VirtualFunctions]:
    """Two virtual functions of a card, in the guest's own namespace; see tests/sriov.py."""
    with sriov.made(2) as functions:
        yield functions


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("netns") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="makes network namespaces, which takes root"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    kernel_features.require(item)
