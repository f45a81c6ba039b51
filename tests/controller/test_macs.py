"""MAC addresses of VMs: from the range, stable, never twice."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import macs
from controller.relay_plan import Taken

DEFAULT = macs.parse(macs.DEFAULT_RANGE)


def register(text: str = macs.DEFAULT_RANGE) -> tuple[macs.Register, list[str]]:
    freed: list[str] = []
    return macs.Register(macs.parse(text), lambda lost: freed.extend(sorted(lost))), freed


@given(st.text())
def test_an_address_is_of_the_range_and_always_the_same(stem):
    address = DEFAULT.address(stem)
    assert address.startswith("02:68:6e:")
    assert len(address) == 17
    assert DEFAULT.address(stem) == address


@given(st.integers(2, 40), st.text())
def test_the_first_bits_are_the_ranges(bits, stem):
    base = int("02ffffffffff", 16) >> (48 - bits) << (48 - bits)
    number = int(macs.Range(base, bits).address(stem).replace(":", ""), 16)
    assert number >> (48 - bits) == base >> (48 - bits)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "address"),
        ("02:68:6e:00:00:00", "slash"),
        ("02:68:6e:00:00:00/x", "slash"),
        ("02:68:6e:00:00:00/41", "2 to 40"),
        ("02:68:6e:00:00:00/1", "2 to 40"),
        ("00:68:6e:00:00:00/24", "x2"),
        ("03:68:6e:00:00:00/24", "x2"),
        ("02:68:6e:00:00:01/24", "beyond"),
        ("nonsense/24", "address"),
    ],
)
def test_what_is_no_range_says_what_is_wrong(text, names):
    with pytest.raises(macs.RangeError, match=names):
        macs.parse(text)


def test_the_same_interface_gets_the_same_address_again():
    known, _ = register()
    first = known.choose("ns/a", "uid net1", ())
    assert known.choose("ns/a", "uid net1", ()) == first
    assert register()[0].choose("ns/a", "uid net1", ()) == first


def test_an_address_that_somebody_has_is_passed_over_wherever_he_has_it():
    known, _ = register()
    first = known.choose("ns/a", "uid net1", ())
    known.keep("ns/a", ())
    for where in ("vm", "instance"):
        known.seen("ns/other", where, [first])
        second = known.choose("ns/a", "uid net1", ())
        assert second != first
        known.keep("ns/a", ())
        known.seen("ns/other", where, [])
    assert known.choose("ns/a", "uid net1", ()) == first


def test_a_vm_does_not_stand_in_its_own_way_but_its_interfaces_do():
    known, _ = register()
    first = known.choose("ns/a", "uid net1", ())
    known.seen("ns/a", "vm", [first])
    assert known.choose("ns/a", "uid net1", ()) == first
    assert known.choose("ns/a", "uid net1", {first}) != first


def test_who_asks_for_what_another_has_hears_who_that_is():
    known, _ = register()
    known.seen("ns/a", "vm", ["02:00:00:00:00:01"])
    assert known.claim("ns/b", "02:00:00:00:00:01") == "ns/a"
    assert known.claim("ns/a", "02:00:00:00:00:01") == ""


def test_a_claim_counts_until_it_is_given_up():
    known, freed = register()
    assert known.claim("ns/a", "02:00:00:00:00:01") == ""
    assert known.claim("ns/b", "02:00:00:00:00:01") == "ns/a"
    known.keep("ns/a", {"02:00:00:00:00:01"})
    assert known.claim("ns/b", "02:00:00:00:00:01") == "ns/a"
    known.keep("ns/a", set())
    assert freed == ["02:00:00:00:00:01"]
    assert known.claim("ns/b", "02:00:00:00:00:01") == ""


def test_an_address_is_free_only_when_its_owner_has_it_nowhere_any_more():
    known, freed = register()
    for where in ("vm", "instance"):
        known.seen("ns/a", where, ["02:00:00:00:00:01"])
    known.seen("ns/a", "vm", [])
    assert freed == []
    assert known.claim("ns/b", "02:00:00:00:00:01") == "ns/a"
    known.seen("ns/a", "instance", [])
    assert freed == ["02:00:00:00:00:01"]


def test_two_that_have_the_same_address_already_are_both_left_alone():
    known, _ = register()
    known.seen("ns/a", "vm", ["02:00:00:00:00:01"])
    known.seen("ns/b", "vm", ["02:00:00:00:00:01"])
    known.seen("ns/a", "vm", [])
    assert known.claim("ns/c", "02:00:00:00:00:01") == "ns/b"


def test_a_range_that_is_used_up_says_so():
    known, _ = register("02:68:6e:00:00:00/40")
    taken = {f"02:68:6e:00:00:{number:02x}" for number in range(256)}
    known.seen("ns/a", "vm", taken)
    with pytest.raises(Taken, match="free"):
        known.choose("ns/b", "uid net1", ())


def test_threads_that_choose_at_once_never_choose_the_same():
    known, _ = register("02:68:6e:00:00:00/40")
    chosen: list[str] = []

    def choose(owner: int) -> None:
        chosen.extend(known.choose(f"ns/{owner}", f"uid-{owner} {number}", set(chosen)) for number in range(8))

    threads = [threading.Thread(target=choose, args=(owner,)) for owner in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(chosen)) == len(chosen) == 128
