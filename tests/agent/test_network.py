"""Configurations as users write them, and what each plugin is given."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import network
from cni import errors

BRIDGE = {"cniVersion": "1.0.0", "name": "blue", "type": "bridge", "bridge": "br0"}


def parsed(document: Any, fallback: str = "nad") -> network.NetworkList:
    return network.parse(json.dumps(document), fallback)


def parsed_or_refused(document: Any) -> network.NetworkList | errors.CNIError:
    try:
        return parsed(document)
    except errors.CNIError as error:
        return error


def stdin(net: network.NetworkList, index: int = 0, **more: Any) -> dict[str, Any]:
    injected = {"prev_result": None, "runtime": {}, "cni_args": None, "device_id": ""} | more
    return network.plugin_stdin(net, net.plugins[index], **injected)


# -- reading --------------------------------------------------------------------------------------------------


def test_a_single_configuration_is_a_list_of_one():
    net = parsed(BRIDGE)
    assert (net.name, net.cni_version, net.plugins) == ("blue", "1.0.0", (BRIDGE,))


def test_a_list_has_its_plugins_in_order_and_its_switches():
    plugins = [{"type": "bridge"}, {"type": "tuning"}]
    document = {"cniVersion": "1.1.0", "name": "n", "plugins": plugins, "disableCheck": True, "disableGC": "true"}
    net = parsed(document)
    assert net.plugins == tuple(plugins)
    assert (net.disable_check, net.disable_gc) == (True, True)


def test_the_text_is_kept_as_it_was():
    text = '{ "type":"a" }'
    assert network.parse(text, "n").raw == text


@pytest.mark.parametrize("name", [None, ""])
def test_a_missing_name_is_the_definitions(name):
    assert parsed({"type": "a", "name": name}, "nad").name == "nad"
    assert parsed({"type": "a"}, "nad").name == "nad"


def test_a_plugin_with_a_key_called_plugins_is_still_a_single_configuration():
    net = parsed({"type": "meta", "plugins": ["a", "b"]})
    assert [plugin["type"] for plugin in net.plugins] == ["meta"]


@pytest.mark.parametrize(
    ("version", "versions", "expected"),
    [
        (None, None, "0.1.0"),
        ("", None, "0.1.0"),
        ("0.3.1", None, "0.3.1"),
        ("0.3.1", [], "0.3.1"),
        ("0.3.1", ["0.4.0", "1.0.0"], "1.0.0"),
        ("1.0.0", ["0.4.0"], "1.0.0"),
        (None, ["0.4.0", "1.1.0", "1.0.0"], "1.1.0"),
        ("1.0.0", ["1.2.0", "2.0.0"], "1.0.0"),
        ("0.4.0", ["0.10.0", "0.9.0"], "0.10.0"),
        ("9.9.9", None, "9.9.9"),  # the plugins will say what they think of it
        ("9.9.9", ["1.0.0"], "1.0.0"),
        ("1.2.0", ["1.3.0"], "1.2.0"),
    ],
)
def test_the_highest_version_that_we_know_is_spoken(version, versions, expected):
    document = {"type": "a", "cniVersion": version, "cniVersions": versions}
    assert parsed({key: value for key, value in document.items() if value is not None}).cni_version == expected


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("", 6, "not JSON"),
        ("{", 6, "not JSON: Expecting property name"),
        ("[]", 6, "must be a JSON object, not list"),
        ("null", 6, "must be a JSON object, not null"),
        ('{"type": "a", "mtu": NaN}', 6, "NaN"),
        ('{"type": 5}', 6, "type must be a string, not int"),
        ("{}", 7, "has no type"),
        ('{"type": ""}', 7, "has no type"),
        ('{"type": "a", "name": 5}', 6, "name must be a string, not int"),
        ('{"type": "a", "name": "a b"}', 7, "name 'a b'"),
        ('{"type": "a", "name": "../x"}', 7, "name '../x'"),
        ('{"type": "a", "cniVersion": 1}', 6, "cniVersion must be a string, not int"),
        ('{"type": "a", "cniVersion": "one"}', 7, "cniVersion: 'one'"),
        ('{"type": "a", "cniVersion": "1.0.0.0"}', 7, "cniVersion: '1.0.0.0'"),
        ('{"type": "a", "cniVersions": "1.0.0"}', 6, "cniVersions must be a list of strings"),
        ('{"type": "a", "cniVersions": [1]}', 6, "cniVersions must be a list of strings"),
        ('{"type": "a", "cniVersions": ["x"]}', 7, "cniVersion: 'x'"),
        ('{"plugins": {}}', 6, "plugins must be a list, not dict"),
        ('{"plugins": []}', 7, "plugins is empty"),
        ('{"plugins": [{"type": "a"}, 5]}', 6, "plugins[1] must be an object, not int"),
        ('{"plugins": [{"type": "a"}, {}]}', 7, "plugins[1] has no type"),
        ('{"plugins": [{"type": "a", "capabilities": []}, {}]}', 7, "plugins[1] has no type"),
        ('{"type": "a", "capabilities": ["mac"]}', 6, "capabilities must be an object of booleans"),
        ('{"type": "a", "capabilities": {"mac": "true"}}', 6, "capabilities must be an object of booleans"),
        ('{"plugins": [{"type": "a"}], "disableCheck": "perhaps"}', 6, "disableCheck must be true or false"),
        ('{"plugins": [{"type": "a"}], "disableGC": 1}', 6, "disableGC must be true or false"),
    ],
)
def test_what_is_wrong_is_named(text, code, told):
    with pytest.raises(errors.CNIError) as caught:
        network.parse(text, "nad")
    assert caught.value.code == code
    assert told in caught.value.message


def test_the_definitions_name_is_checked_too():
    with pytest.raises(errors.CNIError, match="name ''"):
        parsed({"type": "a"}, "")


def test_the_name_that_a_cache_knows_is_there_for_any_text():
    assert network.name(json.dumps(BRIDGE), "nad") == "blue"
    assert network.name('{"type": "a"}', "nad") == "nad"
    assert network.name("", "nad") == "nad"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["1.0.0", "0.4.0", "bridge"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["name", "type", "cniVersion", "cniVersions", "plugins", "capabilities", "args", "disableGC", "prevResult"]
)
_CONFIGURATION = st.dictionaries(_KEYS, _JSON | st.just([{"type": "a"}]))


@given(_CONFIGURATION, st.booleans())
def test_any_configuration_is_read_or_refused_with_a_reason(document, is_typed):
    net = parsed_or_refused({**document, "type": "a"} if is_typed else document)
    if isinstance(net, errors.CNIError):
        assert net.code in (errors.Code.DECODE_FAILURE, errors.Code.INVALID_CONFIG)
        assert net.message.startswith("network configuration")
        return
    for index in range(len(net.plugins)):
        got = stdin(net, index, prev_result={}, runtime={"mac": "m"}, cni_args={"a": 1}, device_id="d")
        assert json.loads(json.dumps(got)) == got
        assert (got["name"], got["args"]["cni"]["a"], got["prevResult"]) == (net.name, 1, {})


# -- what a plugin gets ---------------------------------------------------------------------------------------


def test_name_and_version_are_the_lists_in_every_plugin():
    net = parsed({"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "a", "name": "x", "cniVersion": "0.3.0"}]})
    assert stdin(net) == {"type": "a", "name": "n", "cniVersion": "1.0.0"}


def test_each_plugin_gets_the_capabilities_that_it_declares():
    capabilities = [{"mac": True, "ips": False}, {"ips": True, "bandwidth": True}, None]
    net = parsed({"name": "n", "plugins": [{"type": "a", "capabilities": one} for one in capabilities]})
    runtime = {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.1/24"]}
    assert stdin(net, 0, runtime=runtime)["runtimeConfig"] == {"mac": "02:00:00:00:00:01"}
    assert stdin(net, 1, runtime=runtime)["runtimeConfig"] == {"ips": ["10.0.0.1/24"]}
    assert "runtimeConfig" not in stdin(net, 2, runtime=runtime)
    assert "runtimeConfig" not in stdin(net, 0)


def test_a_previous_result_is_given_as_it_is():
    result = {"cniVersion": "1.0.0", "unknown": 1}
    assert stdin(parsed(BRIDGE), prev_result=result)["prevResult"] == result
    assert "prevResult" not in stdin(parsed(BRIDGE))


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, {"cni": {"a": 1}}),
        ({}, {"cni": {"a": 1}}),
        ({"cni": {"a": 0, "b": 2}, "org": 3}, {"cni": {"a": 1, "b": 2}, "org": 3}),
        ({"cni": None}, {"cni": {"a": 1}}),
        ("text", {"cni": {"a": 1}}),
    ],
)
def test_cni_args_of_the_annotation_go_over_the_configurations_own(own, expected):
    config = BRIDGE if own is None else {**BRIDGE, "args": own}
    assert stdin(parsed(config), cni_args={"a": 1})["args"] == expected


def test_a_device_id_is_written_into_every_plugin_under_both_names():
    net = parsed({"name": "n", "plugins": [{"type": "a"}, {"type": "b"}]})
    for index in (0, 1):
        document = stdin(net, index, device_id="0000:00:01.0")
        assert (document["deviceID"], document["pciBusID"]) == ("0000:00:01.0", "0000:00:01.0")


def test_the_configuration_itself_is_never_changed():
    config = {**BRIDGE, "capabilities": {"mac": True}, "args": {"cni": {"a": 0}}}
    net = parsed(config)
    stdin(net, prev_result={}, runtime={"mac": "m"}, cni_args={"a": 1}, device_id="d")
    assert net.plugins == (config,)


# -- capabilities that nobody declares ------------------------------------------------------------------------


def test_capabilities_that_no_plugin_declares_are_told():
    net = parsed(
        {"plugins": [{"type": "a", "capabilities": {"mac": True}}, {"type": "b", "capabilities": {"ips": False}}]}
    )
    asked = {"mac": "m", "ips": [], "bandwidth": {}, "deviceID": "d"}
    assert network.undeclared(net, asked) == ("ips", "bandwidth", "deviceID")
    assert network.undeclared(net, {}) == ()
