import pytest

from agent import options, shaping
from agent.links import Create, Have, Interface, Link, NamedLink, Rate, Remove, Where
from agent.model import ContainerID, Key
from agent.options import Call
from cni import errors

KEY = Key(ContainerID("c1"), "net1")
WISH = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 400_000}
INTO_POD, OUT_OF_POD = shaping.Bucket(1_000_000, 125_000, 100_000), shaping.Bucket(2_000_000, 100_000, 50_000)
IFB = options.host_name(KEY, "hni")


def want(**config) -> Interface:
    return options.interface(Call(KEY, config))


def companion(index: int = 9) -> Link:
    return Link(index, IFB, "ifb", options.derived_mac(KEY, "companion"), 1500, up=True)


def test_runtime_configuration_beats_the_four_keys():
    runtime = {"bandwidth": {"ingressRate": 16, "ingressBurst": 24}}
    found = want(**WISH, runtimeConfig=runtime).bandwidth
    assert (found.ingress, found.egress) == (Rate(16, 24), None)


@pytest.mark.parametrize("largest", [2**32 - 1, (2**32 - 1) * 8 - 1])
def test_a_burst_of_kubernetes_and_the_largest_one_are_taken(largest):
    assert want(ingressRate=8, ingressBurst=largest).bandwidth.ingress == Rate(8, largest)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"ingressRate": 8}, "ingressBurst"),
        ({"ingressRate": 8, "ingressBurst": 0}, "ingressBurst"),
        ({"egressBurst": 8}, "egressRate"),
        ({"egressRate": 8, "egressBurst": (2**32 - 1) * 8}, "egressBurst"),
        ({"egressRate": 7, "egressBurst": 8}, "egressRate"),
        ({"egressRate": -8, "egressBurst": 8}, "egressRate"),
        ({"egressRate": 2**64, "egressBurst": 8}, "egressRate"),
        ({"ingressRate": "10M", "ingressBurst": 8}, "ingressRate"),
        ({"ingressRate": True, "ingressBurst": 8}, "ingressRate"),
        ({"ingressRate": 8.0, "ingressBurst": 8}, "ingressRate"),
        ({"runtimeConfig": {"bandwidth": [8]}}, "bandwidth"),
        ({"runtimeConfig": {"bandwidth": {"egressRate": 8}}}, "egressBurst"),
    ],
)
def test_what_cannot_be_is_refused_with_code_7_and_by_name(config, key):
    with pytest.raises(errors.CNIError) as caught:
        want(**config)
    assert (caught.value.code, key in caught.value.message) == (7, True)


def test_subnets_are_refused_as_unsupported():
    with pytest.raises(errors.CNIError) as caught:
        want(**WISH, unshapedSubnets=["10.0.0.0/8"])
    assert caught.value.code == 2


def test_who_says_nothing_is_asked_nothing_and_planned_nothing():
    for config in ({}, {"capabilities": {"bandwidth": True}}):
        assert shaping.reads(want(**config), "hn1") == shaping.plan(want(**config), Have(), "hn1") == ()
        assert shaping.mismatches(want(**config), Have(), "hn1") == ()
    assert shaping.leftovers(want()) == ()
    assert NamedLink(IFB) in shaping.leftovers(want(capabilities={"bandwidth": True}))


def test_towards_the_pod_is_what_the_host_end_sends():
    assert shaping.plan(want(**WISH), Have(), "hn1") == (
        shaping.Shape("hn1", Where.NODE, INTO_POD),
        Create(IFB, "ifb", attributes=(("IFLA_ADDRESS", options.derived_mac(KEY, "companion")),), up=True),
        shaping.Shape(IFB, Where.NODE, OUT_OF_POD),
        shaping.Redirect("hn1", Where.NODE, IFB),
    )


def test_without_a_host_end_the_interface_in_the_pod_sends_what_leaves_it():
    steps = shaping.plan(want(**WISH), Have(), "")
    assert steps[0] == shaping.Shape("net1", Where.IN_POD, OUT_OF_POD)
    assert steps[-1] == shaping.Redirect("net1", Where.IN_POD, IFB)
    assert steps[2].bucket == INTO_POD


def facts(bucket=INTO_POD, redirection=9, link=None, queue=OUT_OF_POD):
    node = Where.NODE
    return Have(
        facts={
            shaping.Queue("hn1", node): bucket,
            shaping.Redirection("hn1", node): redirection,
            NamedLink(IFB): link or companion(),
            shaping.Queue(IFB, node): queue,
        }
    )


def test_what_is_whole_needs_nothing():
    assert shaping.plan(want(**WISH), facts(), "hn1") == shaping.mismatches(want(**WISH), facts(), "hn1") == ()


@pytest.mark.parametrize(
    ("have", "step"),
    [
        (facts(bucket=None), shaping.Shape("hn1", Where.NODE, INTO_POD)),
        (facts(queue=INTO_POD), shaping.Shape(IFB, Where.NODE, OUT_OF_POD)),
        (facts(redirection=0), shaping.Redirect("hn1", Where.NODE, IFB)),
        (facts(redirection=8), shaping.Redirect("hn1", Where.NODE, IFB)),
    ],
)
def test_only_what_is_damaged_is_mended_and_it_is_reported(have, step):
    assert shaping.plan(want(**WISH), have, "hn1") == (step,)
    assert len(shaping.mismatches(want(**WISH), have, "hn1")) == 1


def test_a_wish_for_nothing_takes_everything_away():
    nothing = want(runtimeConfig={"bandwidth": {}})
    assert shaping.plan(nothing, facts(), "hn1") == (
        shaping.Shape("hn1", Where.NODE, None),
        shaping.Redirect("hn1", Where.NODE),
        Remove(companion()),
    )


def test_a_bucket_holds_a_frame_and_no_number_is_too_large_for_the_kernel():
    tiny = shaping.plan(want(ingressRate=8, ingressBurst=8, mtu=9000), Have(), "hn1")[0].bucket
    huge = shaping.plan(want(ingressRate=2**64 - 1, ingressBurst=2**32), Have(), "hn1")[0].bucket
    assert (tiny.burst, huge.limit) == (9018, 2**32 - 1)


def test_only_the_companion_that_is_proven_ours_is_removed():
    foreign = Link(9, IFB, "ifb", "02:00:00:00:00:99", 1500, up=True)
    for there, steps in ((companion(), 1), (foreign, 0)):
        have = Have(facts={NamedLink(IFB, Where.IN_POD): there})
        assert len(shaping.removal(want(**WISH), have)) == steps
