import pytest

from agent.guests.kubevirt import is_plumbed, plumbing


def test_names_are_kubevirts():
    assert plumbing("pod16477688c0e") == ("k6t-16477688c0e", "tap16477688c0e")
    assert plumbing("net1") == ("k6t-net1", "tap1")


@pytest.mark.parametrize(
    ("links", "plumbed"),
    [
        ({"lo": 1, "podabc": 7}, False),  # as it was attached: KubeVirt has not come to it
        ({"lo": 1, "abc-nic": 7, "podabc": 9, "k6t-abc": 8, "tapabc": 10}, True),  # in use
        ({"lo": 1, "abc-nic": 7, "k6t-abc": 8}, True),  # half cleaned up
        ({"lo": 1, "abc-nic": 7, "tapabc": 8}, True),
        ({"lo": 1, "abc-nic": 7, "podabc": 9}, True),  # only the placeholder is left
        ({"lo": 1, "abc-nic": 7}, False),  # done
        ({"lo": 1}, False),  # the link is gone as well
        ({"lo": 1, "k6t-abcd": 8, "tapab": 9}, False),  # another's
    ],
)
def test_whether_it_has_cleaned_up(links, plumbed):
    assert is_plumbed("podabc", 7, links) is plumbed
