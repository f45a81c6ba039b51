"""Compile and compress a layer, by the image's own interpreter: `python -m image.pack <content >blob`.

Rules
1. What decides the bytes is locked with the image: the compiler of its interpreter, and the zlib that this one loads.
   Which Python the building machine has plays no part, so the standard library and image.layer are all there is here.
2. Every module that can be imported is compiled, with the source's hash in place of its time, and never compared with
   it again (PEP 552): unpacked anywhere, and on a read-only file system, it is used as it is.
3. Modules are compiled in the order of their names: what the interpreter has seen before can show in what it writes.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
from collections.abc import Iterator, Mapping

from image import layer
from image.layer import File

_IMPORTED = "usr/lib/python3"  # the standard library, and what Debian's interpreter looks into besides
_UNCHECKED_HASH = 1


def main() -> None:
    files = compiled(layer.files(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(layer.compressed(layer.tar(files)))


def compiled(files: Mapping[str, File]) -> dict[str, File]:
    """Return the files, with the compiled form of each module (rules 2 and 3)."""
    return dict(files) | dict(_modules(files))


def _modules(files: Mapping[str, File]) -> Iterator[tuple[str, File]]:
    for name, file in sorted(files.items()):
        if name.startswith(_IMPORTED) and name.endswith(".py") and not file.target:
            try:
                code = compile(file.content, f"/{name}", "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                continue  # templates of other things that end in .py
            folder, _, module = name.rpartition("/")
            cached = f"{folder}/__pycache__/{module.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
            kind = _UNCHECKED_HASH.to_bytes(4, "little")
            head = importlib.util.MAGIC_NUMBER + kind + importlib.util.source_hash(file.content)
            yield cached, File(head + marshal.dumps(code))


if __name__ == "__main__":
    main()
