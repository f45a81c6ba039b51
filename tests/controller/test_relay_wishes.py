"""What a VM's annotation asks for, what is refused, and which names it gets."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import names
from controller import relay_wishes
from controller.desired import Malformed
from controller.policy import Policy
from controller.relay_wishes import Wish
from controller.vms import Nic


def read(annotation, policy=None):
    return relay_wishes.read(
        annotation if isinstance(annotation, str) else json.dumps(annotation), "ns", policy or Policy()
    )


def refusals(annotation, policy=None):
    return [(one.refusal.reason, one.refusal.message) if one.refusal else None for one in read(annotation, policy)]


def nic(name, network="ns/blue", mac="02:00:00:00:00:01", binding="bridge", absent=False):
    return name, Nic(name, network, mac, "virtio", binding, absent)


def chosen(annotation, *nics, managed=None, busy=()):
    have = dict(nics)
    return relay_wishes.named(read(annotation), have, frozenset(have if managed is None else managed), frozenset(busy))


def test_both_forms_ask_for_the_same():
    short = read("blue@net1,other/red")
    long = read([{"name": "blue", "interface": "net1"}, {"name": "red", "namespace": "other"}])
    assert short == long == (Wish(0, "ns/blue", "net1"), Wish(1, "other/red"))


def test_a_mac_and_a_model_may_be_asked_for():
    (wish,) = read(
        [{"name": "blue", "mac": "02-AA-00-00-00-01", "hotnic.dev/model": "e1000e", "hotnic.dev/binding": "bridge"}]
    )
    assert (wish.mac, wish.model, wish.refusal) == ("02:aa:00:00:00:01", "e1000e", None)


@pytest.mark.parametrize(
    ("key", "value", "reason", "says"),
    [
        ("ips", ["10.0.0.1/24"], "Unsupported", "cloud-init"),
        ("default-route", ["10.0.0.254"], "Unsupported", "default-route"),
        ("default-route", [], "Unsupported", "default-route"),
        ("bandwidth", {"ingressRate": 1000}, "Unsupported", "bandwidth"),
        ("portMappings", [{"hostPort": 80, "containerPort": 80}], "Unsupported", "portMappings"),
        ("cni-args", {"a": "b"}, "Unsupported", "cni-args"),
        ("infiniband-guid", "00:11:22:33:44:55:66:77", "Unsupported", "infiniband"),
        ("ipam-claim-reference", "claim", "Unsupported", "ipam-claim-reference"),
        ("deviceID", "0000:01:00.0", "Unsupported", "deviceID"),
        ("hotnic.dev/binding", "masquerade", "Unsupported", "pod network only"),
        ("hotnic.dev/binding", "sriov", "Unsupported", "cannot unplug"),
        ("hotnic.dev/binding", "my-plugin", "Unsupported", "ignores"),
        ("hotnic.dev/binding", {"name": "tap"}, "Unsupported", "ignores"),
        ("hotnic.dev/model", "ne3000", "InvalidElement", "none of virtio"),
        ("hotnic.dev/model", ["virtio"], "InvalidElement", "none of virtio"),
        ("hotnic.dev/modle", "virtio", "InvalidElement", "hotnic.dev/modle"),
        ("interface", "Net1", "InvalidElement", "lower case"),
        ("interface", "net1.100", "InvalidElement", "lower case"),
        ("mac", "nonsense", "InvalidElement", "mac"),
    ],
)
def test_what_kubevirt_cannot_do_is_refused_with_the_reason(key, value, reason, says):
    ((told, text), good) = refusals([{"name": "blue", key: value}, {"name": "red"}])
    assert (told, good) == (reason, None)
    assert says in text


def test_keys_of_others_are_passed_over():
    assert refusals([{"name": "blue", "org.example/x": 1, "bandwidth": {"ingressRate": 0}}]) == [None]


def test_policy_is_that_of_the_pods():
    policy = Policy(isolated=True)
    assert refusals("blue,default/green", policy) == [None, None]
    assert refusals("other/blue", policy)[0][0] == "NamespaceForbidden"


def test_what_cannot_be_read_is_malformed_as_a_whole():
    assert isinstance(read('[{"name": "blue"'), Malformed)
    assert isinstance(read('{"name": "blue"}'), Malformed)
    assert read("") == ()


# -- names ----------------------------------------------------------------------------------------------------------


def test_the_first_free_number_is_taken_whoever_has_the_others():
    assert chosen("blue,blue@net1,blue,red") == ["blue-1", "net1", "blue-2", "red-1"]
    assert chosen("blue", nic("blue-1", "ns/other"), nic("x"), managed=()) == ["blue-2"]
    assert chosen("blue,blue@blue-1") == ["blue-2", "blue-1"]
    assert chosen("blue", busy=["blue-1"]) == ["blue-2"]


def test_an_element_keeps_the_interface_that_was_made_for_it():
    have = nic("blue-1", mac="02:00:00:00:00:01"), nic("blue-2", mac="02:00:00:00:00:02")
    assert chosen("blue,blue", *have) == ["blue-1", "blue-2"]
    assert chosen([{"name": "blue", "mac": "02:00:00:00:00:02"}], *have) == ["blue-2"]
    assert chosen([{"name": "blue"}, {"name": "blue", "mac": "02:00:00:00:00:01"}], *have) == ["blue-2", "blue-1"]
    assert chosen([{"name": "blue", "mac": "02:00:00:00:00:99"}], *have) == ["blue-1"]


def test_a_name_that_is_given_up_does_not_cost_the_interface():
    assert chosen("blue", nic("net1")) == ["net1"]


def test_an_interface_that_is_being_unplugged_is_waited_for_rather_than_doubled():
    assert chosen("blue", nic("blue-1", absent=True)) == ["blue-1"]
    assert chosen("blue", nic("blue-1", absent=True), nic("blue-2")) == ["blue-2"]


def test_what_somebody_else_made_is_taken_only_under_the_very_name_on_the_very_network():
    assert chosen("blue", nic("blue-1"), managed=()) == ["blue-1"]
    assert chosen("blue", nic("net7"), managed=()) == ["blue-1"]
    assert chosen("blue", nic("blue-1", binding="sriov"), managed=()) == ["blue-2"]
    assert chosen([{"name": "blue", "mac": "02:00:00:00:00:99"}], nic("blue-1"), managed=()) == ["blue-2"]


def test_a_refused_element_keeps_what_is_plugged_and_gets_nothing_new():
    refused = [{"name": "blue", "ips": ["10.0.0.1/24"]}]
    assert chosen(refused, nic("blue-1")) == ["blue-1"]
    assert chosen(refused) == [""]
    assert chosen([*refused, {"name": "blue"}], nic("blue-1")) == ["", "blue-1"]
    assert chosen([{"name": "blue", "mac": "x", "interface": "net1"}], nic("net1")) == ["net1"]


def test_names_are_labels_whatever_the_definition_is_called():
    assert chosen("a.b") == ["a-b-1"]
    (name,) = chosen("x" * 61 + ".y" + "z" * 60)
    assert names.is_label(name)
    assert name.endswith("-1")


_elements = st.fixed_dictionaries(
    {"name": st.sampled_from(["blue", "red"])},
    optional={
        "interface": st.sampled_from(["net1", "net2", "blue-1", "Bad"]),
        "mac": st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:02"]),
        "ips": st.just(["10.0.0.1/24"]),
    },
)
_nics = st.dictionaries(
    st.sampled_from(["net1", "net2", "blue-1", "blue-2", "red-1"]),
    st.tuples(
        st.sampled_from(["ns/blue", "ns/red"]),
        st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:03"]),
        st.booleans(),
    ),
)


@given(st.lists(_elements, max_size=5), _nics, st.sets(st.sampled_from(["net1", "net2", "blue-1", "blue-2", "red-1"])))
def test_no_two_elements_get_the_same_interface_and_a_second_look_changes_nothing(elements, have, managed):
    nics = dict(nic(name, network, mac, absent=absent) for name, (network, mac, absent) in have.items())
    wishes = read(elements)
    first = relay_wishes.named(wishes, nics, frozenset(managed), frozenset())
    used = [name for name in first if name]
    assert len(used) == len(set(used))
    made = {
        name: nics.get(name)
        or Nic(name, wish.network, wish.mac or "02:00:00:00:00:aa", "virtio", "bridge", absent=False)
        for wish, name in zip(wishes, first, strict=True)
        if name and not wish.refusal
    }
    after = {**nics, **made}
    second = relay_wishes.named(wishes, after, frozenset(managed | made.keys()), frozenset())
    settled = [wish.refusal is None and after[name].network == wish.network and not after[name].absent
               and wish.mac in ("", after[name].mac) for wish, name in zip(wishes, first, strict=True)]  # fmt: skip
    if all(settled):
        assert sorted(second) == sorted(first)  # equal elements may change places: the VM stays as it is
        for wish, was, now in zip(wishes, first, second, strict=True):
            assert was == now or [_asked(one) for one in wishes].count(_asked(wish)) > 1


def _asked(wish):
    return wish.network, wish.mac, wish.interface
