"""hotnic-agent: the node agent. Wires the parts together; decides nothing."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from agent import (
    cache,
    cni_server,
    cri,
    delegate,
    descendants,
    device,
    grpc_server,
    installer,
    metrics,
    netns,
    policy,
    primary,
    uninstaller,
)
from agent.attach import Attachments, Settings
from agent.audit import command
from agent.calls import Calls
from agent.collect import Collector
from agent.doctor import command as doctor
from agent.engine import Engine
from agent.guests.containers import Containers
from agent.guests.dial import Dialler
from agent.guests.relay import Relay
from agent.inspection import Inspector
from agent.journal import Journal
from agent.locks import Locks
from agent.model import ContainerID
from agent.netlink import Kernel
from agent.outcomes import Outcomes
from agent.peers import Peers
from agent.sandboxes import Sandboxes
from agent.underlay import Underlay
from agent.upkeep import Upkeep
from agent.watch import Watch
from cni import errors

log = logging.getLogger("agent")


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit status 0 then, 2 for unusable arguments; that of another command is its own."""
    if command_of := _COMMANDS.get(next(iter(sys.argv[1:]), "")):
        return command_of(sys.argv[2:])
    parser = _parser("hotnic-agent", "Plugs network interfaces into this node's pods.")
    parser.epilog = (
        "Other commands, each with --help: `doctor` says what is wrong with the node, and what to do; `audit` lists, "
        "and mends, what dead containers left on it; `install` puts a file onto it; `uninstall` takes hotnic off it."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if os.geteuid() != 0:
        print("hotnic-agent: must run as root: it makes network interfaces", file=sys.stderr)  # noqa: T201
        return 2
    try:
        agent = Agent(arguments)
    except (OSError, ValueError) as problem:
        print(f"hotnic-agent: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    agent.run()
    return 0


def _audit(argv: list[str]) -> int:
    about = "Lists what dead containers left behind. Places are those of the agent that serves, if none are named."
    parser = argparse.ArgumentParser(prog="hotnic-agent audit", description=about, allow_abbrev=False)
    _add_places(parser)
    command.add_options(parser)
    logging.basicConfig(level=logging.ERROR, format="hotnic-agent audit: %(message)s")
    try:
        return command.run(doctor.parse(parser, argv))
    except (OSError, ValueError, errors.CNIError) as problem:
        print(f"hotnic-agent audit: {problem}", file=sys.stderr)  # noqa: T201
        return command.BLIND


def _install(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hotnic-agent install", description="Puts a file of hotnic's onto the node.")
    installer.add_options(parser)
    logging.basicConfig(level=logging.INFO, format="hotnic-agent install: %(message)s")
    return installer.run(parser.parse_args(argv))


def _uninstall(argv: list[str]) -> int:
    parser = _parser("hotnic-agent uninstall", "Takes hotnic off this node; the agent's options say where things are.")
    uninstaller.add_options(parser)
    logging.basicConfig(level=logging.WARNING, format="hotnic-agent uninstall: %(message)s")
    try:
        return uninstaller.run(parser.parse_args(argv))
    except (OSError, ValueError, errors.CNIError) as problem:
        print(f"hotnic-agent uninstall: {problem}", file=sys.stderr)  # noqa: T201
        return 2


def _doctor(argv: list[str]) -> int:
    about = "Says what is wrong with this node. Places are those of the agent that serves, if none are named."
    parser = argparse.ArgumentParser(prog="hotnic-agent doctor", description=about, allow_abbrev=False)
    _add_places(parser)
    doctor.add_options(parser)
    logging.basicConfig(level=logging.CRITICAL, format="hotnic-agent doctor: %(message)s")
    try:
        return doctor.run(doctor.parse(parser, argv), version())
    except OSError as problem:
        print(f"hotnic-agent doctor: {problem}", file=sys.stderr)  # noqa: T201
        return 2


_COMMANDS = {"audit": _audit, "doctor": _doctor, "install": _install, "uninstall": _uninstall}


class Agent:
    """All parts of one agent."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Open everything. Raises OSError or ValueError for what the arguments name and cannot be used."""
        self._run_dir: Path = arguments.run_dir
        self._run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        root: Path | None = arguments.host_root
        view = netns.View(root)
        self.journal = Journal(arguments.state_dir)
        self._peers = Peers(arguments.state_dir)
        kernel, locks = Kernel(self._peers.get, view), Locks()
        self._kernel = kernel
        execute = delegate.Executor(arguments.cni_bin_dir, root)
        descendants.kill_survivors()  # of a predecessor that was killed: an ADD that finishes late would leak
        native = device.Native(kernel, execute, view, self.journal)
        conf_dirs = tuple(Path(view.place(str(path))) for path in arguments.cni_conf_dir)
        rules = _policy(arguments.policy)
        settings = Settings(tuple(arguments.cni_bin_dir), conf_dirs, view, arguments.delegate_timeout, rules)
        attachments = Attachments(self.journal, kernel, native, execute, settings)
        runtime = cri.Runtime(arguments.cri) if arguments.cri else None
        self._sandboxes = Sandboxes(runtime, self.journal, view)
        dialler = Dialler(Containers(runtime, view))
        guests = Relay(self.journal, kernel, view, dialler.connected)
        self.outcomes = Outcomes()
        caches = [Path(view.place(str(path))) for path in arguments.cni_cache_dir]

        def cached(container_id: ContainerID) -> tuple[cache.Cached, ...]:
            return cache.read(caches, container_id)

        inspector = Inspector(kernel, native, attachments, execute, view)
        self.engine = Engine(
            self.journal, self._sandboxes, attachments, kernel, self.outcomes, locks, view, cached, guests,
            inspector, Watch(),
        )  # fmt: skip
        self._upkeep = Upkeep(self.journal, native, inspector, locks)
        self.engine.drift.runtimes, self._upkeep.found = self._upkeep.look, self.engine.drift.found
        self._collector = Collector(self.journal, self._sandboxes, attachments, view, caches, conf_dirs)
        networks = primary.Networks(self.journal, self._sandboxes, self.outcomes, self.engine.look)
        calls = Calls(self.journal, native, attachments, locks, self._waiting_for, networks)
        self._keeper: installer.Keeper | None = None
        if arguments.install_dir is not None:
            called = str(arguments.cni_bin_dir[0])
            self._keeper = installer.Keeper(arguments.executable, arguments.install_dir, called, root)
        if arguments.metrics_address:
            self._measure(arguments.metrics_address)  # before any socket takes the place of another agent's
        self._cni = cni_server.Server(self._run_dir, calls.handle)
        self._controller_group: int | None = arguments.controller_group

    def _measure(self, address: str) -> None:
        """Raises ValueError or OSError where the address is not to be had."""
        metrics.RECORDS.set_function(lambda: len(self.journal.records()))
        metrics.PODS.set_function(lambda: len(self.journal.pods()))
        metrics.JOURNAL_DAMAGED.set_function(self.journal.damaged)
        metrics.serve(address, self._not_ready, self._lost)

    def run(self) -> None:
        """Serve until told to stop, then finish what is under way."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        self.engine.start()
        self._upkeep.start()
        self._collector.start(self.engine.caught_up)
        self._cni.start()
        servicer = grpc_server.Servicer(self.engine, self.outcomes, self._tell, self._waiting_for, version())
        server = grpc_server.serve(servicer, self._run_dir, self._controller_group)
        if self._keeper:
            self._keeper.start()  # last: who is called can answer
        log.info("hotnic-agent %s serves in %s", version(), self._run_dir)
        stop.wait()
        log.info("stopping: the calls under way are finished")
        if self._keeper:
            self._keeper.close()
        server.stop(grace=1).wait()
        self._cni.close()
        self.engine.close()
        self._upkeep.close()
        self._collector.close()
        self._kernel.close()
        self.journal.close()

    def _tell(self, told: Underlay) -> None:
        """Tell who depends on the underlay what it is now."""
        self._peers.set(told)
        self._upkeep.touch()
        self.engine.retry()

    def _waiting_for(self) -> tuple[str, ...]:
        problem = self._sandboxes.unavailable()
        return (f"container runtime: {problem}",) if problem else ()

    def _not_ready(self) -> tuple[str, ...]:
        """Who calls the executable has it: what keeps it from being installed is no reason to refuse a call."""
        return (*self._waiting_for(), *(self._keeper.waiting_for() if self._keeper else ()))

    def _lost(self) -> tuple[str, ...]:
        return self._keeper.lost() if self._keeper else ()


def version() -> str:
    return importlib.metadata.version("hotnic")


def _policy(path: Path | None) -> policy.Policy:
    """Raises OSError where the file cannot be read, ValueError where it is wrong."""
    if path is None:
        return policy.Policy()
    try:
        return policy.parse(path.read_text())
    except policy.PolicyError as problem:
        raise ValueError(f"--policy {path}: {problem}") from None


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description)
    _add_places(parser)
    add = parser.add_argument
    add(
        "--delegate-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="for all plugins of one network",
    )
    add("--policy", type=Path, metavar="FILE", help="what networks may make of the node, YAML; default: everything")
    add(
        "--install-dir",
        type=Path,
        metavar="DIR",
        help="keep the CNI executable current here: the first --cni-bin-dir, writable; default: it is somebody else's",
    )
    add("--executable", type=Path, default=Path("/opt/hotnic/bin/hotnic"), metavar="FILE", help="what is installed")
    add("--controller-group", type=int, metavar="GID", help="who may use agent.sock besides root; default: nobody")
    add("--metrics-address", default="", metavar="HOST:PORT", help="loopback only; empty: none")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run-dir", type=Path, default=Path("/run/hotnic"), help="sockets: cni.sock, agent.sock")
    add("--state-dir", type=Path, default=Path("/var/lib/hotnic"), help="the journal")
    add("--cri", default="unix:///run/containerd/containerd.sock", help="CRI endpoint; empty: none")
    add("--cni-bin-dir", type=Path, nargs="+", default=[Path("/opt/cni/bin")], help="where CNI plugins are")
    add(
        "--cni-conf-dir",
        type=Path,
        nargs="+",
        default=[Path("/etc/cni/net.d")],
        help="network configurations on disk",
    )
    add(
        "--cni-cache-dir",
        type=Path,
        nargs="+",
        default=list(cache.DIRECTORIES),
        help="result caches to adopt from",
    )
    add("--host-root", type=Path, default=None, help="where the node's root directory is mounted")


if __name__ == "__main__":
    sys.exit(main())
