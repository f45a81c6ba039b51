"""Another version of the product: an image of this tree, with a later number and a later format of the state directory.

Rule 1: what is different is what a release changes, and nothing else: the number, the format, the step that brings a
        directory forward to it, which writes into each file something that this version does not know, and the bytes of
        the CNI executable.
Rule 2: a text that is to be changed and is not there is an error: the other version would be this one.
Rule 3: it is made as this one is, by `python -m image`.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from agent import formats
from e2e.product import REPOSITORY

NUMBER = "99.0"
NAME = "hotnic:99.0"
FORMAT = formats.CURRENT + 1
MARK = "later"  # the key that its step adds, and the last bytes of its executable
_PARTS = ("agent", "controller", "cni", "image", "bin", "pyproject.toml", "requirements.lock", "LICENSE")
_MADE_AT = "1767225600"  # seconds since 1970
_STEP = f"{FORMAT - 1}: dict.fromkeys((RECORDS, DESIRED), lambda one: {{**one, {MARK!r}: True}})"
OWN_NUMBER = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
_CHANGES = {
    "agent/formats.py": (
        (f"OLDEST, CURRENT = {formats.OLDEST}, {formats.CURRENT}", f"OLDEST, CURRENT = {formats.OLDEST}, {FORMAT}"),
        ("MappingProxyType(\n    {1: {", f"MappingProxyType(\n    {{{_STEP}, 1: {{"),
    ),
    "pyproject.toml": ((f'\nversion = "{OWN_NUMBER}"', f'\nversion = "{NUMBER}"'),),
}


def archive(folder: Path) -> Path:
    """Make its image, called NAME; return the archive."""
    tree, made = folder / "tree", folder / "made"
    tree.mkdir()
    for part in _PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / part)
    for name, changes in _CHANGES.items():
        _change(tree / name, changes)
    with (tree / "bin/hotnic").open("ab") as executable:
        executable.write(MARK.encode())
    command = (sys.executable, "-m", "image", "--output", str(made), "--tag", NAME)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _MADE_AT}
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)
    return made / "hotnic.oci.tar"


def _change(path: Path, changes: tuple[tuple[str, str], ...]) -> None:
    text = path.read_text()
    for before, after in changes:
        if text.count(before) != 1:
            raise ValueError(f"{path} has no {before!r}")
        text = text.replace(before, after)
    path.write_text(text)
