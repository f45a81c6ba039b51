"""The executable's own readers, which are C: under libFuzzer and the sanitizers (clang).

That what they make of a document is what Python makes of it, is tests/cni/test_native_readers.py's to say.
"""

import subprocess
from pathlib import Path

from cni import build, wire
from tests.cni.test_native_readers import CORPUS

NAME = "native"
_SOURCES = ("text.c", "config.c", "clock.c", "request.c")


def seeds() -> list[bytes]:
    """Return inputs: what it is ('c' a configuration, 'r' a reply), and its bytes."""
    replies = [wire.encode_reply(0, b"{}"), wire.encode_reply(1, b"x" * 50)[:20], b"\0" * 8]
    return [*(b"c" + document for document in CORPUS), *(b"r" + reply for reply in replies)]


def built(folder: Path) -> Path:
    """Return the fuzzer, made in that folder. Raises OSError where clang is missing, or refuses."""
    fuzzer = folder / "native-fuzzer"
    sources = [*(build.NATIVE / name for name in _SOURCES), Path(__file__).with_name("native.c")]
    options = ["-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-I", str(build.NATIVE)]
    command = [
        "clang",
        "-std=c17",
        "-D_GNU_SOURCE",
        "-Wall",
        "-Wextra",
        *options,
        "-o",
        str(fuzzer),
        *map(str, sources),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"clang failed:\n{done.stderr}")
    return fuzzer
