"""Pure: network configurations as libcni and Multus read them, and what each plugin of one gets on stdin.

Rules
1. A configuration and a list of them become the same thing: a name, a version, plugins in order.
2. A missing name is the definition's (NPWG multi-network specification 3.4.2). A missing version is
   0.1.0.
3. Of `cniVersion` and `cniVersions` the highest that we know is spoken.
4. A plugin's `runtimeConfig` holds what it declares in `capabilities` and nothing else. What no plugin
   declares would be lost in silence, so `undeclared` says it and the attachment is refused (NPWG 3.2).
5. `cni-args` of the annotation go over the configuration's own `args.cni` in every plugin; so does a
   device ID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cni import errors, jsontext, names, version

_ADDED = ("name", "cniVersion", "prevResult", "runtimeConfig", "args")
_TRUTH = {
    "true": True,
    "t": True,
    "yes": True,
    "y": True,
    "false": False,
    "f": False,
    "no": False,
    "n": False,
}


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A network: its plugins in the order of ADD, each as the configuration has it."""

    name: str
    cni_version: str
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False
    raw: str = ""


def parse(text: str, fallback_name: str) -> NetworkList:
    """Read a configuration or a list. Raises CNIError 6 (not the JSON it should be) or 7, naming the key."""
    document = _document(text)
    return NetworkList(
        name=_name(document, fallback_name),
        cni_version=_negotiated(document),
        plugins=tuple(_plugin(plugin, where) for where, plugin in _plugins(document)),
        disable_check=_flag(document, "disableCheck"),
        disable_gc=_flag(document, "disableGC"),
        raw=text,
    )


def name(text: str, fallback: str) -> str:
    """Return the network's name as a runtime's cache has it; the configuration may be absent or invalid."""
    try:
        return parse(text, fallback).name
    except errors.CNIError:
        return fallback  # no runtime can have attached it under another


def plugin_stdin(
    net: NetworkList,
    plugin: Mapping[str, Any],
    *,
    prev_result: Mapping[str, Any] | None,
    runtime: Mapping[str, Any],
    cni_args: Mapping[str, Any] | None,
    device_id: str,
) -> dict[str, Any]:
    """Return the configuration that one plugin of `net` gets. `prev_result` None: there is none to give."""
    document = {**plugin, "name": net.name, "cniVersion": net.cni_version}
    if device_id:
        document |= {"deviceID": device_id, "pciBusID": device_id}
    if cni_args:
        document["args"] = _with_cni_args(plugin, cni_args)
    declared = _declared(plugin)
    if config := {key: value for key, value in runtime.items() if key in declared}:
        own = document.get("runtimeConfig")
        document["runtimeConfig"] = {**(own if isinstance(own, dict) else {}), **config}
    if prev_result is not None:
        document["prevResult"] = prev_result
    return document


def bare(plugin: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a plugin's configuration as its file has it, without what runtimes add for a call (SPEC 1.1.0 §3)."""
    return {key: value for key, value in plugin.items() if key not in _ADDED}


def undeclared(net: NetworkList, runtime: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the capabilities that are asked for and that no plugin of the network declares (rule 4)."""
    declared = {key for plugin in net.plugins for key in _declared(plugin)}
    return tuple(key for key in runtime if key not in declared)


def _document(text: str) -> Mapping[str, Any]:
    try:
        document: object = jsontext.loads(text)
    except ValueError as error:
        raise _undecodable(f"network configuration is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise _undecodable(f"network configuration must be a JSON object, not {_kind(document)}")
    return document


def _name(document: Mapping[str, Any], fallback: str) -> str:
    name = _string(document, "name") or fallback
    if not names.is_cni_name(name):
        raise _invalid(f"network configuration: name {name!r} is not [a-zA-Z0-9][a-zA-Z0-9_.-]*")
    return name


def _negotiated(document: Mapping[str, Any]) -> str:
    """Choose the version as libcni does (rule 3). A single `cniVersion` is taken even if unknown to us."""
    own = _string(document, "cniVersion") or ""
    others = _strings(document, "cniVersions")
    known = [one for one in (own, *others) if one and _is_known(one)]
    if others and known:
        return max(known, key=version.parse)
    return own or version.UNSTATED


def _is_known(cni_version: str) -> bool:
    try:
        return version.at_least(version.CURRENT, cni_version)
    except ValueError as error:
        raise _invalid(f"network configuration: cniVersion: {error}") from None


def _plugins(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return each plugin and what errors call it. As in Multus a top-level `type` makes it a single one."""
    if "plugins" not in document or document.get("type"):
        return [("network configuration", document)]
    plugins = document["plugins"]
    if not isinstance(plugins, list):
        raise _undecodable(f"network configuration: plugins must be a list, not {_kind(plugins)}")
    if not plugins:
        raise _invalid("network configuration: plugins is empty")
    return [(f"network configuration: plugins[{index}]", plugin) for index, plugin in enumerate(plugins)]


def _plugin(plugin: object, where: str) -> Mapping[str, Any]:
    if not isinstance(plugin, dict):
        raise _undecodable(f"{where} must be an object, not {_kind(plugin)}")
    plugin_type = plugin.get("type")
    if plugin_type is not None and not isinstance(plugin_type, str):
        raise _undecodable(f"{where}: type must be a string, not {_kind(plugin_type)}")
    if not plugin_type:
        raise _invalid(f"{where} has no type")
    capabilities = plugin.get("capabilities") or {}
    if not isinstance(capabilities, dict) or not all(isinstance(one, bool) for one in capabilities.values()):
        raise _undecodable(f"{where}: capabilities must be an object of booleans")
    return plugin


def _declared(plugin: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(key for key, is_supported in (plugin.get("capabilities") or {}).items() if is_supported)


def _with_cni_args(plugin: Mapping[str, Any], cni_args: Mapping[str, Any]) -> dict[str, Any]:
    own = plugin.get("args")
    args = own if isinstance(own, dict) else {}
    own_cni = args.get("cni")
    return {**args, "cni": {**(own_cni if isinstance(own_cni, dict) else {}), **cni_args}}


def _flag(document: Mapping[str, Any], key: str) -> bool:
    """Read a switch; libcni takes words for it too."""
    value = document.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    truth = _TRUTH.get(value.lower()) if isinstance(value, str) else None
    if truth is None:
        raise _undecodable(f"network configuration: {key} must be true or false, not {value!r}")
    return truth


def _string(document: Mapping[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise _undecodable(f"network configuration: {key} must be a string, not {_kind(value)}")
    return value


def _strings(document: Mapping[str, Any], key: str) -> list[str]:
    values = document.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _undecodable(f"network configuration: {key} must be a list of strings")
    return values


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _undecodable(message: str) -> errors.CNIError:
    return errors.CNIError(errors.Code.DECODE_FAILURE, message)


def _invalid(message: str) -> errors.CNIError:
    return errors.CNIError(errors.Code.INVALID_CONFIG, message)
