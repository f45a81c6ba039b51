"""libvirt's binding is optional, and not loaded before a machine needs it. Seen in a process of its own."""

import subprocess
import sys

import pytest

from agent.guests import libvirt

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


def test_the_event_loop_goes_on_after_a_failure(monkeypatch, caplog):
    """All machines' events come by it, for as long as the agent lives."""

    class EndOfTest(BaseException):
        pass

    class Binding:
        turns = 0

        def virEventRunDefaultImpl(self):
            self.turns += 1
            raise RuntimeError("poll failed") if self.turns < 3 else EndOfTest

    monkeypatch.setattr(libvirt, "_FAILED_S", 0.0)
    with pytest.raises(EndOfTest):
        libvirt._hear(Binding())
    assert caplog.text.count("RuntimeError: poll failed") == 2
