"""Looks at a node with the system's own tools (ip, tc, nft, bridge), and at its files.

Rule 1: no line of this is the agent's; where both know the same thing, they found it out by different ways.
Rule 2: one shell script asks the kernel everything, since entering a node takes longer than asking.
Rule 3: things come and go while this looks: what has gone meanwhile was not there.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from e2e import node as nodes
from e2e.auditor import seen

_SCRIPT = """
section() { printf '\\n=== %s\\n' "$*"; }
section numbers; ip -json netns list-id
section links; ip -json -d addr
section qdiscs; tc -json qdisc
section rules; nft -j list ruleset
section fdb; bridge -json fdb show
for link in $(tc qdisc | awk '/ (clsact|ingress) /{print $5}' | sort -u); do
  section filters $link; tc -json filter show dev $link ingress
done
section ipv6; grep -s 0 /proc/sys/net/ipv6/conf/*/disable_ipv6
for path in /run/netns/*; do
  [ -e "$path" ] || continue
  section links-of ${path##*/}; nsenter --net=$path ip -json -d addr
  section qdiscs-of ${path##*/}; nsenter --net=$path tc -json qdisc
done
"""
BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
_MARKS = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "HOTNIC_EXEC")


def look(node: nodes.Node) -> seen.Node:
    """Return what is there."""
    files = _Files(node)
    before = {one.id: one for one in files.sandboxes()}  # what was and is both, lived in between
    told = _Told(node.exec(["sh", "-c", _SCRIPT], check=False).stdout)
    return seen.Node(
        links=told.links("links"),
        namespaces=told.namespaces(),
        numbers={one["nsid"]: one.get("name", "") for one in told.json("numbers")},
        qdiscs=tuple(told.json("qdiscs")),
        redirections=frozenset(told.redirections()),
        rules=tuple(told.rules()),
        tunnels=frozenset((one["ifname"], one["dst"]) for one in told.json("fdb") if "dst" in one),
        with_ipv6=frozenset(line.split("/")[6] for line in told.text("ipv6").splitlines() if line.endswith(":0")),
        sandboxes=tuple(one for one in files.sandboxes() if before.get(one.id) == one),
        containers=frozenset(files.bundles()),
        leases=tuple(files.leases()),
        caches=tuple(files.caches()),
        records=tuple(files.documents("records")),
        desired=tuple(files.documents("pods")),
        oddities=tuple(files.oddities()),
        processes=tuple(files.processes()),
        plugins=frozenset(path.name for path in files.under("/opt/cni/bin")),
    )


class _Told:
    """What the script printed, by section."""

    def __init__(self, text: str) -> None:
        parts = [part.partition("\n") for part in text.split("\n=== ")[1:]]
        self._sections = {name: body.strip() for name, _, body in parts}

    def text(self, name: str) -> str:
        return self._sections.get(name, "")

    def json(self, name: str) -> Any:
        """Return the section's JSON; nothing where what was asked has gone."""
        try:
            return json.loads(self.text(name) or "[]")
        except ValueError:
            return []

    def links(self, name: str) -> tuple[seen.Link, ...]:
        return tuple(seen.Link.of(one) for one in self.json(name) if one)

    def namespaces(self) -> dict[str, seen.Namespace]:
        names = [name.removeprefix("links-of ") for name in self._sections if name.startswith("links-of ")]
        return {
            name: seen.Namespace(self.links(f"links-of {name}"), tuple(self.json(f"qdiscs-of {name}")))
            for name in names
        }

    def redirections(self) -> Iterator[str]:
        for name in self._sections:
            if name.startswith("filters "):
                for one in self.json(name):
                    for action in one.get("options", {}).get("actions", ()):
                        yield action.get("to_dev", "")

    def rules(self) -> Iterator[seen.Document]:
        ruleset = self.json("rules") or {}
        yield from (one["rule"] for one in ruleset.get("nftables", ()) if "rule" in one)


class _Files:
    """The node's files."""

    def __init__(self, node: nodes.Node) -> None:
        self._node = node

    def under(self, folder: str) -> list[Path]:
        """Return what is in the folder, nothing where there is none."""
        try:
            return sorted(self._node.path(folder).iterdir())
        except FileNotFoundError:
            return []

    def bundles(self) -> Iterator[str]:
        yield from (path.name for path in self.under(BUNDLES))

    def sandboxes(self) -> Iterator[seen.Sandbox]:
        for path in self.under(BUNDLES):
            with suppress(FileNotFoundError, NotADirectoryError, ValueError):
                config = json.loads((path / "config.json").read_text())
                notes = config.get("annotations", {})
                if notes.get("io.kubernetes.cri.container-type") == "sandbox":
                    own = [one for one in config["linux"]["namespaces"] if one["type"] == "network"]
                    netns = Path(own[0].get("path", "")).name if own else ""
                    uid = notes.get("io.kubernetes.cri.sandbox-uid", "")
                    yield seen.Sandbox(path.name, uid, netns, self._is_running(path / "init.pid"))

    def _is_running(self, pid_file: Path) -> bool:
        with suppress(OSError, ValueError):
            status = self._node.path(f"/proc/{int(pid_file.read_text())}/stat").read_text()
            return status.rpartition(")")[2].split()[0] not in "ZXx"
        return False

    def leases(self) -> Iterator[seen.Lease]:
        for folder in self.under("/var/lib/cni/networks"):
            for path in self.under(f"/var/lib/cni/networks/{folder.name}"):
                if path.name[0].isdigit() or ":" in path.name:
                    with suppress(FileNotFoundError):
                        container_id, _, ifname = path.read_text().partition("\n")
                        yield seen.Lease(folder.name, path.name, container_id.strip(), ifname.strip())

    def caches(self) -> Iterator[tuple[str, str, str]]:
        for path in self.under("/var/lib/cni/results"):
            with suppress(FileNotFoundError, ValueError):
                document = json.loads(path.read_text())
                yield path.name, document["containerId"], document["ifName"]

    def documents(self, kind: str) -> Iterator[seen.Document]:
        for path in self.under(f"/var/lib/hotnic/{kind}"):
            if path.suffix == ".json":
                with suppress(FileNotFoundError):
                    yield json.loads(path.read_text())

    def oddities(self) -> Iterator[str]:
        for kind in ("records", "pods"):
            yield from (
                f"{kind}/{path.name}" for path in self.under(f"/var/lib/hotnic/{kind}") if path.suffix != ".json"
            )
        for folder in ("/var/lib/hotnic/damaged", "/run/hotnic/tombstones"):
            yield from (f"{Path(folder).name}/{path.name}" for path in self.under(folder))

    def processes(self) -> Iterator[seen.Process]:
        """Yield those that a CNI call, or the agent's executor, may have left."""
        commands: dict[int, str] = {}
        found: list[tuple[int, int, str, dict[str, str]]] = []
        for path in self.under("/proc"):
            if path.name.isdigit():
                with suppress(OSError):
                    state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                    commands[int(path.name)] = _words(path / "cmdline")
                    found.append((int(path.name), int(parent), state, _marks(path / "environ")))
        for pid, above, state, marks in found:
            yield seen.Process(pid, state, commands[pid], commands.get(above, ""), marks)


def _words(path: Path) -> str:
    return path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _marks(path: Path) -> dict[str, str]:
    try:
        pairs = (one.decode(errors="replace").partition("=") for one in path.read_bytes().split(b"\0"))
    except OSError:  # it has ended, and waits for its parent
        return {}
    return {name: value for name, _, value in pairs if name in _MARKS}
