"""Whole CNI calls as a runtime makes them, side by side with the reference plugins: `python -m benchmarks.cni_calls`.

What is measured is one process from its start to its end: ADD and DEL of one interface into a network namespace, alone
and eight at a time, plain L2 and with host-local. The plugins take turns, so that a noisy minute is everybody's. The
whole runs in a network and mount namespace of its own; the agent is a real one, with its journal on this disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e import build

REPOSITORY = Path(__file__).parent.parent
AT_ONCE, BURST = 8, 100
AIM: Mapping[str, float] = {"ADD hotnic L2": 3.0}
_INSIDE = "HOTNIC_BENCHMARK_NAMESPACES"


@dataclass(frozen=True)
class Plugin:
    """One that takes part: what is executed, and with which configuration."""

    name: str
    executable: Path
    config: Mapping[str, Any]
    times: dict[str, list[float]] = field(default_factory=dict)


def main() -> int:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cni_calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="calls of each plugin (default 100)")
    arguments = parser.parse_args()
    if not os.environ.get(_INSIDE):
        again = [
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            sys.executable,
            "-m",
            "benchmarks.cni_calls",
        ]
        environment = {**os.environ, _INSIDE: "1"}
        return subprocess.run([*again, "--rounds", str(arguments.rounds)], env=environment, check=False).returncode
    master = "ip link add m0 type veth peer name m1; ip link set m0 up; ip link set m1 up"
    prepare = f"mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip link set lo up; {master}"
    subprocess.run(["sh", "-ec", prepare], check=True)
    with tempfile.TemporaryDirectory(prefix="hotnic-benchmark-") as name, agent(Path(name)) as run_dir:
        plugins = participants(run_dir)
        one_at_a_time(plugins, arguments.rounds)
        burst(plugins)
    return 0


def participants(run_dir: Path) -> list[Plugin]:
    native, portable, peers = REPOSITORY / "bin/hotnic", REPOSITORY / "bin/hotnic.py", build.tools()
    ours = {"cniVersion": "1.1.0", "name": "bench", "type": "hotnic", "runDir": str(run_dir)}
    theirs = {"cniVersion": "1.0.0", "name": "bench"}
    bridge = {**ours, "device": "bridge", "bridge": "br-hn"}
    reference = {**theirs, "type": "bridge", "bridge": "br-go"}
    return [
        Plugin("hotnic L2", native, bridge),
        Plugin("hotnic.py L2", portable, bridge),
        Plugin("bridge L2", peers / "bridge", reference),
        Plugin("hotnic macvlan", native, {**ours, "device": "macvlan", "master": "m0"}),
        Plugin("macvlan", peers / "macvlan", {**theirs, "type": "macvlan", "master": "m0"}),
        Plugin("hotnic host-local", native, {**bridge, "ipam": pool("10.241.0.0/16")}),
        Plugin("bridge host-local", peers / "bridge", {**reference, "ipam": pool("10.242.0.0/16")}),
    ]


def pool(subnet: str) -> dict[str, Any]:
    return {"type": "host-local", "subnet": subnet, "dataDir": "/run/netns/leases"}


@contextmanager
def agent(folder: Path) -> Iterator[Path]:
    """Run an agent for as long as the body; yield where it serves."""
    folders = ["--run-dir", f"{folder}/run", "--state-dir", f"{folder}/state", "--cni-bin-dir", str(build.tools())]
    command = [str(Path(sys.executable).parent / "hotnic-agent"), *folders, "--cri", "", "--log-level", "warning"]
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 30
        while not (folder / "run/cni.sock").is_socket():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the agent does not start")
            time.sleep(0.05)
        yield folder / "run"
    finally:
        process.terminate()
        process.wait()


def one_at_a_time(plugins: list[Plugin], rounds: int) -> None:
    for number in range(rounds + 5):
        for plugin in plugins:
            with netns(f"b{number}") as path:
                for verb in ("ADD", "DEL"):
                    took = call(plugin, verb, f"c{number}", path)
                    if number >= 5:  # the first make the bridge, and warm caches
                        plugin.times.setdefault(verb, []).append(took)
    print(f"\none call at a time, {rounds} of each; milliseconds of the whole process")
    peers = {"hotnic L2": "bridge L2", "hotnic.py L2": "bridge L2", "hotnic macvlan": "macvlan",
             "hotnic host-local": "bridge host-local"}  # fmt: skip
    medians = {(one.name, verb): statistics.median(times) for one in plugins for verb, times in one.times.items()}
    row("", "min", "median", "p95", "max", "aim", "peer", "ratio")
    for plugin in plugins:
        for verb, times in plugin.times.items():
            peer = medians.get((peers.get(plugin.name, ""), verb))
            median = medians[plugin.name, verb]
            p95 = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else median
            row(f"{verb} {plugin.name}", f"{min(times):.2f}", f"{median:.2f}", f"{p95:.2f}", f"{max(times):.2f}",
                AIM.get(f"{verb} {plugin.name}", "-"), f"{peer:.2f}" if peer else "-",
                f"{peer / median:.1f}x" if peer else "-")  # fmt: skip


def burst(plugins: list[Plugin], rounds: int = 3) -> None:
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for plugin in (one for one in plugins if "macvlan" not in one.name):
            names = [f"p{number}" for number in range(BURST)]
            for name in names:
                subprocess.run(["ip", "netns", "add", name], check=True)
            for verb in ("ADD", "DEL"):
                begun = time.perf_counter()
                with ThreadPoolExecutor(AT_ONCE) as pool_of_callers:
                    list(pool_of_callers.map(lambda name: call(plugin, verb, name, f"/run/netns/{name}"), names))  # noqa: B023
                figures.setdefault(f"{verb} {plugin.name}", []).append(time.perf_counter() - begun)
            for name in names:
                subprocess.run(["ip", "netns", "del", name], check=True)
    print(f"\n{BURST} calls, {AT_ONCE} at a time; seconds for all, median of {rounds}")
    peers = {"hotnic L2": "bridge L2", "hotnic.py L2": "bridge L2", "hotnic host-local": "bridge host-local"}
    for name, seconds in figures.items():
        verb, _, plugin_name = name.partition(" ")
        peer = figures.get(f"{verb} {peers.get(plugin_name, '')}")
        ratio = f"{statistics.median(peer) / statistics.median(seconds):.1f}x" if peer else "-"
        row(name, f"{statistics.median(seconds):.2f}", ratio)


def call(plugin: Plugin, verb: str, container: str, path: str, args: str = "") -> float:
    """Run the plugin once; return the milliseconds from its start to its end."""
    environment = {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": path, "CNI_IFNAME": "net1",
        "CNI_PATH": str(build.tools()), "CNI_ARGS": args, "PATH": os.environ["PATH"],
    }  # fmt: skip
    answer, stdin = os.memfd_create("answer"), os.memfd_create("stdin")
    try:
        os.write(stdin, json.dumps(plugin.config).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, answer, 1)]
        begun = time.perf_counter()
        child = os.posix_spawn(plugin.executable, [plugin.executable.name], environment, file_actions=actions)
        _, status = os.waitpid(child, 0)
        took = time.perf_counter() - begun
        if status:
            os.lseek(answer, 0, os.SEEK_SET)
            raise RuntimeError(f"{plugin.name} {verb}: {os.read(answer, 4096).decode()}")
    finally:
        os.close(answer)
        os.close(stdin)
    return took * 1000


@contextmanager
def netns(name: str) -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def row(name: str, *cells: object) -> None:
    print(f"  {name:<22}" + "".join(f"{cell!s:>10}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
