import json

import pytest

from agent.guests import wish
from agent.model import Refused


def test_qemu_and_libvirt():
    text = '{"qmp": "/run/q.sock", "guestAgent": "/run/a.sock", "container": "vm", "ports": {"net1": "rp2"}}'
    assert wish.parse(text) == wish.Qemu("/run/q.sock", "/run/a.sock", "vm", {"net1": "rp2"})
    assert wish.parse('{"qmp": "/q"}') == wish.Qemu("/q")
    assert wish.parse('{"libvirt": "/l", "domain": "d", "container": "c"}') == wish.Libvirt("/l", "d", "c")


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("kubevirt", "is not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "must have one of the keys qmp and libvirt"),
        ({"qmp": "/q", "libvirt": "/l", "domain": "d"}, "must have one of the keys"),
        ({"qmp": "/q", "domain": "d"}, "has unknown keys: domain"),
        ({"qmp": "q.sock"}, "qmp must be an absolute path in the container"),
        ({"qmp": "/q\0"}, "qmp must be an absolute path"),
        ({"qmp": "/" + "q" * 5000}, "qmp must be an absolute path"),
        ({"qmp": 5}, "qmp must be a string that is not empty"),
        ({"qmp": "/q", "guestAgent": ""}, "guestAgent must be a string that is not empty"),
        ({"qmp": "/q", "container": 1}, "container must be a string"),
        ({"qmp": "/q", "ports": []}, "ports must be an object"),
        ({"qmp": "/q", "ports": {"net1": ""}}, "ports must be an object"),
        ({"qmp": "/q", "ports": {"a/b": "rp1"}}, "ports: 'a/b' is no interface name"),
        ({"libvirt": "/l"}, "domain must be a string that is not empty"),
    ],
)
def test_what_is_wrong_is_named(document, complaint):
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(Refused, match=r"annotation hotnic\.dev/vm ") as refused:
        wish.parse(text)
    assert complaint in str(refused.value)
    assert refused.value.reason == "InvalidVM"
