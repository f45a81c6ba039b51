"""Requests: what the specification demands, in the order of the reference (pkg/skel)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import errors, request, version

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "0123456789abcdef" * 4,
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "net1",
    "CNI_ARGS": "",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}
CONFIG = {"cniVersion": "1.1.0", "name": "blue", "type": "hotnic"}
RESULT = {"cniVersion": "1.1.0", "interfaces": [{"name": "net1"}]}


def parse(environ=None, config=None, stdin=None):
    data = json.dumps(CONFIG if config is None else config).encode() if stdin is None else stdin
    return request.parse(ENVIRON | (environ or {}), data)


def refusal(environ=None, config=None, stdin=None):
    with pytest.raises(errors.CNIError) as caught:
        parse(environ, config, stdin)
    return caught.value


@pytest.mark.parametrize("cni_version", version.SUPPORTED)
def test_an_add_is_read(cni_version):
    read = parse(config=CONFIG | {"cniVersion": cni_version})
    assert (read.command, read.container_id, read.netns, read.ifname) == (
        "ADD",
        ENVIRON["CNI_CONTAINERID"],
        "/run/netns/x",
        "net1",
    )
    assert read.path == ("/opt/cni/bin", "/usr/lib/cni")
    assert read.config == request.NetConf(cni_version, "blue", "hotnic", None, CONFIG | {"cniVersion": cni_version})
    assert read.netns_override is False


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", ["CNI_PATH"]),
        ("STATUS", ["CNI_PATH"]),
    ],
)
def test_all_missing_variables_are_named_at_once(command, needed, empty):
    environ = {"CNI_COMMAND": command} | (dict.fromkeys(set(ENVIRON) - {"CNI_COMMAND"}, "") if empty else {})
    with pytest.raises(errors.CNIError) as caught:
        request.parse(environ, json.dumps(CONFIG).encode())
    assert caught.value.code == errors.Code.INVALID_ENVIRONMENT
    assert caught.value.message == f"required env variables [{','.join(needed)}] missing"


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"])
def test_each_missing_variable_is_named(variable):
    assert f"[{variable}]" in refusal({variable: ""}).message


def test_no_command_is_a_missing_variable():
    assert "[CNI_COMMAND]" in refusal({"CNI_COMMAND": ""}).message


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("container_id", ["../x", "-a", "a b", "a/b", "é", "\udcff"])
def test_container_id_outside_its_alphabet_is_refused(command, container_id):
    error = refusal({"CNI_COMMAND": command, "CNI_CONTAINERID": container_id}, CONFIG | {"prevResult": RESULT})
    assert (error.code, error.details) == (errors.Code.INVALID_ENVIRONMENT, container_id)
    assert "CNI_CONTAINERID" in error.message


@pytest.mark.parametrize("container_id", ["a", "0" * 64, "x" * 200, "cnitool-77383ca0a071"])
def test_container_id_of_any_length_is_taken(container_id):
    assert parse({"CNI_CONTAINERID": container_id}).container_id == container_id


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("ifname", ["a" * 16, "é" * 8, ".", "..", "a/b", "a:b", "a b", "a\tb"])
def test_ifname_that_the_kernel_refuses_is_refused(command, ifname):
    error = refusal({"CNI_COMMAND": command, "CNI_IFNAME": ifname}, CONFIG | {"prevResult": RESULT})
    assert (error.code, error.details) == (errors.Code.INVALID_ENVIRONMENT, ifname)
    assert "CNI_IFNAME" in error.message


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        (b"", 6),
        (b"[]", 6),
        (b'"x"', 6),
        (b'{"name": "blue"', 6),
        (b"\xff\xfe{}", 6),
        (b"\xef\xbb\xbf{}", 6),
        (b'{"name": 1}', 6),
        (b'{"mtu": NaN}', 6),
        (b"[" * 100_000, 6),
        (b"null", 7),
        (b"{}", 7),
        (b'{"name": null}', 7),
        (b'{"name": ""}', 7),
        (b'{"name": "a b"}', 7),
        (b'{"name": "../x"}', 7),
    ],
)
def test_configuration_that_is_none_is_refused(stdin, code):
    assert refusal(stdin=stdin).code == code


@pytest.mark.parametrize(
    ("config", "key"),
    [({"cniVersion": 1.1}, "cniVersion"), ({"type": []}, "type"), ({"prevResult": "x"}, "prevResult")],
)
def test_a_key_of_the_wrong_type_is_named(config, key):
    error = refusal(config=CONFIG | config)
    assert error.code == errors.Code.DECODE_FAILURE
    assert key in error.details


@pytest.mark.parametrize("stated", ["9.9.9", "1.1", "banana", "0.1.0", "0.2.0", "", None])
def test_versions_that_are_not_literally_supported_are_refused(stated):
    error = refusal(config=CONFIG | {"cniVersion": stated})
    assert (error.code, error.message) == (errors.Code.INCOMPATIBLE_VERSION, "incompatible CNI versions")
    assert repr(stated or "0.1.0") in error.details
    assert "1.1.0" in error.details


def test_no_version_is_0_1_0():
    assert "'0.1.0'" in refusal(config={"name": "blue"}).details


@pytest.mark.parametrize(
    ("command", "cni_version", "allowed"),
    [
        (command, cni_version, version.at_least(cni_version, since))
        for command, since in version.VERBS.items()
        for cni_version in version.SUPPORTED
        if command != "VERSION"
    ],
)
def test_verbs_exist_from_their_version_on(command, cni_version, allowed):
    config = CONFIG | {"cniVersion": cni_version, "prevResult": RESULT}
    if allowed:
        assert parse({"CNI_COMMAND": command}, config).command == command
    else:
        error = refusal({"CNI_COMMAND": command}, config)
        assert (error.code, error.message) == (1, f"config version does not allow {command}")


@pytest.mark.parametrize("command", ["FOO", "add", "VERSION", "ADD "])
def test_unknown_command_is_refused_by_name(command):
    error = refusal({"CNI_COMMAND": command})
    assert (error.code, error.message) == (errors.Code.INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")


# of two faults, the reference tells the one that it meets first
@pytest.mark.parametrize(
    ("environ", "config", "code"),
    [
        ({"CNI_CONTAINERID": "../x", "CNI_IFNAME": ""}, None, 4),  # the value before the missing one
        ({"CNI_IFNAME": "", "CNI_PATH": ""}, {"name": ""}, 4),  # the environment before the configuration
        ({"CNI_COMMAND": "FOO", "CNI_CONTAINERID": ""}, {"name": ""}, 7),  # the configuration before the command
        ({"CNI_COMMAND": "FOO"}, {"name": "blue", "cniVersion": 3}, 4),  # the command before the version
        ({"CNI_COMMAND": "CHECK"}, {"name": "blue", "cniVersion": "0.2.0"}, 1),  # the verb's version before ours
        ({}, {"name": "a b", "cniVersion": "9.9.9"}, 7),  # the name before the version
        ({}, {"name": "blue", "cniVersion": "9.9.9", "type": 3}, 1),  # the version before the rest
        ({"CNI_COMMAND": "CHECK"}, {"name": "blue", "cniVersion": "banana"}, 6),
    ],
)
def test_faults_are_told_in_the_order_of_the_reference(environ, config, code):
    assert refusal(environ, config).code == code


def test_value_before_missing_variable_names_the_value():
    assert "CNI_CONTAINERID" in refusal({"CNI_CONTAINERID": "../x", "CNI_IFNAME": ""}).message


@pytest.mark.parametrize("environ", [{"CNI_NETNS": ""}, {"CNI_NETNS": "/gone"}, {"CNI_ARGS": "x;=;a=b=c"}])
def test_del_needs_no_namespace(environ):
    assert parse({"CNI_COMMAND": "DEL"} | environ).netns == environ.get("CNI_NETNS", "/run/netns/x")


@pytest.mark.parametrize("garbage", [None, 3, "x", []])
def test_del_survives_a_broken_prev_result(garbage):
    assert parse({"CNI_COMMAND": "DEL"}, CONFIG | {"prevResult": garbage}).config.prev_result is None


def test_check_needs_a_prev_result():
    error = refusal({"CNI_COMMAND": "CHECK"})
    assert (error.code, "prevResult" in error.message) == (errors.Code.INVALID_CONFIG, True)


def test_prev_result_comes_as_it_was():
    assert parse(config=CONFIG | {"prevResult": RESULT}).config.prev_result == RESULT


def test_parameters_that_a_verb_does_not_need_are_not_checked():
    assert parse({"CNI_COMMAND": "STATUS", "CNI_CONTAINERID": "../x", "CNI_IFNAME": "a b"}).command == "STATUS"


def test_unknown_configuration_keys_are_kept_in_raw():
    config = CONFIG | {"capabilities": {"mac": True}, "cni.dev/foo": 1, "args": {"cni": {}}, "x": "é" * 100_000}
    assert parse(config=config).config.raw == config


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("", {}),
        (
            "IgnoreUnknown=1;K8S_POD_NAME=p;K8S_POD_UID=u",
            {"IgnoreUnknown": "1", "K8S_POD_NAME": "p", "K8S_POD_UID": "u"},
        ),
        ("FOO=BAR;ABC=1;", {"FOO": "BAR", "ABC": "1"}),
        ("A=b=c;nothing;=x;E=", {"A": "b=c", "E": ""}),
    ],
)
def test_cni_args_are_read_liberally(text, args):
    assert parse({"CNI_ARGS": text}).args == args


@pytest.mark.parametrize(("text", "override"), [("", False), ("1", True), ("true", True), ("TRUE", True), ("0", False)])
def test_netns_override(text, override):
    assert parse({"CNI_NETNS_OVERRIDE": text}).netns_override is override


def gc_list(*value):
    config = CONFIG | ({request.VALID_ATTACHMENTS: value[0]} if value else {})
    return request.valid_attachments(parse({"CNI_COMMAND": "GC"}, config).config)


def test_gc_list_is_read():
    assert gc_list([{"containerID": "a", "ifname": "net1"}, {"containerID": "b", "ifname": "net1", "x": 1}]) == {
        request.Attachment("a", "net1"),
        request.Attachment("b", "net1"),
    }


@pytest.mark.parametrize("empty", [[], None])
def test_empty_gc_list_means_that_nothing_is_valid(empty):
    assert gc_list(empty) == frozenset()


@pytest.mark.parametrize(
    "value", [(), ({},), ([None],), ([{}],), ([{"containerID": "a"}],), ([{"containerID": "a", "ifname": 1}],)]
)
def test_no_or_a_wrong_gc_list_never_removes_anything(value):
    with pytest.raises(errors.CNIError) as caught:
        gc_list(*value)
    assert caught.value.code == errors.Code.INVALID_CONFIG
    assert "cni.dev/valid-attachments" in caught.value.message


CONFIGS = st.dictionaries(st.sampled_from(list(CONFIG)), st.text() | st.none() | st.integers())


@given(
    environ=st.dictionaries(st.sampled_from([*ENVIRON, "CNI_NETNS_OVERRIDE"]), st.text(max_size=20)),
    command=st.sampled_from(["", *version.VERBS, "FOO"]),
    stdin=st.binary(max_size=30) | CONFIGS.map(json.dumps).map(str.encode),
)
def test_whatever_comes_is_a_request_or_a_cni_error(environ, command, stdin):
    try:
        request.parse({**ENVIRON, **environ, "CNI_COMMAND": command}, stdin)
    except errors.CNIError as error:
        json.dumps(error.document("1.1.0")).encode()
