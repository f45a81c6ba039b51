"""The same sources give the same image. Debian's mirror and the package index are asked, which takes a minute."""

import os
import shutil
import subprocess
import sys

import pytest

from image import wheels
from image.__main__ import MOST_MB

pytestmark = pytest.mark.lane

SOURCES = ("LICENSE", "agent", "bin", "cni", "controller", "image", "pyproject.toml", "requirements.lock")
WRITTEN = {"hotnic.oci.tar", "hotnic.spdx.json", "hotnic.digest"}


def make(tree, umask, *options, **environment):
    """Make the image of a tree by a process with this umask, and what is in its environment besides."""
    subprocess.run(
        ["sh", "-c", 'umask "$1"; shift; exec "$@"', "sh", umask, sys.executable, "-m", "image", *options],
        cwd=tree, check=True, capture_output=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", **environment},
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in (tree / "dist").iterdir()}


def test_made_anew_at_another_time_and_place_it_is_the_same_to_the_byte(tmp_path):
    tree, other, scratch = tmp_path / "tree", tmp_path / "other/tree", tmp_path / "scratch"
    for folder in (tree, scratch):
        folder.mkdir()
    for name in SOURCES:
        source = wheels.ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
    shutil.copytree(tree, other, copy_function=shutil.copyfile)
    made = make(tree, "022")
    anew = make(
        other, "077", "--no-cache",
        TMPDIR=str(scratch), XDG_CACHE_HOME=str(tmp_path / "cache"), TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7",
    )  # fmt: skip
    assert made.keys() == WRITTEN
    assert made["hotnic.digest"] == anew["hotnic.digest"]
    assert made == anew
    assert len(made["hotnic.oci.tar"]) < MOST_MB * 1e6
    assert not list(scratch.iterdir())
