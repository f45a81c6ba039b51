"""A function of the tests' in an interpreter of its own.

What forks to run Python in the child must not do so where an earlier test has used gRPC: its threads are not in the
child, and their locks are; the child then aborts or hangs, with gRPC's own care for forks and without.

Rules
1. The interpreter has imported nothing and has one thread; gRPC minds forks in it as it does by default.
2. It ends with the thread that asked for it.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e import kernel

ROOT = Path(__file__).parents[1]


def call(function: str, *arguments: object) -> Any:
    """Have `module:function` called with what JSON can say; return what it returned, as JSON says it.

    Raises AssertionError where it did not return.
    """
    receiving, sending = os.pipe()
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    command = [sys.executable, "-m", "tests.fresh", function, json.dumps(arguments), str(sending)]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, pass_fds=[sending])
    os.close(sending)
    with process, os.fdopen(receiving, "rb") as pipe:
        returned = pipe.read()
    assert process.returncode == 0, f"{function}{arguments} ended with {process.returncode}"
    return json.loads(returned)


def main(function: str, arguments: str, pipe: str) -> None:
    kernel.die_with_parent()
    module, _, name = function.partition(":")
    returned = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    with os.fdopen(int(pipe), "w") as file:
        json.dump(returned, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
