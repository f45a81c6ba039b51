"""The reference plugins, executed as a runtime would: in a node's namespace of the test's own, on the real kernel."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import cache, chain, delegate, network
from cni import errors
from e2e import build

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("node_netns")]

MAC = "02:00:00:00:00:42"


@pytest.fixture(scope="module")
def tools() -> Path:
    return build.tools()


@pytest.fixture
def execute(tools: Path) -> delegate.Executor:
    return delegate.Executor([tools])


@pytest.fixture
def call(tools: Path, pod_netns: str) -> chain.Call:
    args = (("IgnoreUnknown", "true"), ("K8S_POD_NAME", "p"))
    return chain.Call("c1", pod_netns, "net1", args=args, runtime={"mac": MAC}, path=(str(tools),))


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    ipam = {"type": "host-local", "subnet": "10.9.0.0/29", "dataDir": str(tmp_path / "leases")}
    return {
        "cniVersion": "1.0.0",
        "name": "blue",
        "plugins": [
            {"type": "bridge", "bridge": "br-blue", "ipam": ipam},
            {"type": "tuning", "capabilities": {"mac": True}, "mtu": 1400},
        ],
    }


def link(netns: str, name: str) -> Mapping[str, Any] | None:
    command = ["ip", "-n", Path(netns).name, "-json", "addr"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return next((one for one in found if one["ifname"] == name), None)


def leases(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "leases").rglob("10.*"))


def ports() -> list[str]:
    command = ["ip", "-json", "link", "show", "type", "veth"]
    return [
        one["ifname"] for one in json.loads(subprocess.run(command, check=True, capture_output=True).stdout or "[]")
    ]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_a_chain_is_made_checked_and_undone_in_every_version(execute, call, config, tmp_path, version):
    net = network.parse(json.dumps({**config, "cniVersion": version}), "nad")
    result = chain.add(net, call, execute)
    assert result["cniVersion"] == version
    assert result["ips"][0]["address"] == "10.9.0.2/29"
    made = link(call.netns, "net1")
    assert made is not None
    assert (made["mtu"], made["address"]) == (1400, MAC)
    assert leases(tmp_path) == ["10.9.0.2"]
    if version not in ("0.3.0", "0.3.1"):
        chain.check(net, call, execute, result)
    chain.status(net, call, execute)
    chain.gc(net, call, execute, [chain.Attachment("c1", "net1")])
    for _ in range(2):
        chain.delete(net, call, execute, result)
        assert link(call.netns, "net1") is None
        assert (leases(tmp_path), ports()) == ([], [])


def test_a_failing_check_says_what_is_wrong_and_whose_it_is(execute, call, config):
    net = network.parse(json.dumps(config), "nad")
    result = chain.add(net, call, execute)
    subprocess.run(["ip", "-n", Path(call.netns).name, "link", "set", "net1", "mtu", "1300"], check=True)
    with pytest.raises(errors.CNIError, match=r"plugin tuning failed \(CHECK\): .*MTU"):
        chain.check(net, call, execute, result)


def test_what_a_pod_left_behind_is_released_when_its_namespace_is_gone(execute, call, config, tmp_path):
    net = network.parse(json.dumps(config), "nad")
    result = chain.add(net, call, execute)
    subprocess.run(["ip", "netns", "del", Path(call.netns).name], check=True)
    gone = chain.Call("c1", "", "net1", path=call.path)
    chain.delete(net, gone, execute, result)
    assert leases(tmp_path) == []


def test_a_failed_chain_is_undone_by_its_delete(execute, call, config, tmp_path):
    config["plugins"].append({"type": "missing"})
    net = network.parse(json.dumps(config), "nad")
    with pytest.raises(errors.CNIError) as caught:
        chain.add(net, call, execute)
    assert caught.value.code == errors.Code.NOT_AVAILABLE
    assert str(caught.value).startswith("plugin missing failed (ADD): no plugin 'missing' on this node: looked in /")
    assert leases(tmp_path) == ["10.9.0.2"]
    with pytest.raises(errors.CNIError):
        chain.delete(net, call, execute, None)
    assert link(call.netns, "net1") is None
    assert (leases(tmp_path), ports()) == ([], [])


def test_a_plugins_error_is_told_with_its_code(execute, call):
    net = network.parse('{"cniVersion": "1.0.0", "type": "macvlan", "master": "nowhere0"}', "n")
    with pytest.raises(errors.CNIError) as caught:
        chain.add(net, call, execute)
    assert caught.value.code == errors.Code.INTERNAL
    assert "plugin macvlan failed (ADD): " in caught.value.message
    assert "Link not found" in caught.value.message


@pytest.fixture
def cached(tools: Path, config: Mapping[str, Any], call: chain.Call, tmp_path: Path) -> Path:
    """The file that libcni writes for an ADD of cnitool, in a mount namespace that keeps it off the machine."""
    confs, results = tmp_path / "net.d", tmp_path / "results"
    for path in (confs, results):
        path.mkdir()
    (confs / "blue.conflist").write_text(json.dumps(config))
    script = f"""mount -t tmpfs none /var/lib &&
        {tools}/cnitool add blue {call.netns} && cp /var/lib/cni/results/* {results}"""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "CNI_PATH": str(tools),
        "NETCONFPATH": str(confs),
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p",
        "CAP_ARGS": json.dumps({"mac": MAC}),
    }
    subprocess.run(["unshare", "-m", "sh", "-ec", script], env=environment, check=True, capture_output=True)
    return results


def test_what_a_runtime_attached_is_read_from_its_cache_and_removed(execute, cached, call, config, tmp_path):
    name = next(cached.iterdir()).name
    container_id = name.removeprefix("blue-").removesuffix("-net1")
    (found,) = cache.read([cached], container_id)
    assert (found.network, found.ifname, found.netns) == ("blue", "net1", call.netns)
    assert dict(found.cni_args)["K8S_POD_NAME"] == "p"
    assert found.capability_args == {"mac": MAC}
    assert json.loads(found.config_text) == config
    made = link(call.netns, "net1")
    assert made is not None
    assert made["address"] == MAC
    again = chain.Call(container_id, found.netns, found.ifname, found.cni_args, found.capability_args, path=call.path)
    chain.delete(network.parse(found.config_text, found.network), again, execute, found.result)
    assert link(call.netns, "net1") is None
    assert leases(tmp_path) == []
