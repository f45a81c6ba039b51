"""A thousand attachments through the executable, sixteen calls at a time: none fails, and nothing is left."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.delegate import Executor
from e2e import build
from tests.agent.test_cni_calls import Agent, executable, links  # noqa: F401 a fixture

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

AT_ONCE, PODS, ROUNDS = 16, 50, 20


@pytest.fixture
def pods() -> Iterator[list[str]]:
    names = [f"hnthousand-{number}" for number in range(PODS)]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_a_thousand_come_and_go(tmp_path, pods, executable):  # noqa: F811 the fixture
    agent = Agent(tmp_path)
    agent.bin_dirs = (build.tools(),)
    agent.ipam = Executor((build.tools(),))
    agent.stop()
    agent.start()
    config = {
        "cniVersion": "1.1.0", "name": "n", "type": "hotnic", "device": "bridge", "bridge": "br0",
        "runDir": str(agent.run_dir),
    }  # fmt: skip
    leases = {"ipam": {"type": "host-local", "subnet": "10.200.0.0/16", "dataDir": str(tmp_path / "leases")}}

    def both(number: int) -> tuple[int, int]:
        name = pods[number % PODS]
        conf = {**config, **(leases if number % 10 == 0 else {})}
        results = []
        for verb in ("ADD", "DEL"):
            environ = {
                "CNI_COMMAND": verb, "CNI_CONTAINERID": f"c{number}", "CNI_IFNAME": f"n{number}",
                "CNI_NETNS": f"/run/netns/{name}", "CNI_PATH": str(build.tools()),
            }  # fmt: skip
            done = subprocess.run(
                [executable], env=environ, input=json.dumps(conf).encode(), capture_output=True, check=False
            )
            assert done.returncode == 0, (number, verb, done.stdout, done.stderr)
            results.append(done.returncode)
        return tuple(results)

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            assert list(pool.map(both, range(PODS * ROUNDS))) == [(0, 0)] * PODS * ROUNDS
        assert agent.journal.records() == ()
        assert links() == {"br0"}
        assert all(links(f"/run/netns/{name}") == set() for name in pods)
        assert [file for file in (tmp_path / "leases/n").iterdir() if file.name[0].isdigit()] == []
        assert list((tmp_path / "state/records").iterdir()) == []
    finally:
        agent.stop()
