"""libvirt's binding is optional, and not loaded before a machine needs it. Seen in a process of its own."""

import subprocess
import sys

_MISSING = """
import sys
from pathlib import Path
from agent.guests import libvirt, wish
from agent.model import NotReady
assert not {"libvirt", "libvirtmod"} & sys.modules.keys(), "it is loaded with the module"
sys.modules["libvirt"] = None  # as if it were not installed
try:
    libvirt.connect(Path("/"), wish.Libvirt("/run/libvirt/libvirt-sock", "vm1"))
except NotReady as problem:
    print(problem.reason, problem)
"""


def test_an_agent_without_the_binding_says_so_and_works_otherwise():
    done = subprocess.run([sys.executable, "-c", _MISSING], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("VMUnreachable ")
    assert "no libvirt binding" in done.stdout
