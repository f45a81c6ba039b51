"""An Open vSwitch of the test's own: database and switch, in the network namespace of the thread that starts them.

    def test_…(node_netns, openvswitch):     the fixture of tests/conftest.py: one run for each datapath
        openvswitch.socket                   the database's Unix socket, for OVSDB (`openvswitch.remote`: "unix:…")
        openvswitch.add_bridge("br0")        a bridge whose packets the datapath under test carries
        openvswitch.vsctl("list-ports", "br0")

By itself it is a service: `python -m tests.openvswitch FOLDER` runs it until it is told to end. `FOLDER/ready` is there
once it serves, and `FOLDER/vsctl` is an ovs-vsctl that speaks to its database. Its folder has to be fetched by then
(`debs.unpacked`): in a network namespace of its own it reaches nothing.

Rule 1: the datapath `netdev` forwards in the daemon itself and needs of the kernel only TAP and packet sockets, so it
        runs on every machine; `system` is the kernel's module, which takes `needs("ovs_kernel")`.
Rule 2: everything it writes lies in one folder, nothing of the machine's Open vSwitch, if it has one, is touched.
Rule 3: both daemons are ended by their process, and die with the thread that started them.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from e2e import debs, kernel

Datapath = Literal["netdev", "system"]
_START_S = 60  # seconds; an emulated machine is slow


@dataclass(frozen=True, slots=True)
class OpenVSwitch:
    """A running switch, and the means to look at it."""

    folder: Path
    datapath: Datapath

    @property
    def socket(self) -> Path:
        """The Unix socket of the database."""
        return self.folder / "db.sock"

    @property
    def remote(self) -> str:
        """The database as OVSDB's clients name it."""
        return f"unix:{self.socket}"

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl and return what it printed. Raises CalledProcessError, with the reason in `stderr`."""
        return self._run(["ovs-vsctl", f"--db={self.remote}", "--timeout=30", *arguments])

    def ofctl(self, *arguments: str) -> str:
        """Run ovs-ofctl and return what it printed."""
        return self._run(["ovs-ofctl", "--timeout=30", *arguments])

    def appctl(self, *arguments: str) -> str:
        """Ask the running switch with ovs-appctl, as `fdb/show br0`, and return what it printed."""
        return self._run(["ovs-appctl", "-t", str(self.folder / "vswitchd.ctl"), "--timeout=30", *arguments])

    def add_bridge(self, name: str) -> None:
        """Make a bridge on the datapath under test; it forwards as a learning switch."""
        self.vsctl("add-br", name, "--", "set", "bridge", name, f"datapath_type={self.datapath}")

    def log(self) -> str:
        """Return what the switch has complained of."""
        return (self.folder / "vswitchd.log").read_text(errors="replace")

    def _run(self, command: Sequence[str]) -> str:
        env = _environment(self.folder)
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.rstrip("\n")


@contextmanager
def running(folder: Path, datapath: Datapath) -> Iterator[OpenVSwitch]:
    """Start both daemons with all that they write in `folder`; end them."""
    switch, env = OpenVSwitch(folder, datapath), _environment(folder)
    package = debs.unpacked(*debs.OPENVSWITCH)
    schema = package / "usr/share/openvswitch/vswitch.ovsschema"
    subprocess.run(["ovsdb-tool", "create", folder / "conf.db", schema], env=env, check=True, capture_output=True)
    with ExitStack() as daemons:
        database = ["ovsdb-server", f"--remote=p{switch.remote}", f"--unixctl={folder}/ovsdb.ctl", f"{folder}/conf.db"]
        daemons.enter_context(_daemon(database, env, folder / "ovsdb.log", switch.socket))
        switch.vsctl("--no-wait", "init")
        daemons.enter_context(_vswitchd(switch))
        yield switch


@contextmanager
def restarted(switch: OpenVSwitch) -> Iterator[None]:
    """End the switch's daemon as a package's update does, and start another, which serves in the body of a `with`."""
    switch.appctl("exit")
    control = switch.folder / "vswitchd.ctl"
    give_up = time.monotonic() + _START_S
    while control.is_socket():
        assert time.monotonic() < give_up, "the daemon does not end"
        time.sleep(0.02)
    with _vswitchd(switch):
        yield


@contextmanager
def _vswitchd(switch: OpenVSwitch) -> Iterator[None]:
    folder = switch.folder
    daemon = str(debs.unpacked(*debs.OPENVSWITCH) / "usr/lib/openvswitch-switch/ovs-vswitchd")
    command = [daemon, f"--unixctl={folder}/vswitchd.ctl", switch.remote]
    if switch.datapath == "netdev":
        command.insert(1, "--disable-system")
    with _daemon(command, _environment(folder), folder / "vswitchd.log", folder / "vswitchd.ctl") as process:
        try:
            yield
        finally:
            with suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
                switch.appctl("exit", "--cleanup")  # else the bridges' own links stay in the namespace
                process.wait(20)


@contextmanager
def _daemon(command: Sequence[str], env: dict[str, str], log: Path, ready: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*kernel.ENDS_WITH_PARENT, *command], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        give_up = time.monotonic() + _START_S
        while not ready.is_socket():
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{command[0]} does not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(folder: Path) -> dict[str, str]:
    package = debs.unpacked(*debs.OPENVSWITCH)
    private = dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"), os.fspath(folder))
    return {**debs.environment(package), **private, "OVS_PKGDATADIR": str(package / "usr/share/openvswitch")}


def main(folder: Path) -> None:
    """Serve with the datapath `netdev` until SIGTERM."""
    folder.mkdir()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with running(folder, "netdev") as switch:
        names = ("PATH", "LD_LIBRARY_PATH")
        own = " ".join(f"{name}={shlex.quote(_environment(folder)[name])}" for name in names)
        script = folder / "vsctl"
        script.write_text(f'#!/bin/sh\n{own} exec ovs-vsctl --db={switch.remote} --timeout=30 "$@"\n')
        script.chmod(0o755)
        (folder / "ready").touch()
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
