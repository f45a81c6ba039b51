"""The networks annotation."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import multinet
from cni.multinet import Invalid, Selection

MANY_KEYS = {
    "name": "blue",
    "namespace": "infra",
    "interface": "net1",
    "ips": ["10.0.0.5/24", "fd00::5"],
    "mac": "02:00:00:00:00:0a",
    "cni-args": {"b": [1, {"y": None, "x": True}], "a": "é"},
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "10.1.1.1"}],
    "bandwidth": {"ingressRate": 1000, "ingressBurst": 300, "egressRate": 2000, "egressBurst": 200},
    "infiniband-guid": "24:8a:07:03:00:8d:ae:2f",
    "deviceID": "0000:01:00.1",
    "default-route": ["10.0.0.1", "fd00::1"],
}

PORTS = {"hostPort": 8080, "containerPort": 80}


def only(element):
    (parsed,) = multinet.parse(json.dumps([element]), "default")
    return parsed


def reason(element):
    parsed = only(element)
    assert isinstance(parsed, Invalid)
    return parsed.reason


# the forms


@pytest.mark.parametrize("annotation", ["", " ", "\n\t", "[]", " [ ] "])
def test_an_empty_value_asks_for_nothing(annotation):
    assert multinet.parse(annotation, "default") == ()


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("blue", [Selection("default", "blue")]),
        ("infra/blue", [Selection("infra", "blue")]),
        ("blue@net1", [Selection("default", "blue", "net1")]),
        ("infra/blue@net1.100", [Selection("infra", "blue", "net1.100")]),
        (" a ,\n infra/b , c@x ", [Selection("default", "a"), Selection("infra", "b"), Selection("default", "c", "x")]),
        ("a,a", [Selection("default", "a"), Selection("default", "a")]),
        ("null", [Selection("default", "null")]),
    ],
)
def test_short_form(annotation, expected):
    assert multinet.parse(annotation, "default") == tuple(expected)


@pytest.mark.parametrize("item", ["", "/blue", "infra/", "a/b/c", "blue@", "blue@a@b", "@net1", "/", "@"])
def test_a_wrong_item_of_the_short_form_leaves_the_others_alone(item):
    first, wrong, last = multinet.parse(f"a,{item},b", "default")
    assert (first, last) == (Selection("default", "a"), Selection("default", "b"))
    assert wrong == Invalid(1, "", "", f"{item!r} is not [namespace/]name[@interface]")


@pytest.mark.parametrize(
    ("item", "named"),
    [("Blue", "name='Blue'"), ("a b", "name='a b'"), ("N/a", "namespace='N'"), ("a@x:y", "interface='x:y'")],
)
def test_names_of_the_short_form_are_checked(item, named):
    (wrong,) = multinet.parse(item, "default")
    assert named in wrong.reason


def test_every_key_of_the_json_form():
    assert only(MANY_KEYS) == Selection(
        namespace="infra",
        name="blue",
        interface="net1",
        ips=("10.0.0.5/24", "fd00::5"),
        mac="02:00:00:00:00:0a",
        cni_args={"b": [1, {"y": None, "x": True}], "a": "é"},
        port_mappings=({"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "10.1.1.1"},),
        bandwidth={"ingressRate": 1000, "ingressBurst": 300, "egressRate": 2000, "egressBurst": 200},
        default_route=("10.0.0.1", "fd00::1"),
        infiniband_guid="24:8a:07:03:00:8d:ae:2f",
        device_id="0000:01:00.1",
    )


def test_a_selection_names_its_network():
    assert only({"name": "blue", "namespace": "infra"}).network == "infra/blue"


def test_a_selection_can_be_a_key():
    assert len({only(MANY_KEYS), only(MANY_KEYS)}) == 1


@pytest.mark.parametrize(
    "nothing",
    [
        dict.fromkeys(set(MANY_KEYS) - {"name"}),
        {
            "namespace": "",
            "interface": "",
            "interfaceRequest": "",
            "mac": "",
            "deviceID": "",
            "ipam-claim-reference": "",
        },
        {"ips": [], "portMappings": [], "cni-args": {}, "bandwidth": {}},
        {"bandwidth": {"ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0}},
        {"example.com/key": 1, "unknown": {}},
    ],
)
def test_what_asks_for_nothing_is_as_absent(nothing):
    assert only({"name": "blue"} | nothing) == Selection("default", "blue")


def test_only_an_empty_default_route_says_something():
    assert only({"name": "a", "default-route": []}).default_route == ()
    assert only({"name": "a", "default-route": None}).default_route is None
    assert only({"name": "a"}).default_route is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mac": "02-00-00-00-00-0A"}, {"mac": "02:00:00:00:00:0a"}),
        ({"ips": ["2001:DB8:0::5/64"]}, {"ips": ["2001:db8::5/64"]}),
        ({"interfaceRequest": "net1"}, {"interface": "net1"}),
        ({"interfaceRequest": "net1", "interface": "net1"}, {"interface": "net1"}),
        ({"infiniband-guid": "248A.0703.008D.AE2F"}, {"infiniband-guid": "24:8a:07:03:00:8d:ae:2f"}),
        ({"portMappings": [PORTS | {"protocol": "tcp"}]}, {"portMappings": [PORTS]}),
    ],
)  # fmt: skip
def test_another_spelling_is_the_same_selection(one, other):
    assert only({"name": "a"} | one) == only({"name": "a"} | other)


# what is wrong with one element


@pytest.mark.parametrize("element", [None, 3, "blue", [], True])
def test_an_element_that_is_no_object_is_invalid(element):
    assert "is not an object" in reason(element)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": None}, "name is missing"),
        ({"name": ""}, "name is missing"),
        ({"name": 3}, "name=3 is not a string"),
        ({"name": "infra/blue"}, "name='infra/blue'"),
        ({"name": "a" * 254}, "not a name that Kubernetes allows"),
        ({"namespace": "a.b"}, "namespace='a.b'"),
        ({"namespace": 1}, "namespace=1"),
        ({"interface": "a" * 16}, "is longer than 15 bytes"),
        ({"interface": ".."}, "interface='..'"),
        ({"interface": "a b"}, "interface='a b'"),
        ({"interface": "a\0"}, r"interface='a\x00'"),
        ({"interface": 1}, "interface=1"),
        ({"interfaceRequest": "a/b"}, "interfaceRequest='a/b'"),
        ({"interface": "a", "interfaceRequest": "b"}, "interfaceRequest='b' differs from interface='a'"),
        ({"ips": "10.0.0.5"}, "ips='10.0.0.5' is not a list"),
        ({"ips": ["10.0.0.5", "x"]}, "ips[1]='x' is not an IP address"),
        ({"ips": [5]}, "ips[0]=5"),
        ({"ips": ["fe80::1%eth0"]}, "ips[0]='fe80::1%eth0'"),
        ({"mac": "02:00"}, "mac='02:00' is not an address of 6 bytes"),
        ({"mac": "01:00:5e:00:00:01"}, "is a multicast address"),
        ({"mac": "00:00:00:00:00:00"}, "is all zero"),
        ({"mac": ["02:00:00:00:00:01"]}, "mac=['02:00:00:00:00:01'] is not a string"),
        ({"cni-args": "a=b"}, "cni-args='a=b' is not an object"),
        ({"portMappings": {}}, "portMappings={} is not a list"),
        ({"portMappings": [{"containerPort": 80}]}, "portMappings[0].hostPort is missing"),
        ({"portMappings": [{"hostPort": 80}]}, "portMappings[0].containerPort is missing"),
        ({"portMappings": [{"hostPort": 0, "containerPort": 80}]}, "portMappings[0].hostPort=0"),
        ({"portMappings": [{"hostPort": 80, "containerPort": 65536}]}, "portMappings[0].containerPort=65536"),
        ({"portMappings": [PORTS | {"protocol": "ICMP"}]}, "portMappings[0].protocol='ICMP'"),
        ({"portMappings": [PORTS | {"hostIP": "1.2.3.4/8"}]}, "portMappings[0].hostIP='1.2.3.4/8'"),
        ({"bandwidth": []}, "bandwidth=[]"),
        ({"bandwidth": {"ingressRate": "10M"}}, "bandwidth.ingressRate='10M' is not a whole number"),
        ({"bandwidth": {"ingressRate": True}}, "bandwidth.ingressRate=true"),
        ({"bandwidth": {"ingressRate": 1.5}}, "bandwidth.ingressRate=1.5"),
        ({"bandwidth": {"egressRate": -1}}, "bandwidth.egressRate=-1"),
        ({"bandwidth": {"egressRate": 2**63}}, "bandwidth.egressRate=9223372036854775808"),
        ({"bandwidth": {"egressBurst": 5}}, "bandwidth.egressBurst=5 needs egressRate"),
        ({"bandwidth": {"ingressBurst": 5, "ingressRate": 0}}, "bandwidth.ingressBurst=5 needs ingressRate"),
        ({"default-route": "10.0.0.1"}, "default-route='10.0.0.1' is not a list"),
        ({"default-route": ["10.0.0.1/24"]}, "default-route[0]='10.0.0.1/24'"),
        ({"default-route": ["10.0.0.1", "10.0.0.2"]}, "more than one gateway"),
        ({"infiniband-guid": "02:00:00:00:00:01"}, "infiniband-guid='02:00:00:00:00:01' is not an address of 8 bytes"),
        ({"ipam-claim-reference": "A"}, "ipam-claim-reference='A'"),
        ({"ips": ["10.0.0.5"], "ipam-claim-reference": "vm.blue"}, "ips and ipam-claim-reference exclude each other"),
        ({"deviceID": 3}, "deviceID=3"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_with_its_value(wrong, told):
    assert told in reason({"name": "blue"} | wrong)


def test_a_wrong_element_says_where_it_is_and_what_it_is_about():
    annotation = json.dumps(
        [{"name": "a"}, {"name": "b", "namespace": "n", "interface": "net7", "mac": "x"}, {"name": "c"}]
    )
    first, wrong, last = multinet.parse(annotation, "default")
    assert isinstance(wrong, Invalid)
    assert (wrong.position, wrong.network, wrong.interface) == (1, "n/b", "net7")
    assert (first, last) == (Selection("default", "a"), Selection("default", "c"))


def test_reasons_fit_an_event_whatever_the_value():
    assert len(reason({"name": "x" * 10_000})) < 200


def test_an_interface_asked_for_twice_belongs_to_the_first():
    first, second, third = multinet.parse("a@net1,b@net1,c@net2", "default")
    assert first == Selection("default", "a", "net1")
    assert second == Invalid(1, "default/b", "net1", "interface 'net1' is asked for by an earlier element already")
    assert third == Selection("default", "c", "net2")


def test_an_interface_belongs_to_the_first_even_where_that_is_wrong():
    annotation = json.dumps([{"name": "a", "interface": "net1", "mac": "x"}, {"name": "b", "interfaceRequest": "net1"}])
    assert [type(one) for one in multinet.parse(annotation, "default")] == [Invalid, Invalid]


def test_unnamed_interfaces_do_not_collide():
    assert len(set(map(type, multinet.parse("a,a,a", "default")))) == 1


@pytest.mark.parametrize("first", [[], ["10.0.0.1"]])
def test_a_second_default_route_is_refused(first):
    annotation = json.dumps([{"name": "a", "default-route": first}, {"name": "b", "default-route": ["10.0.0.2"]}])
    kept, wrong = multinet.parse(annotation, "default")
    assert isinstance(kept, Selection)
    assert wrong.reason == "default-route is asked for by an earlier element already"


# what is wrong as a whole


@pytest.mark.parametrize(
    ("annotation", "position", "line", "column"),
    [
        ("[", 1, 1, 2),
        ('[{"name": "a"}', 14, 1, 15),
        ('[{"name": "a"},]', 15, 1, 16),
        ('[\n  {"name": "a"},\n  {"name" "b"}\n]', 29, 3, 11),
        ('[{"name": "a"}] x', 16, 1, 17),
        ('  {"name": "a"}', 2, 1, 3),
        ('"blue"', 0, 1, 1),
        ("[{'name': 'a'}]", 2, 1, 3),
    ],
)
def test_a_value_that_is_no_list_of_elements_says_where(annotation, position, line, column):
    with pytest.raises(multinet.AnnotationError) as caught:
        multinet.parse(annotation, "default")
    error = caught.value
    assert (error.position, error.line, error.column) == (position, line, column)
    assert str(error) == f"line {line} column {column}: {error.reason}"


def test_more_elements_than_any_pod_has_use_for_are_an_annotation_error():
    names = [f"n{number}" for number in range(multinet.MAX_ELEMENTS)]
    for write in (",".join, lambda many: json.dumps([{"name": one} for one in many])):
        assert len(multinet.parse(write(names), "default")) == 256
        with pytest.raises(multinet.AnnotationError, match="257 networks are more than the 256"):
            multinet.parse(write([*names, "more"]), "default")


@pytest.mark.parametrize("annotation", ["[" * 5000, "[NaN]", "[1e999]", f"[{'9' * 5000}]"])
def test_json_that_nobody_could_read_is_an_annotation_error(annotation):
    with pytest.raises(multinet.AnnotationError):
        multinet.parse(annotation, "default")


# canonical JSON


def test_canonical_json_has_the_specifications_keys_in_a_fixed_order():
    text = multinet.to_json(only(dict(reversed(MANY_KEYS.items()))))
    assert list(json.loads(text)) == list(MANY_KEYS)
    assert json.loads(text) == MANY_KEYS


def test_canonical_json_says_nothing_about_what_was_not_asked():
    assert multinet.to_json(Selection("default", "blue")) == '{"name":"blue","namespace":"default"}'


def test_canonical_json_does_not_depend_on_the_order_of_arguments():
    one, other = (
        {"name": "a", "cni-args": arguments}
        for arguments in ({"x": {"b": 1, "a": 2}, "c": 3}, {"c": 3, "x": {"a": 2, "b": 1}})
    )
    assert multinet.to_json(only(one)) == multinet.to_json(only(other))


def test_canonical_json_tells_one_from_true():
    one, other = (multinet.to_json(only({"name": "a", "cni-args": {"x": value}})) for value in (1, True))
    assert one != other


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"name":"a"}', '{"name":"a","namespace":""}', '{"namespace":"a"}',
     '{"name":"a","namespace":3}', '{"name":"a","namespace":"b","mac":"x"}'],
)  # fmt: skip
def test_from_json_refuses_what_to_json_would_not_write(text):
    with pytest.raises(ValueError):
        multinet.from_json(text)


# capabilities


def test_capability_args_have_cnis_names():
    assert multinet.capability_args(only(MANY_KEYS)) == {
        "ips": ["10.0.0.5/24", "fd00::5"],
        "mac": "02:00:00:00:00:0a",
        "bandwidth": MANY_KEYS["bandwidth"],
        "portMappings": MANY_KEYS["portMappings"],
        "infinibandGUID": "24:8a:07:03:00:8d:ae:2f",
        "deviceID": "0000:01:00.1",
    }


def test_capability_args_are_only_what_was_asked_for():
    assert multinet.capability_args(only({"name": "a", "cni-args": {"x": 1}, "default-route": []})) == {}


# properties

LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MACS = st.integers(1, 2**40 - 1).map(lambda n: ":".join(f"{n | 2 << 40:012x}"[i : i + 2] for i in range(0, 12, 2)))
ELEMENTS = st.fixed_dictionaries(
    {"name": LABELS},
    optional={
        "namespace": LABELS,
        "interface": LABELS,
        "ips": st.lists(st.ip_addresses().map(str), max_size=2),
        "mac": MACS,
        "cni-args": st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
        "portMappings": st.lists(
            st.fixed_dictionaries(
                {"hostPort": st.integers(1, 65535), "containerPort": st.integers(1, 65535)},
                optional={"protocol": st.sampled_from(["tcp", "UDP", "Sctp"]), "hostIP": st.ip_addresses().map(str)},
            ),
            max_size=2,
        ),
        "bandwidth": st.fixed_dictionaries(
            {"ingressRate": st.integers(1, 9)}, optional={"ingressBurst": st.integers(0, 9)}
        ),
        "default-route": st.just([]) | st.ip_addresses().map(lambda address: [str(address)]),
        "infiniband-guid": st.just("24:8a:07:03:00:8d:ae:2f"),
        "deviceID": st.text(max_size=8),
    },
)
ODD_ELEMENTS = st.dictionaries(st.sampled_from([*MANY_KEYS, "interfaceRequest", "ipam-claim-reference"]), VALUES)


@given(st.lists(ELEMENTS, max_size=4))
def test_selections_survive_the_way_to_json_and_back(elements):
    for parsed in multinet.parse(json.dumps(elements), "default"):
        if isinstance(parsed, Selection):
            text = multinet.to_json(parsed)
            assert multinet.from_json(text) == parsed
            assert multinet.to_json(multinet.from_json(text)) == text


@given(st.lists(ELEMENTS, max_size=4))
def test_a_good_element_alone_is_a_selection(elements):
    assert all(isinstance(only(element), Selection) for element in elements)


@given(st.lists(ELEMENTS | ODD_ELEMENTS | VALUES, max_size=4))
def test_every_element_is_a_selection_or_invalid_at_its_position(elements):
    parsed = multinet.parse(json.dumps(elements), "default")
    assert len(parsed) == len(elements)
    for position, one in enumerate(parsed):
        if isinstance(one, Invalid):
            assert one.position == position
            (one.network + one.interface + one.reason).encode()  # can be sent on


@given(st.text(alphabet=st.characters(), max_size=60) | st.text(alphabet='ab/@,[]{}": \\ud8\n', max_size=40))
def test_no_text_raises_anything_but_annotation_error(annotation):
    try:
        parsed = multinet.parse(annotation, "default")
    except multinet.AnnotationError as problem:
        error = problem
    else:
        for one in parsed:
            (multinet.to_json(one) if isinstance(one, Selection) else repr(one)).encode()
        return
    assert 0 <= error.position <= len(annotation)
    assert min(error.line, error.column) >= 1
