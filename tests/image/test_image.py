"""The parts of the image's build that are pure: the same input gives the same bytes, and they are what OCI asks for."""

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

from image import debian, needs, oci, sbom, wheels
from image.layer import File, digest, layer

MADE_AT = 1_700_000_000
FILES = {
    "usr/bin/tool": File(b"#!/bin/sh\n", is_executable=True),
    "bin": File(target="usr/bin"),
    "tmp": File(is_folder=True, mode=0o1777),
    "etc/passwd": File(b"root:x:0:0::/:\n"),
}


def entries(blob: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob))) as tar:
        return {entry.name: entry for entry in tar}


def test_a_layer_is_the_same_bytes_in_whatever_order_its_files_come():
    backwards = dict(reversed(FILES.items()))
    assert layer(FILES, MADE_AT).blob == layer(backwards, MADE_AT).blob
    assert layer(FILES, MADE_AT).digest != layer(FILES, MADE_AT + 1).digest


def test_a_layer_has_folders_links_modes_and_no_owner_but_root():
    found = entries(layer(FILES, MADE_AT).blob)
    assert {name: oct(one.mode) for name, one in found.items()} == {
        "bin": "0o777", "etc": "0o755", "etc/passwd": "0o644", "tmp": "0o1777", "usr": "0o755", "usr/bin": "0o755",
        "usr/bin/tool": "0o755",
    }  # fmt: skip
    assert found["bin"].linkname == "usr/bin"
    assert {(one.uid, one.gid, one.mtime) for one in found.values()} == {(0, 0, MADE_AT)}


def test_an_archive_holds_each_blob_under_its_digest_and_all_that_it_refers_to():
    made = oci.image([("files", layer(FILES, MADE_AT))], {"Env": ["A=b"]}, {"l": "m"}, "example/hotnic:1", MADE_AT)
    with tarfile.open(fileobj=io.BytesIO(oci.archive(made, MADE_AT))) as tar:
        content = {one.name: tar.extractfile(one).read() for one in tar}
    blobs = {
        name.replace("blobs/sha256/", "sha256:"): blob for name, blob in content.items() if name.startswith("blobs")
    }
    assert all(digest(blob) == name for name, blob in blobs.items())
    index = json.loads(content["index.json"])
    manifest = json.loads(blobs[index["manifests"][0]["digest"]])
    config = json.loads(blobs[manifest["config"]["digest"]])
    assert index["manifests"][0]["digest"] == made.digest
    assert [one["digest"] in blobs and len(blobs[one["digest"]]) == one["size"] for one in manifest["layers"]] == [True]
    assert config["rootfs"]["diff_ids"] == [digest(gzip.decompress(blobs[manifest["layers"][0]["digest"]]))]
    assert (config["config"]["Env"], config["config"]["Labels"]) == (["A=b"], {"l": "m"})


def test_the_libraries_that_an_executable_loads_are_known():
    assert "libc.so.6" in needs.needed(Path(sys.executable).resolve().read_bytes())
    assert list(needs.needed(b"#!/bin/sh\n")) == []


def test_a_library_that_is_missing_is_named_with_who_asks_for_it():
    interpreter = File(Path(sys.executable).resolve().read_bytes())
    asked = set(needs.needed(interpreter.content))
    there = {f"lib/{name}": File() for name in asked - {"libc.so.6"}}
    assert needs.missing({"usr/bin/python": interpreter, **there}) == {"libc.so.6": ["usr/bin/python"]}


def test_what_is_compiled_does_not_depend_on_the_time(tmp_path):
    files = {"usr/lib/a.py": File(b"x = 1\n"), "usr/lib/template.py": File(b"{{ x\n"), "usr/lib/data": File(b"")}
    once, again = wheels.compiled(files, tmp_path), wheels.compiled(files, tmp_path)
    assert once == again
    assert set(once) - set(files) == {f"usr/lib/__pycache__/a.{sys.implementation.cache_tag}.pyc"}


def test_a_bill_of_materials_has_every_part_once_and_says_what_contains_it():
    parts = [
        sbom.Part("libc6", "2.36", "pkg:deb/debian/libc6@2.36?arch=amd64", "ab"),
        sbom.Part("ovs", "4", "pkg:pypi/ovs@4"),
    ]
    text = json.loads(sbom.document("hotnic", "1", "sha256:00", parts, MADE_AT))
    assert [one["name"] for one in text["packages"]] == ["hotnic", "libc6", "ovs"]
    contained = {one["relatedSpdxElement"] for one in text["relationships"] if one["relationshipType"] == "CONTAINS"}
    assert contained == {"SPDXRef-deb-libc6", "SPDXRef-pypi-ovs"}


def test_the_lock_has_what_the_image_is_made_of():
    assert [one.name for one in debian.locked()] == sorted(debian.PACKAGES)


@pytest.mark.parametrize(
    ("name", "is_wanted"),
    [
        ("usr/bin/python3.11", True),
        ("usr/lib/x86_64-linux-gnu/libssl.so.3", True),
        ("usr/lib/python3.11/json/__init__.py", True),
        ("usr/lib/python3.11/idlelib/run.py", False),
        ("usr/share/man/man1/python3.11.1.gz", False),
        ("usr/share/doc/libssl3/copyright", True),
        ("usr/lib/x86_64-linux-gnu/gconv/BIG5.so", False),
    ],
)
def test_of_a_package_only_what_is_loaded_comes_and_its_licence(name, is_wanted):
    assert debian._is_wanted(name) is is_wanted
