"""A network's plugins in turn, with a plugin that writes down how it was called."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agent import chain, network
from cni import errors, multinet

CALL = chain.Call(
    container_id="c1",
    netns="/run/netns/x",
    ifname="net1",
    args=(("IgnoreUnknown", "true"), ("K8S_POD_NAME", "p"), ("MAC", "02:00:00:00:00:01")),
    path=("/opt/cni/bin", "/usr/lib/cni"),
)

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


class Recorder:
    """Answers ADD with one more interface each, unless told otherwise per plugin type."""

    def __init__(self, **answers: Answer) -> None:
        self.calls: list[tuple[str, str, Mapping[str, str], dict[str, Any], float]] = []
        self._answers = answers

    def __call__(
        self, plugin_type: str, command: str, env: Mapping[str, str], config: Mapping[str, Any], deadline_s: float
    ) -> Mapping[str, Any] | None:
        self.calls.append((plugin_type, command, env, dict(config), deadline_s))
        if plugin_type in self._answers:
            return self._answers[plugin_type](config)
        return result(config["cniVersion"], plugin_type, config.get("prevResult")) if command == "ADD" else None

    @property
    def order(self) -> list[tuple[str, str]]:
        return [(plugin_type, command) for plugin_type, command, *_ in self.calls]

    def previous(self) -> list[Any]:
        return [config.get("prevResult", "none") for _, _, _, config, _ in self.calls]


def result(version: str, name: str, previous: Mapping[str, Any] | None = None) -> dict[str, Any]:
    interfaces = list((previous or {}).get("interfaces", ()))
    return {"cniVersion": version, "interfaces": [*interfaces, {"name": name}]}


def failing(code: int, message: str) -> Answer:
    def fail(_config: Mapping[str, Any]) -> None:
        raise errors.CNIError(code, message, "the details")

    return fail


def net_of(*types: str, version: str = "1.0.0", **more: Any) -> network.NetworkList:
    return network.NetworkList("n", version, tuple({"type": one} for one in types), **more)


def raised(action: Callable[[], object]) -> errors.CNIError:
    with pytest.raises(errors.CNIError) as caught:
        action()
    return caught.value


# -- ADD ------------------------------------------------------------------------------------------------------


def test_add_goes_forward_and_each_plugin_gets_the_result_before():
    plugin = Recorder()
    final = chain.add(net_of("a", "b", "c"), CALL, plugin)
    assert plugin.order == [("a", "ADD"), ("b", "ADD"), ("c", "ADD")]
    assert plugin.previous() == ["none", result("1.0.0", "a"), result("1.0.0", "b", result("1.0.0", "a"))]
    assert [one["name"] for one in final["interfaces"]] == ["a", "b", "c"]


def test_add_gives_the_environment_of_cni():
    plugin = Recorder()
    chain.add(net_of("a"), CALL, plugin)
    assert plugin.calls[0][2] == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "IgnoreUnknown=true;K8S_POD_NAME=p;MAC=02:00:00:00:00:01",
        "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    }


def test_add_injects_what_the_call_carries():
    plugin = Recorder()
    net = network.parse('{"type": "a", "capabilities": {"mac": true}}', "n")
    call = chain.Call("c1", "", "net1", runtime={"mac": "m"}, cni_args={"k": "v"}, device_id="d")
    chain.add(net, call, plugin)
    config = plugin.calls[0][3]
    assert (config["runtimeConfig"], config["args"], config["deviceID"]) == ({"mac": "m"}, {"cni": {"k": "v"}}, "d")


def test_the_first_failure_ends_an_add_and_says_whose_it_is():
    plugin = Recorder(b=failing(101, "no luck"))
    error = raised(lambda: chain.add(net_of("a", "b", "c"), CALL, plugin))
    assert plugin.order == [("a", "ADD"), ("b", "ADD")]
    assert (error.code, error.message, error.details) == (101, "plugin b failed (ADD): no luck", "the details")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param({"interfaces": []}, {"cniVersion": "1.0.0", "interfaces": []}, id="no version"),
        pytest.param({"cniVersion": "", "ips": []}, {"cniVersion": "1.0.0", "ips": []}, id="empty version"),
        pytest.param({}, {"cniVersion": "1.0.0"}, id="null"),
        pytest.param({"cniVersion": "1.0.0", "own": 1}, {"cniVersion": "1.0.0", "own": 1}, id="unknown keys stay"),
    ],
)
def test_a_result_without_a_version_speaks_the_networks(answer, expected):
    assert chain.add(net_of("a"), CALL, Recorder(a=lambda _: answer)) == expected


def test_a_result_in_another_version_is_converted():
    old = {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.1/24"}], "dns": {}}
    plugin = Recorder(a=lambda _: old)
    chain.add(net_of("a", "b"), CALL, plugin)
    assert plugin.previous()[1] == {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24"}]}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "plugin a failed (ADD): it printed no result"),
        ({"cniVersion": "1.0.0", "ips": 5}, "plugin a failed (ADD): its result cannot be read: "),
        ({"cniVersion": "0.4.0", "ips": 5}, "plugin a failed (ADD): its result cannot be read: "),
        ({"cniVersion": 5}, "plugin a failed (ADD): its result cannot be read: "),
    ],
)
def test_a_result_that_cannot_be_read_is_the_plugins_failure(answer, told):
    error = raised(lambda: chain.add(net_of("a"), CALL, Recorder(a=lambda _: answer)))
    assert error.message.startswith(told)


def test_a_list_without_plugins_is_no_network():
    assert raised(lambda: chain.add(net_of(), CALL, Recorder())).code == errors.Code.INVALID_CONFIG


# -- DEL ------------------------------------------------------------------------------------------------------


def test_delete_goes_backward_with_the_final_result_for_all():
    plugin = Recorder()
    final = result("1.0.0", "x")
    chain.delete(net_of("a", "b"), CALL, plugin, final)
    assert plugin.order == [("b", "DEL"), ("a", "DEL")]
    assert plugin.previous() == [final, final]


def test_delete_names_no_address_and_an_empty_namespace_where_it_is_gone():
    plugin = Recorder()
    chain.delete(net_of("a"), chain.Call("c1", "", "net1", args=CALL.args), plugin, None)
    env = plugin.calls[0][2]
    assert (env["CNI_NETNS"], env["CNI_ARGS"]) == ("", "IgnoreUnknown=true;K8S_POD_NAME=p")
    assert plugin.previous() == ["none"]


@pytest.mark.parametrize(("version", "is_given"), [("0.3.1", False), ("0.4.0", True), ("1.1.0", True)])
def test_delete_gives_the_result_since_0_4_0(version, is_given):
    plugin = Recorder()
    chain.delete(net_of("a", version=version), CALL, plugin, result(version, "x"))
    assert (plugin.previous() != ["none"]) is is_given


def test_delete_gives_the_result_in_the_version_of_the_network():
    plugin = Recorder()
    new = {"cniVersion": "1.1.0", "interfaces": [{"name": "x", "mtu": 1500}]}
    chain.delete(net_of("a", version="0.4.0"), CALL, plugin, new)
    assert plugin.previous() == [{"cniVersion": "0.4.0", "interfaces": [{"name": "x"}], "dns": {}}]


@pytest.mark.parametrize("remembered", [None, {}, {"cniVersion": "0.4.0", "ips": "garbage"}, {"ips": "garbage"}])
def test_delete_goes_without_a_result_that_cannot_be_read(remembered):
    plugin = Recorder()
    chain.delete(net_of("a"), CALL, plugin, remembered)
    assert plugin.previous() == ["none"]


def test_a_failing_delete_does_not_keep_the_others_from_theirs():
    plugin = Recorder(c=failing(11, "first"), b=failing(5, "second"))
    error = raised(lambda: chain.delete(net_of("a", "b", "c"), CALL, plugin, None))
    assert plugin.order == [("c", "DEL"), ("b", "DEL"), ("a", "DEL")]
    assert (error.code, error.message) == (11, "plugin c failed (DEL): first")


def test_who_does_not_speak_the_version_has_nothing_to_delete_where_nothing_was_added():
    plugin = Recorder(c=failing(1, "config is 9.1.0"), b=failing(5, "second"))
    error = raised(lambda: chain.delete(net_of("a", "b", "c"), CALL, plugin, None, was_added=False))
    assert plugin.order == [("c", "DEL"), ("b", "DEL"), ("a", "DEL")]
    assert error.code == 5
    assert raised(lambda: chain.delete(net_of("c"), CALL, plugin, None)).code == 1


def test_a_hanging_delete_leaves_time_for_the_others():
    plugin = Recorder(b=lambda _: time.sleep(0.15))
    call = chain.Call("c1", "", "net1", deadline_s=0.2)
    chain.delete(net_of("a", "b"), call, plugin, None)
    given = [deadline_s for *_, deadline_s in plugin.calls]
    assert given[0] == pytest.approx(0.15, abs=0.02)
    assert 0 < given[1] <= 0.05


def test_the_deadline_is_for_the_whole_list():
    plugin = Recorder(a=lambda config: time.sleep(0.05) or result("1.0.0", "a"))
    call = chain.Call("c1", "", "net1", deadline_s=0.04)
    error = raised(lambda: chain.add(net_of("a", "b"), call, plugin))
    assert plugin.order == [("a", "ADD")]
    assert (error.code, error.message) == (11, "plugin b failed (ADD): no time was left for it")


# -- CHECK, STATUS, GC ----------------------------------------------------------------------------------------


def test_check_goes_forward_with_the_final_result():
    plugin = Recorder()
    chain.check(net_of("a", "b"), CALL, plugin, result("1.0.0", "x"))
    assert plugin.order == [("a", "CHECK"), ("b", "CHECK")]
    assert plugin.previous() == [result("1.0.0", "x")] * 2
    assert "MAC" not in plugin.calls[0][2]["CNI_ARGS"]


def test_check_stops_at_the_first_failure():
    plugin = Recorder(a=failing(100, "link is gone"))
    error = raised(lambda: chain.check(net_of("a", "b"), CALL, plugin, None))
    assert error.message == "plugin a failed (CHECK): link is gone"
    assert plugin.order == [("a", "CHECK")]


def test_check_is_skipped_where_it_is_disabled_and_refused_where_it_does_not_exist():
    plugin = Recorder()
    chain.check(net_of("a", disable_check=True), CALL, plugin, None)
    error = raised(lambda: chain.check(net_of("a", version="0.3.1"), CALL, plugin, None))
    assert error.code == errors.Code.INCOMPATIBLE_VERSION
    assert plugin.calls == []


def test_status_is_about_no_container():
    plugin = Recorder()
    net = network.parse('{"cniVersion": "1.1.0", "type": "a", "capabilities": {"mac": true}}', "n")
    chain.status(net, chain.Call("c1", "x", "net1", runtime={"mac": "m"}, path=("/bin",)), plugin)
    _, command, env, config, _ = plugin.calls[0]
    assert command == "STATUS"
    assert {key: value for key, value in env.items() if value} == {"CNI_COMMAND": "STATUS", "CNI_PATH": "/bin"}
    assert "runtimeConfig" not in config


def test_status_keeps_the_plugins_code():
    plugin = Recorder(a=failing(50, "no uplink"))
    assert raised(lambda: chain.status(net_of("a", version="1.1.0"), CALL, plugin)).code == 50


def test_gc_tells_every_plugin_what_is_valid_and_goes_on_after_a_failure():
    plugin = Recorder(a=failing(100, "no"))
    net = net_of("a", "b", version="1.1.0")
    error = raised(lambda: chain.gc(net, CALL, plugin, [chain.Attachment("c1", "net1")]))
    assert error.message == "plugin a failed (GC): no"
    assert plugin.order == [("a", "GC"), ("b", "GC")]
    for _, _, env, config, _ in plugin.calls:
        assert env["CNI_CONTAINERID"] == ""
        assert config["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "net1"}]
        assert config["cni.dev/attachments"] == config["cni.dev/valid-attachments"]


def test_status_and_gc_do_not_exist_before_1_1_0_and_gc_can_be_disabled():
    plugin = Recorder()
    chain.status(net_of("a"), CALL, plugin)
    chain.gc(net_of("a"), CALL, plugin, ())
    chain.gc(net_of("a", version="1.1.0", disable_gc=True), CALL, plugin, ())
    assert plugin.calls == []


# -- CNI_ARGS -------------------------------------------------------------------------------------------------


def test_args_are_those_of_multus():
    bare = multinet.from_json('{"name": "n", "namespace": "ns"}')
    full = multinet.from_json(
        '{"name": "n", "namespace": "ns", "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1/24", "fd00::1/64"]}'
    )
    expected = (
        ("IgnoreUnknown", "true"),
        ("K8S_POD_NAMESPACE", "ns"),
        ("K8S_POD_NAME", "p"),
        ("K8S_POD_INFRA_CONTAINER_ID", "c1"),
        ("K8S_POD_UID", "uid"),
    )
    assert chain.kubernetes_args("ns", "p", "uid", "c1", bare) == expected
    more = (("MAC", "02:00:00:00:00:01"), ("IP", "10.0.0.1/24,fd00::1/64"))
    assert chain.kubernetes_args("ns", "p", "uid", "c1", full) == expected + more
