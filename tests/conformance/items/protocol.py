"""Items 1-25: environment, stdin, stdout, errors. Where the checks of the reference (pkg/skel) go further than the
specification, they are marked as field experience.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.conformance import abilities
from tests.conformance.case import Case, Level, Violation, item
from tests.conformance.plugin import LIMIT_S, Outcome

MUST, SHOULD, FIELD = Level.MUST, Level.SHOULD, Level.FIELD


def version_answer(case: Case, outcome: Outcome) -> tuple[str, list[str]]:
    """Return cniVersion and supportedVersions of an answer to VERSION."""
    case.require(outcome.ok, "VERSION fails")
    try:
        document = outcome.document()
    except ValueError as problem:
        raise Violation(f"VERSION: stdout is not one JSON object: {problem}") from None
    stated, listed = document.get("cniVersion"), document.get("supportedVersions")
    case.require(isinstance(stated, str), "the answer to VERSION has no cniVersion")
    case.require(isinstance(listed, list) and listed, "the answer to VERSION has no supportedVersions")
    return str(stated), list(map(str, listed or []))


@item("1", "VERSION tells the versions, and the cniVersion that it was asked with", MUST, "§5 Version", since="0.3.1")
def version(case: Case) -> None:
    stated, _ = version_answer(case, case.call("VERSION", config={"cniVersion": case.version}))
    case.require(stated == case.version, f"cniVersion of the answer is {stated}, not {case.version} as in the input")


@item("1r", "VERSION lists all of 0.3.1, 0.4.0, 1.0.0, 1.1.0", FIELD, "§5 Version")
def version_range(case: Case) -> None:
    _, listed = version_answer(case, case.call("VERSION", config={"cniVersion": case.version}))
    missing = set(abilities.VERSIONS) - set(listed)
    case.require(not missing, f"supportedVersions lacks {sorted(missing)}")


@item("2", "VERSION is answered whatever is on stdin", FIELD, "§2 VERSION")
def version_of_garbage(case: Case) -> None:
    _, usual = version_answer(case, case.call("VERSION", config={"cniVersion": case.version}))
    for stdin in (b"", b"garbage", b'{"cniVersion":"9.9.9"}', b'{"cniVersion":'):
        _, listed = version_answer(case, case.call("VERSION", stdin=stdin))
        case.require(listed == usual, f"another list of versions for stdin {stdin!r}")


@item("2p", "VERSION needs no variable but CNI_COMMAND", MUST, "§2 VERSION")
def version_without_path(case: Case) -> None:
    version_answer(case, case.call("VERSION", config={"cniVersion": case.version}, env={"CNI_PATH": None}))


@item("3", "VERSION in the form of libcni, with dummy values in the other variables", FIELD, "§2 VERSION")
def version_of_libcni(case: Case) -> None:
    env = {"CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy", "CNI_CONTAINERID": "", "CNI_ARGS": ""}
    version_answer(case, case.call("VERSION", config={"cniVersion": case.version}, env=env))


@item("4", "Without CNI_COMMAND: help on stderr, or an error with code 4", FIELD, "§2 Parameters")
def no_command(case: Case) -> None:
    outcome = case.call("", env={"CNI_COMMAND": None})
    if outcome.ok:
        case.require(not outcome.stdout.strip(), "exit 0, but there is something on stdout")
        case.require(outcome.stderr.strip(), "exit 0 without a word")
    else:
        case.refused(outcome, [4])


@item("5", "An unknown CNI_COMMAND is an error with code 4 that names the variable", SHOULD, "§5 Error")
def unknown_command(case: Case) -> None:
    case.refused(case.call("FOO", case.attachment()), [4], ["CNI_COMMAND"])


@item("6", "CNI_COMMAND is case-sensitive: `add` is unknown", FIELD, "§2 Parameters")
def lower_case_command(case: Case) -> None:
    at = case.attachment()
    case.refused(case.call("add", at), [4])
    case.require(case.link(at) is None, "the interface was made")


@item("7", "ADD without a required variable is an error with code 4 that names it", SHOULD, "§2 ADD, §5 Error")
def missing_variable(case: Case) -> None:
    at = case.attachment()
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        case.refused(case.call("ADD", at, env={name: None}), [4], [name])
        case.refused(
            case.call("ADD", at, env={name: ""}), [4], [name]
        )  # libcni sets all of them, to nothing if need be


@item("7a", "All missing variables are named at once", FIELD, "§5 Error")
def missing_variables(case: Case) -> None:
    names = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")
    case.refused(case.call("ADD", case.attachment(), env=dict.fromkeys(names)), [4], names)


@item("8", "A container ID that is not one is an error with code 4", SHOULD, "§2 Parameters, §5 Error")
def bad_container_id(case: Case) -> None:
    at = case.attachment()
    for text in ("../x", "-a", "a b", "a/b", "é"):
        case.refused(case.call("ADD", at, env={"CNI_CONTAINERID": text}), [4])
    case.require(case.link(at) is None, "an interface was made")


@item("9", "A container ID of 64 hexadecimal digits is accepted, and one of 200 characters", MUST, "§2 Parameters")
def long_container_id(case: Case) -> None:
    for text in ("0123456789abcdef" * 4, "a" * 200):
        at = replace(case.attachment(), container=text)
        case.add(at)
        case.delete(at)


@item("10", "CNI_IFNAME may have 15 bytes; a name that no link can have is an error", MUST, "§2 Parameters")
def interface_name(case: Case) -> None:
    at = case.attachment("a" * 15)
    case.add(at)
    case.require(case.link(at), "the interface of 15 bytes was not made")
    case.delete(at)
    for text in _BAD_NAMES:
        case.refused(case.call("ADD", case.attachment(), env={"CNI_IFNAME": text}))
    case.require_clean("by refused ADDs")


@item("10c", "The error for a bad CNI_IFNAME has code 4", SHOULD, "§5 Error")
def interface_name_code(case: Case) -> None:
    for text in _BAD_NAMES:
        case.refused(case.call("ADD", case.attachment(), env={"CNI_IFNAME": text}), [4])


_BAD_NAMES = ("a" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb", "é" * 8)


@item("11", "DEL with a name that no link can have is an error with code 4", FIELD, "§2 Parameters")
def interface_name_of_delete(case: Case) -> None:
    case.refused(case.call("DEL", case.attachment(), env={"CNI_IFNAME": "a/b"}), [4])


@item("12", "Unknown CNI_ARGS are passed over with IgnoreUnknown, in any order; empty ones are none", FIELD, "§2")
def arguments(case: Case) -> None:
    for text in ("IgnoreUnknown=1;FOO=BAR;ABC=1", "FOO=BAR;ABC=1;IgnoreUnknown=true", ""):
        at = case.attachment()
        case.add(at, env={"CNI_ARGS": text})
        case.delete(at)


@item("13", "stdin that is no JSON object is an error with code 6", SHOULD, "§5 Error")
def no_object(case: Case) -> None:
    whole = json.dumps(case.config()).encode()
    for stdin in (b"", b"[]", whole[:-1], b"\xff\xfe" + whole):
        case.refused(case.call("ADD", case.attachment(), stdin=stdin), [6])


@item("13f", "null is an error with code 6 or 7; 1 MB of JSON is taken; a byte order mark is no crash", FIELD, "§5")
def odd_documents(case: Case) -> None:
    case.refused(case.call("ADD", case.attachment(), stdin=b"null"), [6, 7])
    at = case.attachment()
    case.add(at, case.config({"cfm.example/padding": "x" * 1_000_000}))
    case.delete(at)
    outcome = case.call("ADD", case.attachment(), stdin=b"\xef\xbb\xbf" + json.dumps(case.config()).encode())
    if not outcome.ok:
        case.refused(outcome, [6])


@item("14", "A network name that is missing or invalid is an error with code 7", SHOULD, "§1, §5 Error")
def network_name(case: Case) -> None:
    case.refused(case.call("ADD", case.attachment(), case.config(None, "name")), [7])
    for name in ("", "a b", "../x"):
        case.refused(case.call("ADD", case.attachment(), case.config({"name": name})), [7])


@item("15", "A cniVersion that is not supported is an error with code 1", SHOULD, "§5 Error")
def unsupported_version(case: Case) -> None:
    case.refused(case.call("ADD", case.attachment(), case.config({"cniVersion": "9.9.9"})), [1])
    case.require_clean("by a refused ADD")


@item("15f", 'cniVersion "1.1" is not "1.1.0" (code 1); a number is not a version (code 6)', FIELD, "§1")
def odd_version(case: Case) -> None:
    case.refused(case.call("ADD", case.attachment(), case.config({"cniVersion": "1.1"})), [1])
    case.refused(case.call("ADD", case.attachment(), case.config({"cniVersion": 1})), [6])


@item("16", "A verb that the configuration's version does not have is an error with code 1", FIELD, "§2")
def verb_of_a_later_version(case: Case) -> None:
    at = case.attachment()
    result = case.add(at, case.config({"cniVersion": "0.3.1"}))
    case.refused(case.call("CHECK", at, case.config({"cniVersion": "0.3.1", "prevResult": result})), [1])
    stale = {"cniVersion": "1.0.0", "cni.dev/valid-attachments": []}
    case.refused(case.call("GC", config=case.config(stale)), [1])
    case.refused(case.call("STATUS", config=case.config({"cniVersion": "1.0.0"})), [1])


def _errors(case: Case) -> list[tuple[Outcome, bool]]:
    """Return what several faults lead to, and whether the version of the configuration could be known."""
    at = case.attachment()
    return [
        (case.call("FOO", at), True),
        (case.call("ADD", at, env={"CNI_CONTAINERID": None}), True),
        (case.call("ADD", at, env={"CNI_NETNS": "/run/netns/cfm-is-not-there"}), True),
        (case.call("ADD", at, case.config({"name": "a b"})), True),
        (case.call("ADD", at, stdin=b"{"), False),
        (case.call("DEL", at, stdin=b""), False),
        (case.call("CHECK", at, env={"CNI_NETNS": ""}), True),
    ]


@item("17", "An error is one JSON object on stdout, with a code and a message", SHOULD, "§5 Error", since="0.3.1")
def error_document(case: Case) -> None:
    for outcome, _ in _errors(case):
        case.trace(f"looking at: {outcome}")
        case.refused(outcome)
        try:
            document = outcome.document()
        except ValueError as problem:
            raise Violation(f"stdout is not one JSON object: {problem}") from None
        code, message = document.get("code"), document.get("msg")
        case.require(isinstance(code, int) and code > 0, f"code is {code!r}")
        case.require(isinstance(message, str) and message, f"msg is {message!r}")


@item("17v", "An error has the cniVersion of the request", SHOULD, "§5 Error", since="0.3.1")
def error_version(case: Case) -> None:
    for outcome, known in _errors(case):
        case.trace(f"looking at: {outcome}")
        try:
            stated = outcome.document().get("cniVersion")
        except ValueError:
            stated = None
        case.require(isinstance(stated, str) and stated, "the error has no cniVersion")
        case.require(not known or stated == case.version, f"cniVersion of the error is {stated}, not {case.version}")


@item("18", "Unknown keys, capabilities, cni.dev/ keys and args in the configuration are passed over", FIELD, "§1, §3")
def unknown_keys(case: Case) -> None:
    unknown = {
        "cfm.example/x": {"y": [1]},
        "capabilities": {"cfm-unknown": True},
        "cni.dev/cfm": 1,
        "args": {"cni": {"labels": [{"key": "a", "value": "b"}]}, "cfm": {}},
    }
    at = case.attachment()
    case.add(at, case.config(unknown))
    case.delete(at, case.config(unknown))


@item(
    "19", "A value of the wrong type is an error with code 6 or 7 that names the key", FIELD, "§5 Error", needs=["mtu"]
)
def wrong_type(case: Case) -> None:
    case.refused(case.call("ADD", case.attachment(), case.config({"mtu": "1400"})), [6, 7], ["mtu"])
    for key in ("bridge", "master"):
        if key in case.world.base:
            case.refused(case.call("ADD", case.attachment(), case.config({key: 5})), [6, 7], [key])
    case.require_clean("by refused ADDs")


@item("20", "A value out of range is an error with code 7 or 2, and nothing is made", FIELD, "§5 Error", needs=["mtu"])
def out_of_range(case: Case) -> None:
    wrong: list[Mapping[str, object]] = [{"mtu": -5}, {"mtu": 10}, {"mtu": 1_000_000}]
    if "bridge" in case.world.base:
        wrong.append({"vlan": 5000})
    for changes in wrong:
        at = case.attachment()
        case.refused(case.call("ADD", at, case.config(changes)), [7, 2])
        case.require_clean(f"by an ADD with {dict(changes)}, which was refused", at)


@item("21", "An ADD whose stdout is closed fails and leaves nothing", FIELD, "§2 ADD")
def closed_stdout(case: Case) -> None:
    at = case.attachment()
    call = case.prepared("ADD", at)
    case.expect_delete(at)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", closefd=True) as pipe:
        done = subprocess.run(
            [call.plugin], env=call.env, input=call.stdin, stdout=pipe, stderr=subprocess.PIPE,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
    case.trace(f"$ {call.shell} | true   # stdout is a pipe that nobody reads\n  -> exit {done.returncode}")
    case.require(done.returncode != 0, "exit 0, though the result reached nobody")
    case.require_clean("by an ADD whose result reached nobody", at)


@item("22", "A closed stderr is no reason to fail", FIELD, "§2")
def closed_stderr(case: Case) -> None:
    at = case.attachment()
    _in_shell(case, at.netns, 'exec "$0" 2>&-', case.environ("ADD", at))
    case.expect_delete(at)
    case.require(case.link(at), "the interface was not made")


@item("23", "A removed working directory, no HOME, PYTHONPATH=/evil, a C locale and UTF-8 text do no harm", FIELD, "§2")
def odd_environment(case: Case) -> None:
    at = case.attachment()
    env = {**case.environ("ADD", at), "PYTHONPATH": "/evil", "PYTHONHOME": "/evil", "LANG": "C", "LC_ALL": "C"}
    script = 'gone=$(mktemp -d) && cd "$gone" && rmdir "$gone" && unset HOME && exec "$0"'
    case.expect_delete(at)
    _in_shell(case, at.netns, script, env, {"cfm.example/text": "Grüße, 世界"})
    case.require(case.link(at), "the interface was not made")


def _in_shell(
    case: Case, netns: str, script: str, environ: Mapping[str, str], changes: Mapping[str, object] | None = None
) -> None:
    call = replace(case.prepared("ADD", config=case.config(changes)), environ=environ)
    done = subprocess.run(
        ["sh", "-c", script, call.plugin], env=call.env, input=call.stdin, capture_output=True, timeout=LIMIT_S,
        check=False,
    )  # fmt: skip
    case.trace(f"{Outcome(call, done.returncode, done.stdout, done.stderr)}\n  (run by: sh -c {script!r})")
    case.require(done.returncode == 0, f"ADD in {netns} fails")
    try:
        json.loads(done.stdout)
    except ValueError as problem:
        raise Violation(f"stdout is not one JSON document: {problem}") from None


@item(
    "24", "Inherited descriptors stay untouched, and nothing in the background keeps them or stdout open", FIELD, "§2"
)
def descriptors(case: Case) -> None:
    at = case.attachment()
    call = case.prepared("ADD", at)
    case.expect_delete(at)
    reading, writing = os.pipe()
    with subprocess.Popen(
        [call.plugin], env=call.env, pass_fds=(writing,),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        os.close(writing)
        stdout, stderr = process.communicate(call.stdin, timeout=LIMIT_S)
    case.trace(f"{Outcome(call, process.returncode, stdout, stderr)}\n  (descriptor {writing} was a pipe)")
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as pipe:
        case.require(process.returncode == 0, "ADD fails")
        written = pipe.read()
        case.require(written is not None, f"after its end somebody still holds descriptor {writing}")
        case.require(not written, f"it wrote {written!r} to descriptor {writing}")


@item("25", "It works where TMPDIR cannot be written", FIELD, "§2")
def no_temporary_files(case: Case) -> None:
    at = case.attachment()
    with tempfile.TemporaryDirectory() as gone:
        nowhere = str(Path(gone) / "is-not-there")
    case.add(at, env={"TMPDIR": nowhere, "TEMP": nowhere, "TMP": nowhere})
    case.delete(at)
