"""Which version a Go program says it is. Of a real one: e2e/multus/test_doctor.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.doctor import goprogram

HEAD = b"\xff Go buildinf:\x08\x02".ljust(32, b"\0")
LINKED = 'build\t-ldflags="-X gopkg.in/x/multus-cni.v4/pkg/multus.version=v4.2.2 -X gopkg.in/x/multus.commit=1f"\n'


def string(text: bytes) -> bytes:
    low, high = len(text) & 0x7F, len(text) >> 7
    return (bytes([low | 0x80, high]) if high else bytes([low])) + text


def program(about: str, before: bytes = b"\x7fELF".ljust(4096, b"\0")) -> bytes:
    """Return a program with these lines, in the layout that Go's linker has had since 1.18."""
    return before + HEAD + string(b"go1.24.1") + string(b"s" * 16 + about.encode() + b"e" * 16) + b"\0" * 64


@pytest.mark.parametrize(
    ("about", "version"),
    [
        (
            "path\tx/cmd/multus\nmod\tgopkg.in/x/multus-cni.v4\tv4.2.4\th1:g6=\ndep\tgithub.com/y\tv1.3.0\th1:v6=\n",
            "v4.2.4",
        ),
        (f"path\tx\nmod\tgopkg.in/x/multus-cni.v4\t(devel)\t\n{LINKED}", "v4.2.2"),
        (f"mod\tgopkg.in/x/multus-cni.v4\tv4.2.3-0.2024\t\n{LINKED}", "v4.2.2"),
        ("path\tx\nmod\tgopkg.in/x\t(devel)\t\ndep\tgithub.com/y\tv1.3.0\th1:v6=\n", ""),
        ("", ""),
    ],
)
def test_its_own_version_is_found_and_no_dependencys(about, version):
    assert goprogram.version(program(about)) == version


def test_words_that_only_look_like_the_place_are_passed_over():
    elsewhere = (b"\x7fELF" + HEAD).ljust(4096, b"\0")  # not aligned: in somebody's text
    assert goprogram.version(program("mod\tx\tv1.2.3\t\n", elsewhere)) == "v1.2.3"


def test_where_nothing_is_told_nothing_is_found():
    old = program("mod\tx\tv1.2.3\t\n").replace(HEAD, HEAD.replace(b"\x08\x02", b"\x08\x00"))  # pointers, before 1.18
    assert [goprogram.version(one) for one in (old, b"", b"#!/bin/sh\n", HEAD[:15])] == ["", "", "", ""]


@given(st.binary(max_size=80))
def test_no_file_breaks_the_look(rest):
    assert isinstance(goprogram.version(HEAD + rest), str)
