"""The parts of the image's build that are pure: the same input gives the same bytes, and they are what OCI asks for."""

import gzip
import io
import json
import marshal
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import cni.build
from image import __main__ as command
from image import debian, layer, needs, oci, pack, sbom, system, tree, wheels
from image.layer import File, digest

MADE_AT = 1_700_000_000
FILES = {
    "usr/bin/tool": File(b"#!/bin/sh\n", is_executable=True),
    "bin": File(target="usr/bin"),
    "tmp": File(is_folder=True, mode=0o1777),
    "etc/passwd": File(b"root:x:0:0::/:\n"),
}


def entries(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {entry.name: entry for entry in tar}


def test_a_layer_is_the_same_bytes_in_whatever_order_its_files_come_and_whenever():
    backwards = dict(reversed(FILES.items()))
    blob = layer.compressed(layer.tar(FILES))
    assert blob == layer.compressed(layer.tar(backwards))
    assert blob[3:8] == bytes(5)  # gzip's flags and time (RFC 1952): no name, no time
    made = layer.layer(blob)
    assert (made.digest, made.diff_id, made.size) == (digest(blob), digest(layer.tar(FILES)), len(layer.tar(FILES)))


def test_a_layer_has_folders_links_modes_and_no_owner_but_root():
    found = entries(layer.tar(FILES))
    assert {name: oct(one.mode) for name, one in found.items()} == {
        "bin": "0o777", "etc": "0o755", "etc/passwd": "0o644", "tmp": "0o1777", "usr": "0o755", "usr/bin": "0o755",
        "usr/bin/tool": "0o755",
    }  # fmt: skip
    assert found["bin"].linkname == "usr/bin"
    assert {(one.uid, one.gid, one.uname, one.mtime) for one in found.values()} == {(0, 0, "", layer.AGE)}


def test_what_is_in_a_layer_can_be_read_back():
    found = layer.unpacked(layer.compressed(layer.tar(FILES)))
    assert {name: found[name] for name in FILES} == FILES
    assert layer.tar(found) == layer.tar(FILES)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_what_is_written_to_disk_is_what_a_runtime_would_unpack_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        tree.write(FILES, tmp_path)
    finally:
        os.umask(before)
    for name, entry in entries(layer.tar(FILES)).items():
        path = tmp_path / name
        found = path.lstat()
        assert (oct(found.st_mode & 0o7777), found.st_mtime) == (oct(entry.mode), layer.AGE)
        assert (path.is_symlink() and str(path.readlink())) == (entry.issym() and entry.linkname)
    assert (tmp_path / "usr/bin/tool").read_bytes() == FILES["usr/bin/tool"].content


def test_an_archive_holds_each_blob_under_its_digest_and_all_that_it_refers_to():
    stored = layer.layer(layer.compressed(layer.tar(FILES)))
    made = oci.image([("files", stored)], {"Env": ["A=b"]}, {"l": "m"}, "example/hotnic:1", MADE_AT)
    with tarfile.open(fileobj=io.BytesIO(oci.archive(made))) as tar:
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


MODULE = f"{wheels.SITE}/a.py"
COMPILED = f"{wheels.SITE}/__pycache__/a.{sys.implementation.cache_tag}.pyc"


def test_what_can_be_imported_is_compiled_and_its_time_plays_no_part():
    files = {
        MODULE: File(b"def f(x: no) -> None: return 1\n"), f"{wheels.SITE}/template.py": File(b"{{ x\n"),
        f"{wheels.SITE}/data": File(b""), "opt/hotnic/bin/hotnic.py": File(b"x = 1\n"),
    }  # fmt: skip
    once, again = pack.compiled(files), pack.compiled(dict(reversed(files.items())))
    assert once == again
    assert set(once) - set(files) == {COMPILED}
    head, code = once[COMPILED].content[:16], once[COMPILED].content[16:]
    assert head[4:8] == b"\1\0\0\0"  # PEP 552: by its source's hash, which is not looked at again
    with pytest.raises(NameError):  # compiled as what it says itself, without the packer's own __future__
        exec(marshal.loads(code), {})


def test_the_interpreter_uses_what_was_compiled_without_a_look_at_the_source(tmp_path):
    files = pack.compiled({MODULE: File(b"VALUE = 1\n")})
    tree.write(files, tmp_path)
    (tmp_path / MODULE).write_text("VALUE = 2\n")
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import a; print(a.VALUE)"], env={"PYTHONPATH": str(tmp_path / wheels.SITE)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "1\n"


def test_debians_files_lie_below_usr_and_no_link_leads_out_of_the_root():
    found = system.merged({
        "lib/x86_64-linux-gnu/libz.so.1": File(target="libz.so.1.2"),
        "usr/lib/ssl/cert.pem": File(target="/etc/ssl/cert.pem"),
        "usr/lib/x.so": File(target="/lib/x86_64-linux-gnu/x.so.1"),
        "libexec/own": File(b"1"),
    })  # fmt: skip
    assert found["usr/lib/x86_64-linux-gnu/libz.so.1"].target == "libz.so.1.2"
    assert found["usr/lib/ssl/cert.pem"].target == "../../../etc/ssl/cert.pem"
    assert found["usr/lib/x.so"].target == "x86_64-linux-gnu/x.so.1"
    assert {name: file.target for name, file in found.items() if "/" not in name} == {
        "bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin",
    }  # fmt: skip
    assert "libexec/own" in found


def test_a_source_archive_gives_its_package_and_what_it_is_called_and_no_more(tmp_path):
    archive = tmp_path / "ovs-9.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (
            "PKG-INFO",
            "setup.py",
            "ovs/__init__.py",
            "ovs/_json.c",
            "ovs/tests/test_x.py",
            "ovs/flowviz/x.py",
        ):
            entry = tarfile.TarInfo(f"ovs-9/{name}")
            tar.addfile(entry)
    found = dict(wheels._of_source(archive))
    assert found.keys() == {f"{wheels.SITE}/ovs-9.dist-info/METADATA", f"{wheels.SITE}/ovs/__init__.py"}


def test_everything_that_is_locked_is_in_the_bill_of_materials():
    names = {part.name for part in command._contents()}
    assert {"libc6", "python3.11-minimal", "grpcio", "ovs", "pyroute2"} <= names
    assert len(names) == len(debian.locked()) + len(wheels.locked())
    assert all(part.version and " " not in part.version for part in command._contents())


def test_the_executable_for_nodes_is_the_same_bytes_wherever_it_is_built(tmp_path):
    made = [tmp_path / "a/hotnic", tmp_path / "somewhere/else/hotnic"]
    cni.build.main([str(path) for path in made])
    assert made[0].read_bytes() == made[1].read_bytes()


def test_the_containerfile_says_the_same_of_the_image_as_we_do():
    lines = Path(wheels.ROOT, "image/Containerfile").read_text().replace("\\\n", " ").splitlines()
    said = {keyword: shlex.split(rest) for keyword, _, rest in (line.partition(" ") for line in lines) if keyword}
    assert said["ENV"] == command.SETTINGS["Env"]
    labels = dict(one.split("=", 1) for one in said["LABEL"])
    assert labels == {key: value for key, value in command.labels().items() if not key.endswith("revision")}
    assert said["WORKDIR"] == [command.SETTINGS["WorkingDir"]]


def test_a_tree_that_nobody_committed_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "ROOT", tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    with pytest.raises(OSError, match="SOURCE_DATE_EPOCH"):
        command._commit_time()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    dated = {**os.environ, "GIT_COMMITTER_DATE": f"@{MADE_AT} +0000"}
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], check=True, env=dated)
    clean = command._revision()
    assert (command._commit_time(), len(clean)) == (MADE_AT, 40)
    (tmp_path / "new").touch()
    assert command._revision() == f"{clean}-dirty"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    assert command._commit_time() == 7


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
