"""An IPAM plugin whose every answer the suite decides, and which tells what it was asked.

It is a shell script in the directory that CNI_PATH names. Beside it: `answer`, the result of ADD; `mode.<VERB>`, how
that verb misbehaves; `calls/`, one file for each execution; `records/`, one file for each address given and not
taken back, named after the attachment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "cfm-ipam"
STDERR = "cfm-ipam was here"
"""What it writes on stderr, which the plugin has to pass on."""

_SCRIPT = r"""#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd '{home}' || exit 1
call=calls/$(date +%s%N).$$
{{ env | grep '^CNI_' | sort; echo; cat; }} > "$call.part"
mv "$call.part" "$call.call"
echo '{stderr}' >&2
record=records/$CNI_CONTAINERID.$CNI_IFNAME
mode=$(cat "mode.$CNI_COMMAND" 2>/dev/null)
fail() {{ echo '{{"cniVersion": "1.1.0", "code": 11, "msg": "cfm-ipam was told to fail"}}'; exit 1; }}
[ "$mode" = refuse ] && fail
case $CNI_COMMAND in
ADD) echo 10.55.0.5 > "$record" ;;
DEL) rm -f "$record" ;;
GC) for one in records/*; do
    id=${{one#records/}}
    grep -q "\"${{id%.*}}\"" "$call.call" || rm -f "$one"
done ;;
VERSION) echo '{{"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}}'; exit 0 ;;
esac
case $mode in
fail) fail ;;
die) kill -KILL $$ ;;
wait) while [ ! -e gate ]; do sleep 0.02; done ;;
esac
[ "$CNI_COMMAND" = ADD ] || exit 0
host=$(grep -lx CNI_COMMAND=ADD calls/*.call | wc -l)  # who is attached beside another has an address of its own
sed "s/10\\.55\\.0\\.5/10.55.0.$((host % 200 + 4))/" answer
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One execution."""

    command: str
    environ: Mapping[str, str] = field(hash=False)
    stdin: bytes


class FakeIPAM:
    """The suite's end of it."""

    def __init__(self, bin_dir: Path, home: Path) -> None:
        self._home = home
        for name in ("calls", "records"):
            (home / name).mkdir(parents=True)
        script = bin_dir / NAME
        script.write_text(_SCRIPT.format(home=home, stderr=STDERR))
        script.chmod(0o755)

    def reset(self, cni_version: str) -> None:
        """Forget everything; give one IPv4 address from now on."""
        for name in ("calls", "records"):
            for path in (self._home / name).iterdir():
                path.unlink()
        for path in (*self._home.glob("mode.*"), self._home / "gate"):
            path.unlink(missing_ok=True)
        self.answer(cni_version)

    def answer(
        self,
        cni_version: str,
        addresses: Sequence[tuple[str, str]] = (("10.55.0.5/24", "10.55.0.1"),),
        routes: Sequence[Mapping[str, Any]] = ({"dst": "10.66.0.0/16", "gw": "10.55.0.1"},),
    ) -> None:
        """Say what ADD gives from now on: (address, gateway) pairs and routes."""
        ips = [
            {
                **({"version": "6" if ":" in address else "4"} if cni_version < "1" else {}),
                "address": address,
                "gateway": gateway,
            }
            for address, gateway in addresses
        ]
        document = {"cniVersion": cni_version, "ips": ips, "routes": list(routes), "dns": {}}
        (self._home / "answer").write_text(json.dumps(document))

    def misbehave(self, command: str, mode: str) -> None:
        """refuse: fail before it does anything; fail: after; die: by SIGKILL after; wait: until `open_gate`."""
        (self._home / f"mode.{command}").write_text(mode)

    def open_gate(self) -> None:
        (self._home / "gate").touch()

    def calls(self, command: str = "") -> tuple[Seen, ...]:
        """Return its executions in their order, those of one verb only if that is given."""
        seen = (_seen(path.read_bytes()) for path in sorted((self._home / "calls").glob("*.call")))
        return tuple(one for one in seen if command in ("", one.command))

    def records(self) -> frozenset[str]:
        return frozenset(path.name for path in (self._home / "records").iterdir())


def _seen(text: bytes) -> Seen:
    head, _, stdin = text.partition(b"\n\n")
    environ = dict(line.split("=", 1) for line in head.decode(errors="replace").splitlines() if "=" in line)
    return Seen(environ.get("CNI_COMMAND", ""), environ, stdin)
