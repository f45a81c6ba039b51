"""Plugins that break one rule each, to judge the suite by: `python -m tests.conformance.broken DIR PART JSON SCRATCH`.

Each is the reference plugin `bridge` behind a script that spoils something. For every item: the script has to fail it,
and where the reference itself does it right, the reference has to pass. Run within `sandbox.isolated`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.conformance import daemon, sandbox, suite
from tests.conformance.abilities import VERSIONS
from tests.conformance.case import Item, World

_FRAME = """#!{python} -I
import json, os, subprocess, sys, time

env = dict(os.environ)
verb, ifname, netns = (env.get("CNI_" + name, "") for name in ("COMMAND", "IFNAME", "NETNS"))
stdin = sys.stdin.buffer.read()
mark = "/run/broken-" + env.get("CNI_CONTAINERID", "").replace("/", "_")[:40] + ifname.replace("/", "_")


def config():
    return json.loads(stdin)


def real(**changed):
    text = json.dumps(changed.pop("config")).encode() if "config" in changed else stdin
    done = subprocess.run(["{real}"], env={{**env, **changed}}, input=text, stdout=subprocess.PIPE)
    return done.returncode, done.stdout


def answer(code, stdout):
    sys.stdout.buffer.write(stdout)
    sys.stdout.flush()
    os._exit(code)


def refuse(number, message="no"):
    answer(1, json.dumps({{"code": number, "msg": message}}).encode())


def result(change):
    code, stdout = real()
    if code == 0 and verb == "ADD":
        document = json.loads(stdout)
        change(document)
        stdout = json.dumps(document).encode()
    answer(code, stdout)


def ip(*arguments, inside=False):
    prefix = ["nsenter", "--net=" + netns] if inside else []
    return subprocess.run([*prefix, "ip", *arguments], capture_output=True, text=True).stdout


def wipe():
    for name in os.listdir("/sys/class/net"):
        if name.startswith("veth"):
            ip("link", "del", name)


def down():
    ip("link", "set", ifname, "down", inside=True)


{fault}
answer(*real())
"""

_FAULTS: Mapping[str, str] = {
    "1": 'if verb == "VERSION": answer(0, b\'{"cniVersion": "0.0.0", "supportedVersions": ["1.1.0"]}\')',
    "1r": 'if verb == "VERSION": answer(0, b\'{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}\')',
    "2": 'if verb == "VERSION": config()["cniVersion"]',
    "2p": 'if verb == "VERSION": env["CNI_PATH"]',
    "3": 'if verb == "VERSION" and netns: refuse(4)',
    "4": 'env["CNI_COMMAND"]',
    "5": 'if verb == "FOO": refuse(4, "what?")',
    "6": 'env["CNI_COMMAND"] = verb.upper()',
    "7": 'if not netns: refuse(4, "incomplete")',
    "7a": 'if not ifname: refuse(4, "CNI_IFNAME is missing")',
    "8": 'env["CNI_CONTAINERID"] = "same"',
    "9": 'if len(env.get("CNI_CONTAINERID", "")) > 128: refuse(4)',
    "10": 'env["CNI_IFNAME"] = ifname.replace("/", "").replace(" ", "")',
    "10c": "if len(ifname.encode()) > 15: refuse(7)",
    "11": 'if verb == "DEL": answer(0, b"")',
    "12": 'if "FOO" in env.get("CNI_ARGS", ""): refuse(4)',
    "13": "try: config()\nexcept ValueError: refuse(5)",
    "13f": 'if stdin == b"null": refuse(100)',
    "14": 'if verb == "ADD" and not config().get("name"): answer(*real(config={**config(), "name": "x"}))',
    "15": 'if b"9.9.9" in stdin: answer(*real(config={**config(), "cniVersion": "1.0.0"}))',
    "15f": 'if b\'"1.1"\' in stdin: answer(*real(config={**config(), "cniVersion": "1.1.0"}))',
    "16": 'if verb in ("GC", "STATUS"): answer(0, b"")',
    "17": "code, stdout = real()\nanswer(code, stdout + stdout)",
    "17v": "",
    "18": 'if verb == "ADD" and "cfm.example/x" in config(): refuse(2)',
    "19": "",
    "20": "",
    "21": "",
    "22": 'os.write(2, b"starting")',
    "23": "os.getcwd()",
    "24": 'subprocess.Popen(["sleep", "5"], close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)',
    "25": 'open(env.get("TMPDIR", "/tmp") + "/broken", "w").close()',
    "26": 'result(lambda it: it.update(cniVersion="0.3.0"))',
    "26u": 'code, stdout = real()\nif verb == "ADD": down()\nanswer(code, stdout)',
    "27": 'result(lambda it: it["interfaces"][-1].update(mac="02:00:00:00:00:99"))',
    "27s": 'result(lambda it: it["interfaces"][-1].update(sandbox=os.path.realpath(netns)))',
    "28": "",
    "29": 'result(lambda it: it["ips"][0].update(version="5"))',
    "29k": 'result(lambda it: it["interfaces"][-1].update(mtu=1500))',
    "30": "",
    "31": 'if verb == "ADD": ip("link", "del", ifname, inside=True)',
    "31s": 'if verb == "ADD" and ifname in ip("link", inside=True): ip("link", "add", "stray", "type", "veth")',
    "32": 'if verb == "ADD" and not os.path.exists(netns): answer(0, b"{}")',
    "33": 'if netns == "/etc/passwd": answer(0, b"{}")',
    "34": "",
    "34o": 'if env.get("CNI_NETNS_OVERRIDE"): refuse(8)',
    "35": 'if verb == "ADD" and os.path.islink(netns): refuse(8)',
    "36": 'result(lambda it: it["interfaces"][-1].update(mac=it["interfaces"][-1]["mac"].upper()))',
    "36i": "",
    "37": 'if verb == "ADD" and "runtimeConfig" in config(): answer(*real(config={**config(), "runtimeConfig": {}}))',
    "38": 'code, stdout = real()\nif verb == "ADD" and "mtu" in config():\n'
    '    [ip("link", "set", n, "mtu", "1300") for n in os.listdir("/sys/class/net") if n.startswith("veth")]\n'
    "answer(code, stdout)",
    "38m": "",
    "39": 'if verb == "ADD" and not os.path.exists("/sys/class/net/cfm-none"): refuse(100)',
    "39k": "",
    "40": 'try: os.mkdir("/run/broken-busy")\nexcept FileExistsError: refuse(11)\n'
    'done = real()\nos.rmdir("/run/broken-busy")\nanswer(*done)',
    "41": 'if verb == "ADD" and not config().get("ipam"):\n'
    '    answer(*real(config={**config(), "ipam": {"type": "cfm-ipam"}}))',
    "42": "",
    "42d": "",
    "42f": "",
    "43": "",
    "43d": 'if verb == "DEL": answer(*real(config={**config(), "ipam": {}}))',
    "44": "",
    "45": 'if verb == "ADD": answer(*real(config={**config(), "cfm.example/x": 0}))',
    "45a": "result(lambda it: it.update(routes=[]))",
    "45s": 'os.close(2)\nos.open("/dev/null", os.O_WRONLY)',
    "46": "",
    "47": 'code, stdout = real()\nif verb == "ADD": ip("-6", "addr", "flush", "dev", ifname, inside=True)\n'
    "answer(code, stdout)",
    "48": "",
    "49": "",
    "50a": "",
    "50i": 'if verb == "ADD" and real()[0]: answer(0, b"{}")',
    "51": 'if verb == "ADD":\n'
    '    late = "cat > /run/broken-in; {real} < /run/broken-in > /dev/null; sleep 0.3; ip link add late type veth"\n'
    '    subprocess.Popen(["sh", "-c", late], env=env, stdin=subprocess.PIPE).communicate(stdin)\n    answer(1, b"")',
    "52": 'if verb == "DEL": real(), answer(0, b"removed")',
    "53": 'if verb == "DEL" and not os.path.exists(mark): refuse(3)\n'
    'if verb == "DEL": os.unlink(mark)\nif verb == "ADD": open(mark, "w").close()',
    "54": 'if verb == "DEL" and not os.path.exists(mark): refuse(3)\nif verb == "ADD": open(mark, "w").close()',
    "55": 'if verb == "DEL" and not netns: answer(0, b"")',
    "55p": "",
    "56": 'if verb == "DEL" and not os.path.exists(netns): refuse(8)',
    "57": "",
    "58": 'if verb == "DEL" and not os.path.exists("/sys/class/net/cfm-br"): refuse(100, "bridge not found")',
    "59": 'if verb == "DEL" and ifname not in ip("link", inside=True): refuse(100, "link not found")',
    "59r": "",
    "60": "",
    "61": 'if verb == "DEL" and "prevResult" not in config(): refuse(7)',
    "61e": "",
    "62": 'if verb == "DEL": answer(0, b"")',
    "63": 'if verb == "DEL": wipe()',
    "63s": "",
    "64": 'if verb == "DEL" and ifname not in ip("link", inside=True): answer(0, b"")',
    "64c": 'if verb == "DEL": answer(*(real()[0], b"") if real(CNI_IFNAME="other")[0] == 0 else (1, b"{}"))',
    "64e": 'if verb == "DEL": real(), answer(0, b"")',
    "65": "",
    "65d": 'if verb == "CHECK": answer(0, b"")',
    "65e": 'if verb == "CHECK": answer(0, b"")',
    "65i": 'if verb == "CHECK": refuse(100)',
    "66": 'if verb == "CHECK": answer(0, b"")',
    "67": 'if verb == "CHECK": answer(0, b"")',
    "67a": 'if verb == "CHECK": answer(0, b"")',
    "67b": 'if verb == "CHECK": answer(0, b"")',
    "67m": 'if verb == "CHECK": answer(0, b"")',
    "67r": 'if verb == "CHECK": answer(0, b"")',
    "68": 'if verb == "CHECK" and "10.77." in ip("addr", inside=True): refuse(100)',
    "68d": 'if verb == "CHECK": answer(*((1, b"{}") if "state DOWN" in ip("link", inside=True) else (0, b"")))',
    "68o": 'if verb == "CHECK": answer(*((1, b"{}") if ip("link").count("master") > 1 else (0, b"")))',
    "69": 'if verb == "GC": wipe()',
    "69f": "",
    "69n": 'if verb == "GC" and "cni.dev/valid-attachments" not in config():\n    wipe()',
    "69p": "",
    "69s": "",
    "70": 'if verb == "STATUS": refuse(50)',
    "70a": "",
    "70b": "",
    "70d": "",
    "70e": 'if verb == "STATUS": answer(0, b"")',
    "70i": 'if verb == "STATUS": answer(0, b"")',
    "70m": "",
}
"""Item to what breaks it. Nothing: the reference `bridge` itself does, as it is."""

# Few system calls and a child for each step: what dies between two of them is easily hit.
_SHELL: Mapping[str, str] = {
    "50": 'if [ "$CNI_COMMAND" = ADD ]; then ip link add trace$$ type veth peer name trail$$; fi\n'
    'cat > /run/broken-in; "{real}" < /run/broken-in; code=$?\n'
    'if [ "$CNI_COMMAND" = ADD ]; then ip link del trace$$; fi; exit $code',
    "50d": 'if [ "$CNI_COMMAND" = DEL ]; then ip link add trace$$ type veth peer name trail$$; fi\n'
    'cat > /run/broken-in; "{real}" < /run/broken-in; code=$?\n'
    'if [ "$CNI_COMMAND" = DEL ]; then ip link del trace$$; fi; exit $code',
}

# A daemon that leaves its work half done when it dies, and a plugin that needs it at ADD or at DEL.
_DAEMON = """exec 3<>{home}/ask 4<>{home}/told
while read number <&3; do
    ip link add "work$number" type veth peer name "krow$number"
    echo > /dev/null
    ip link del "work$number"
    echo done >&4
done
"""
_ASK = """if [ "$CNI_COMMAND" = {verb} ]; then
    exec 4<>{home}/told
    echo $$ > {home}/ask
    timeout 3 head -n 1 <&4 > /dev/null
fi
exec "{real}"
"""
_ASKING: Mapping[str, str] = {"50x": "ADD", "50y": "DEL"}

ITEMS = frozenset({*_FAULTS, *_SHELL, *_ASKING})
REFERENCE_FAILS = frozenset(number for number, fault in _FAULTS.items() if not fault) | {
    "1",
    "66",
    "68d",
    "68o",
    *_ASKING,
}
"""What the reference fails by itself, at least in one version, or what is about a daemon, which it has not."""
MASTER = "cfm-eth"
_BRIDGE = {"cniVersion": "1.1.0", "name": "cfm", "type": "bridge", "bridge": "cfm-br"}
_MACVLAN = {"cniVersion": "1.1.0", "name": "cfm", "type": "macvlan", "master": MASTER}


def main(plugins: Path, part: str, report: Path, home: Path) -> None:
    """Judge a part of the items, `2/4` for the second of four; `plugins` is where the reference plugins are.

    Writes `{item: [judgement of the broken plugin, of the reference, evidence]}`.
    """
    sandbox.enter()
    number, parts = map(int, part.split("/"))
    world = suite.prepare(plugins / "bridge", _BRIDGE, home, sandbox.Furniture({MASTER: []}))
    every = suite.items()
    world.abilities = {need: "" for item in every for need in item.needs}
    for name in ("ask", "told"):
        os.mkfifo(home / name)
    script = home / "daemon"
    script.write_text(_DAEMON.format(home=home))
    world.daemon = daemon.Daemon(f"sh {script}", None, home / "daemon.log")
    world.daemon.start()
    told = {item.number: _judged(world, item, plugins, home) for item in every[number - 1 :: parts]}
    world.daemon.kill()
    report.write_text(json.dumps(told))


def _judged(world: World, item: Item, plugins: Path, home: Path) -> tuple[str, str, str]:
    """Judge the broken plugin and the reference; items about a master by `macvlan`, all others by `bridge`."""
    version = VERSIONS[0] if item.number in ("1", "29k") else VERSIONS[-1]
    world.base = _MACVLAN if "master" in item.needs else _BRIDGE
    plugin = plugins / world.base["type"]
    world.plugin = str(_written(item.number, plugin, home))
    broken, evidence = suite.judge(world, item, version)
    world.plugin = str(plugin)
    return broken.value, suite.judge(world, item, version)[0].value, evidence


def _written(number: str, plugin: Path, home: Path) -> Path:
    path = home / f"broken-{number}"
    if number in _ASKING:
        path.write_text("#!/bin/sh\n" + _ASK.format(verb=_ASKING[number], home=home, real=plugin))
    elif number in _SHELL:
        path.write_text("#!/bin/sh\n" + _SHELL[number].replace("{real}", str(plugin)))
    elif not _FAULTS[number]:
        return plugin
    else:
        fault = _FAULTS[number].replace("{real}", str(plugin))
        path.write_text(_FRAME.format(python=sys.executable, real=plugin, fault=fault))
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
