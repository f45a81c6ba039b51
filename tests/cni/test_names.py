"""Names and addresses."""

import pytest

from cni import names


@pytest.mark.parametrize("name", ["eth0", "a" * 15, "é" * 7, "net1.100", "Net1", "-", "pod16477688c0e", "a@b"])
def test_interface_names_that_the_kernel_takes(name):
    assert names.ifname_fault(name) == ""


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "empty"),
        ("a" * 16, "15 bytes"),
        ("é" * 8, "15 bytes"),
        (".", "directory"),
        ("..", "directory"),
        ("a/b", "contains"),
        ("a:b", "contains"),
        ("a b", "contains"),
        ("a\tb", "contains"),
        ("a\0b", "contains"),
        ("a\u2003b", "contains"),
        ("\udcff" * 16, "15 bytes"),
    ],
)
def test_interface_names_that_are_refused(name, fault):
    assert fault in names.ifname_fault(name)


@pytest.mark.parametrize("text", ["a", "0" * 64, "x" * 200, "cnitool-77383ca0a0715733ca6f", "a_b.c-d", "A"])
def test_container_ids_and_network_names_that_are_valid(text):
    assert names.is_cni_name(text)


@pytest.mark.parametrize("text", ["", "../x", "-a", "a b", "a/b", "é", "a\n", ".a", "_a"])
def test_container_ids_and_network_names_that_are_not(text):
    assert not names.is_cni_name(text)


@pytest.mark.parametrize(
    ("text", "label", "name"),
    [
        ("blue", True, True),
        ("0-a", True, True),
        ("blue.v2", False, True),
        ("a" * 64, False, True),
        ("a" * 254, False, False),
        ("Blue", False, False),
        ("-a", False, False),
        ("a-", False, False),
        ("a..b", False, False),
        ("", False, False),
        ("a\n", False, False),
        ("a/b", False, False),
    ],
)
def test_kubernetes_names(text, label, name):
    assert (names.is_label(text), names.is_object_name(text)) == (label, name)


@pytest.mark.parametrize("text", ["02:00:5E:00:00:0a", "02-00-5e-00-00-0a", "0200.5e00.000A"])
def test_mac_addresses_have_one_spelling(text):
    assert names.mac_address(text) == "02:00:5e:00:00:0a"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "6 bytes"),
        ("02:00:5e:00:00", "6 bytes"),
        ("02:00:5e:00:00:00:01", "6 bytes"),
        ("02:00-5e:00:00:0a", "6 bytes"),
        ("02005e00000a", "6 bytes"),
        ("0g:00:5e:00:00:0a", "6 bytes"),
        ("02:00:5e:00:00:0a\n", "6 bytes"),
        ("2:0:5e:0:0:a", "6 bytes"),
        ("01:00:5e:00:00:0a", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("00:00:00:00:00:00", "zero"),
    ],
)
def test_mac_addresses_that_no_interface_can_have(text, problem):
    with pytest.raises(ValueError, match=problem):
        names.mac_address(text)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("10.0.0.5/24", "10.0.0.5/24"),
        ("2001:DB8:0::5/64", "2001:db8::5/64"),
        ("::", "::"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_ip_addresses_have_one_spelling(text, spelling):
    assert names.ip_with_optional_prefix(text) == spelling


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0", "10.0.0.256", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/255.255.255.0", "fe80::1%eth0", "fe80::1%e/64",
     "010.0.0.1", "10.0.0.1/+8", "10.0.0.1/٨", "x", "10.0.0.1/8/8"],
)  # fmt: skip
def test_what_is_no_ip_address_is_refused(text):
    with pytest.raises(ValueError, match="is not an IP address"):
        names.ip_with_optional_prefix(text)
