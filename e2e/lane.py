"""Run a command in a lane: a cluster in namespaces of its own, gone with the command.

    python -m e2e.lane run [--nodes N] [--runtime NAME] -- COMMAND…
    python -m e2e.lane up [--nodes N] [--name NAME]; exec|shell [--name NAME] …; list; down [--name NAME]

Rule 1: everything that needs the outside (builds, packages) is done before the lane is entered; it has no network.
Rule 2: three processes stand outside: the launcher, and its janitor, which waits for the end of all and then
        removes the cgroups; and while one is starting, `up`. Nothing else of a lane can outlive it.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from e2e import cgroups, cluster, kernel, namespaces, prepare, progress, runtimes, services

_READY = namespaces.STATE / "ready"
_ENVIRONMENT = namespaces.STATE / "environment.json"
_START_FAILED = 70


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for; without a command the lane stays until it is killed."""

    name: str
    nodes: int
    runtime: str
    logs: Path | None
    command: tuple[str, ...]


def run(options: Options) -> int:
    """Bring a lane up, run the command in it, end it; return the command's exit code."""
    if options.command and (os.environ.get("HOTNIC_LANE") or os.environ.get("KUBECONFIG")):
        return namespaces.shell_code(subprocess.run(options.command, check=False).returncode)
    prepare.everything(options.runtime)
    cgroups.sweep()
    lane = cgroups.LaneId.of_this_process(options.name)
    janitor, leash = _start_janitor(lane)
    init = namespaces.fork_init(
        lambda: namespaces.enter_lane(lane),
        lambda: _inside(options),
        lambda: cgroups.create(cgroups.hierarchies(), f"{cgroups.PREFIX}{lane}"),
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too; we end when it does
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(init, signal.SIGKILL))
    if not options.command:
        namespaces.silence()
    code = namespaces.exit_code(os.waitpid(init, 0)[1])
    os.close(leash)
    os.waitpid(janitor, 0)
    return code


def _start_janitor(lane: cgroups.LaneId) -> tuple[int, int]:
    """Fork the janitor; return its pid, and the leash: once all holders of that are gone, it cleans up and ends."""
    slack, leash = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(leash)
        namespaces.silence()
        os.read(slack, 1)
        cgroups.remove(lane, timeout=60)
        os._exit(0)
    os.close(slack)
    return pid, leash


def _inside(options: Options) -> int:
    """Be the first process of the lane after its init: start the cluster, run the command."""
    try:
        added = cluster.environment()
        services.write_json(_ENVIRONMENT, added)
        os.environ.update(added)
        cluster.bring_up(options.nodes, options.runtime)
        _READY.touch()
        if options.command:
            signal.signal(signal.SIGINT, lambda *_: None)  # not ignored: the command would inherit that
            return namespaces.shell_code(subprocess.run(options.command, check=False).returncode)
        namespaces.silence()
        signal.pause()
    except services.StartError as error:
        progress.say(f"the lane did not come up: {error}")
    except FileNotFoundError as error:
        progress.say(str(error))
    finally:
        if options.logs:
            shutil.copytree(namespaces.STATE / "log", options.logs, dirs_exist_ok=True)
    return _START_FAILED


def up(options: Options) -> int:
    """Start a lane that stays, in the background, and say how to use it."""
    if find(options.name):
        progress.say(f"a lane named {options.name!r} is up already")
        return 1
    prepare.everything(options.runtime)
    launcher = os.fork()
    if launcher == 0:
        os.setsid()
        os._exit(run(replace(options, command=())))
    while not (init := _init_of(launcher)) or not Path(f"/proc/{init}/root{_READY}").exists():
        if os.waitpid(launcher, os.WNOHANG)[0]:
            return _START_FAILED
        time.sleep(0.1)
    print(
        f"""The lane {options.name!r} is up.
    a command in it:   python -m e2e.lane exec --name {options.name} -- kubectl get nodes
    a shell in it:     python -m e2e.lane shell --name {options.name}
    end it:            python -m e2e.lane down --name {options.name}"""
    )
    return 0


def find(name: str) -> cgroups.LaneId | None:
    """Return the living lane of that name."""
    return next((lane for lane in cgroups.lanes() if lane.name == name and lane.is_alive()), None)


def _init_of(launcher: int) -> int | None:
    """Return the lane's init: the child of the launcher that is process 1 somewhere."""
    for pid in kernel.children(launcher):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.splitlines()):
            return pid
    return None


def enter(name: str, command: Sequence[str]) -> NoReturn:
    """Execute a command in the lane of that name, in place of this process."""
    lane = find(name)
    init = _init_of(lane.pid) if lane else None
    if init is None:
        sys.exit(f"no lane named {name!r} is up: see python -m e2e.lane list")
    added = json.loads(Path(f"/proc/{init}/root{_ENVIRONMENT}").read_text())
    cgroups.join(cgroups.hierarchies(), f"{cgroups.PREFIX}{lane}")
    argv = ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-C", "--", "env", "-C", str(Path.cwd())]
    os.execvpe(argv[0], [*argv, *command], {**os.environ, **added})


def down(name: str) -> int:
    """End the lane of that name, and wait until nothing is left of it. None there is fine."""
    lane = find(name)
    if lane:
        pidfd = os.pidfd_open(lane.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not kernel.has_ended(pidfd, 30):
            progress.say(f"the launcher {lane.pid} of lane {name!r} does not end")
            return 1
    cgroups.sweep()
    progress.say(f"lane {name!r} is down")
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.lane", description="Run a command in a cluster of its own.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("run", "start a lane, run a command in it, end it"),
        ("up", "start a lane that stays"),
        ("exec", "run a command in a lane that is up"),
        ("shell", "open a shell in a lane that is up"),
        ("list", "name the lanes that are up"),
        ("down", "end a lane that is up"),
    ):
        sub = verbs.add_parser(verb, help=text)
        if verb != "list":
            sub.add_argument("--name", default="run" if verb == "run" else "up", help="which lane")
        if verb in {"run", "up"}:
            sub.add_argument("--nodes", type=int, default=1, help="how many nodes")
            sub.add_argument("--runtime", choices=runtimes.BY_NAME, default=runtimes.DEBIAN, help="of containers")
            sub.add_argument("--logs", type=Path, help="copy the components' logs to this folder at the end")
        if verb in {"run", "exec"}:
            sub.add_argument("command", nargs="+", help="the command, after --")
    return parser


def main() -> int:
    """Do what the command line says."""
    asked = _arguments().parse_args()
    match asked.verb:
        case "run" | "up":
            logs = asked.logs.absolute() if asked.logs else None
            options = Options(asked.name, asked.nodes, asked.runtime, logs, tuple(getattr(asked, "command", ())))
            return run(options) if asked.verb == "run" else up(options)
        case "exec":
            enter(asked.name, asked.command)
        case "shell":
            enter(asked.name, (os.environ.get("SHELL", "/bin/sh"),))
        case "down":
            return down(asked.name)
        case _:
            print("\n".join(str(lane) for lane in cgroups.lanes() if lane.is_alive()))
            return 0


if __name__ == "__main__":
    sys.exit(main())
