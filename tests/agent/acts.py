"""What each capability of the agent is for, one act of its own code: `-m tests.agent.acts CAPABILITY FOLDER PID`.

Ends with status 0 where the act succeeds. FOLDER holds what the acts need, PID is a process of another user.
"""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from agent import delegate, netns
from agent.guests import reach
from agent.guests.containers import Containers
from agent.model import ContainerID
from agent.netlink import Kernel
from agent.sandboxes import Sandbox
from agent.watch import Watch


def net_admin(_: Path, __: int) -> None:
    """Make links."""
    assert Kernel().makes("veth")


def sys_admin(_: Path, pid: int) -> None:
    """Work in a pod's network namespace."""
    with netns.View().opened(f"/proc/{pid}/ns/net") as fd, netns.entered(fd):
        pass


def net_broadcast(_: Path, __: int) -> None:
    """Hear what happens in the pods."""
    assert Watch().hears_pods, "no pod is heard"


def sys_chroot(folder: Path, _: int) -> None:
    """Execute a plugin with the node's root directory as its own."""
    execute = delegate.Executor([folder], Path("/"))
    execute.run("well", "VERSION", {}, b"", 10)


def sys_nice(folder: Path, _: int) -> None:
    """Find what a plugin left behind that has shed its environment, its session and its parents."""
    with suppress(delegate.Deadline):
        delegate.Executor([folder]).run("hides", "ADD", {}, b"", 1)
    hidden = Path("/proc", (folder / "hidden").read_text().strip())
    assert not hidden.exists(), "it has survived its plugin"


def sys_ptrace(_: Path, pid: int) -> None:
    """See the files of a container whose processes are another user's."""
    runtime = SimpleNamespace(containers=lambda _: {"vm": "1"}, process=lambda _: pid)
    with netns.View().opened(f"/proc/{pid}/ns/net") as fd:
        sandbox = Sandbox(ContainerID("1"), netns.identify(fd, ""))
    with Containers(runtime, netns.View()).root(sandbox, "vm"):  # type: ignore[arg-type]
        pass


def dac_override(folder: Path, _: int) -> None:
    """Speak to a virtual machine whose socket is another user's alone."""
    reach.connect(Path("/"), str(folder / "vm.sock"), time.monotonic() + 10).close()


ACTS: Mapping[str, Callable[[Path, int], None]] = {
    act.__name__.upper(): act
    for act in (net_admin, sys_admin, net_broadcast, sys_chroot, sys_nice, sys_ptrace, dac_override)
}

if __name__ == "__main__":
    ACTS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
