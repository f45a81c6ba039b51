"""One call of a CNI plugin: environment and stdin in, a validated request out. No I/O.

Rules
1. What is checked in which order is the reference's (pkg/skel): a request with several faults gets the error
   that runtimes know.
2. An empty variable is the same as none: libcni always sets all of them.
3. A parameter is checked only if the verb needs it. DEL needs no CNI_NETNS; no broken prevResult stops it.
4. Unknown configuration keys, `capabilities` and unknown CNI_ARGS are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cni import errors, jsontext, names, version
from cni.fields import FieldError, Fields

VALID_ATTACHMENTS = "cni.dev/valid-attachments"


@dataclass(frozen=True, slots=True)
class NetConf:
    cni_version: str
    name: str
    type: str
    prev_result: Mapping[str, Any] | None = field(default=None, hash=False)
    raw: Mapping[str, Any] = field(default_factory=dict, hash=False)  # the whole configuration, as it came


@dataclass(frozen=True, slots=True)
class Request:
    command: str
    container_id: str
    netns: str
    ifname: str
    args: Mapping[str, str] = field(hash=False)
    path: tuple[str, ...]
    config: NetConf
    netns_override: bool = False  # the namespace may be the caller's own (CNI_NETNS_OVERRIDE)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One entry of GC's list."""

    container_id: str
    ifname: str


def parse(environ: Mapping[str, str], stdin: bytes) -> Request:
    """Return the request. Raises CNIError as the specification wants it."""
    command = environ.get("CNI_COMMAND", "")
    _check_environment(environ, command)
    config = _read_config(stdin)
    try:
        _check_command(command, config)
        return _request(environ, config)
    except ValueError as problem:
        message = "cannot decode the network configuration"
        raise errors.CNIError(errors.Code.DECODE_FAILURE, message, str(problem)) from None


def parse_args(text: str) -> dict[str, str]:
    """Read CNI_ARGS, `KEY=VALUE;KEY=VALUE`. What is no pair is passed over, as with IgnoreUnknown."""
    pairs = (item.partition("=") for item in text.split(";"))
    return {key: value for key, equals, value in pairs if equals and key}


def valid_attachments(config: NetConf) -> frozenset[Attachment]:
    """Return what a GC must keep. Raises CNIError 7 where the list is missing: no list is not an empty list.

    null is an empty list: that is how a Go runtime without any attachment writes it.
    """
    if VALID_ATTACHMENTS not in config.raw:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"GC needs {VALID_ATTACHMENTS}; nothing was removed")
    try:
        items = Fields(config.raw).objects(VALID_ATTACHMENTS)
        return frozenset(Attachment(item.required("containerID", str), item.required("ifname", str)) for item in items)
    except FieldError as problem:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, str(problem)) from None


_ALL = frozenset({"ADD", "DEL", "CHECK", "GC", "STATUS"})
_OF_A_CONTAINER = frozenset({"ADD", "DEL", "CHECK"})


def _request(environ: Mapping[str, str], config: Fields) -> Request:
    return Request(
        command=environ["CNI_COMMAND"],
        container_id=environ.get("CNI_CONTAINERID", ""),
        netns=environ.get("CNI_NETNS", ""),
        ifname=environ.get("CNI_IFNAME", ""),
        args=parse_args(environ.get("CNI_ARGS", "")),
        path=tuple(filter(None, environ.get("CNI_PATH", "").split(":"))),
        config=NetConf(
            cni_version=config.text("cniVersion"),
            name=config.text("name"),
            type=config.text("type"),
            prev_result=_prev_result(config, environ["CNI_COMMAND"]),
            raw=config.document,
        ),
        netns_override=environ.get("CNI_NETNS_OVERRIDE", "").upper() in {"1", "TRUE"},
    )


def _container_id_fault(text: str) -> errors.CNIError | None:
    if names.is_cni_name(text):
        return None
    return errors.CNIError(errors.Code.INVALID_ENVIRONMENT, "invalid characters in CNI_CONTAINERID", text)


def _ifname_fault(text: str) -> errors.CNIError | None:
    fault = names.ifname_fault(text)
    return errors.CNIError(errors.Code.INVALID_ENVIRONMENT, f"CNI_IFNAME {fault}", text) if fault else None


def _no_fault(_: str) -> errors.CNIError | None:
    return None


# in the order of the reference: variable, the verbs that need it, what is wrong with a value
_PARAMETERS: tuple[tuple[str, frozenset[str], Callable[[str], errors.CNIError | None]], ...] = (
    ("CNI_CONTAINERID", _OF_A_CONTAINER, _container_id_fault),
    ("CNI_NETNS", frozenset({"ADD", "CHECK"}), _no_fault),
    ("CNI_IFNAME", _OF_A_CONTAINER, _ifname_fault),
    ("CNI_PATH", _ALL, _no_fault),
)


def _check_environment(environ: Mapping[str, str], command: str) -> None:
    missing = [] if command else ["CNI_COMMAND"]
    for variable, needed_by, fault_of in _PARAMETERS:
        if command not in needed_by:
            continue
        if not (value := environ.get(variable, "")):
            missing.append(variable)
        elif fault := fault_of(value):
            raise fault
    if missing:
        message = f"required env variables [{','.join(missing)}] missing"
        raise errors.CNIError(errors.Code.INVALID_ENVIRONMENT, message)


def _read_config(stdin: bytes) -> Fields:
    try:
        document = jsontext.loads(stdin.decode())
        config = Fields({} if document is None else document)  # Go reads null into an empty configuration
        name = config.text("name")
    except ValueError as problem:  # not UTF-8, not JSON, not an object
        message = "cannot decode the network configuration"
        raise errors.CNIError(errors.Code.DECODE_FAILURE, message, str(problem)) from None
    if not name:
        raise errors.CNIError(errors.Code.INVALID_CONFIG, "missing network name")
    if not names.is_cni_name(name):
        raise errors.CNIError(errors.Code.INVALID_CONFIG, "invalid characters found in network name", name)
    return config


def _check_command(command: str, config: Fields) -> None:
    if command not in _ALL:
        raise errors.CNIError(errors.Code.INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    stated = config.text("cniVersion") or version.UNSTATED
    since = version.VERBS[command]
    if since != version.UNSTATED and not version.at_least(stated, since):
        message = f"config version does not allow {command}"
        details = f"config is {stated!r}, {command} exists since {since}"
        raise errors.CNIError(errors.Code.INCOMPATIBLE_VERSION, message, details)
    if stated not in version.SUPPORTED:
        details = f"config is {stated!r}, plugin supports {list(version.SUPPORTED)}"
        raise errors.CNIError(errors.Code.INCOMPATIBLE_VERSION, "incompatible CNI versions", details)


def _prev_result(config: Fields, command: str) -> Mapping[str, Any] | None:
    try:
        fields = config.object("prevResult")
    except FieldError:
        if command == "DEL":  # a runtime with a damaged cache must still get rid of the container (rule 3)
            return None
        raise
    if fields is None and command == "CHECK":
        raise errors.CNIError(errors.Code.INVALID_CONFIG, "CHECK needs prevResult")
    return None if fields is None else fields.document
