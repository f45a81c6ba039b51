"""Files of the image on this machine's disk: all of them for who packs them up himself, or what an interpreter needs.

Rule 1: what is written is what a container runtime would unpack, whatever this process' umask is; the owner is who
        executes this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from image import layer
from image.layer import File


def write(files: Mapping[str, File], folder: Path) -> None:
    """Write the files into `folder`, which has none of them. Raises OSError."""
    every = sorted(layer.with_folders(files).items())
    for name, file in every:
        path = folder / name
        if file.target:
            path.symlink_to(file.target)
            continue
        if file.is_folder:
            path.mkdir()
        else:
            path.write_bytes(file.content)
        path.chmod(layer.mode(file))
    for name, _ in reversed(every):  # a folder after what is in it
        os.utime(folder / name, (layer.AGE, layer.AGE), follow_symlinks=False)
