"""The image's own interpreter, executed on the building machine: what it compresses does not depend on the machine's.

Rule 1: it runs on the libraries of the image, by the image's loader, with nothing of this process' environment.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from image import debian, layer, system, tree
from image.layer import File

# the seed: nothing known depends on it, and then nothing unknown does
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}


@contextmanager
def of(files: Mapping[str, File]) -> Iterator[Callable[[Mapping[str, File]], bytes]]:
    """Have the interpreter that is among these files; yield what makes a layer's blob with it, or raises OSError."""
    with tempfile.TemporaryDirectory(prefix="hotnic-image-") as folder:
        root = Path(folder)
        tree.write(files, root)
        loader = [str(root / system.LOADER), "--library-path", str(root / system.LIBRARIES)]
        command = [*loader, str(root / f"usr/bin/{debian.PYTHON}"), "-s", "-S", "-W", "ignore", "-m", "image.pack"]

        def packed(files: Mapping[str, File]) -> bytes:
            done = subprocess.run(
                command, input=layer.tar(files), capture_output=True, check=False, env=_ENVIRONMENT,
                cwd=Path(__file__).parents[1],
            )  # fmt: skip
            if done.returncode:
                raise OSError(f"the image's interpreter: {done.stderr.decode(errors='replace')[-2000:]}")
            return done.stdout

        yield packed
