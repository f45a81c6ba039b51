"""`hotnic-agent doctor` on a node with Multus: it is found, with its version, and nothing of it is called wrong."""

import re

import pytest

from e2e import build
from e2e import doctor_command as doctor
from e2e.node import Node

pytestmark = pytest.mark.lane


@pytest.mark.usefixtures("ns")
def test_multus_is_named_with_its_version_and_where_it_sits_in_the_chain(node: Node) -> None:
    modules = build.TOOLS.source.joinpath("go.mod").read_text()
    (version,) = re.findall(r"k8snetworkplumbingwg/multus-cni\S* (v\S+)", modules)
    told = doctor.run(node)
    assert (told.status, told.to_do) == (0, [])
    assert f"multus-shim {version};" in told.of("Multus", "ok")
    assert "/etc/cni/net.d/00-multus.conf" in told.of("CNI chain", "ok")
    assert "plugins multus-shim: Multus is called for each pod" in told.of("CNI chain", "ok")
