"""Versions of the CNI specification."""

import pytest

from cni import version


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0.4.0", "0.4.0", True),
        ("0.3.1", "0.4.0", False),
        ("1.0.0", "0.4.0", True),
        ("0.10.0", "0.4.0", True),
        ("1.1", "1.1.0", True),
        ("1", "1.0.1", False),
    ],
)
def test_versions_are_ordered_by_number(one, other, expected):
    assert version.at_least(one, other) is expected


@pytest.mark.parametrize("text", ["", "banana", "1.2.3.4", "1..2", "-1.0", "1.0.0-rc1", " 1.0", "1.٣", "9" * 5000])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(ValueError, match="is not a version number"):
        version.parse(text)


def test_current_version_is_the_newest_supported_one():
    assert max(version.SUPPORTED, key=version.parse) == version.CURRENT == version.SUPPORTED[-1]


def test_every_verb_exists_from_some_version_on():
    assert {verb: version.at_least(version.CURRENT, since) for verb, since in version.VERBS.items()} == dict.fromkeys(
        ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"], True
    )
