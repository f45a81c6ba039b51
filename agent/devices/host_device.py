"""Pure: the device `host-device`: an interface of the node moves into the pod, and comes back with the DEL.

Options are named as in the reference `host-device` and in `sriov-cni`; `hostInterface` is what the former calls
`device`, which is the kind here.

Rules
1. How the interface was is in the journal before anything is changed, and what the attachment claims: two never hold
   one device, and who asks for one that is held is told by whom.
2. What the node itself needs is refused unless the configuration says `allowInUse`: the link of a default route, one
   with an address of its own, a bridge with ports, a port, a link that others stand on, host ends of attachments.
3. What the node has set up on it, addresses and routes, is kept and put back (agent.returning). Where another link has
   its name by the time of the DEL, it comes back under a free one like it: the pod's end must not wait for that.
4. A virtual function's settings are the card's to make, before the move; what they were comes back before the link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent import options
from agent.devices.borrowed import Borrowed
from agent.devices.contract import Device, name_taken
from agent.hardware import (
    USERSPACE_DRIVERS,
    Candidate,
    Chosen,
    Lend,
    Mark,
    Selection,
    SetFunction,
    Settings,
    VirtualFunction,
)
from agent.links import Have, Interface, Read, Step, Where
from cni import errors

CHOICES = ("hostInterface", "hwaddr", "kernelpath", "pciBusID")
UNSUPPORTED = ("linkInContainer", "vdpaType")
_OUR_HOST_END = re.compile(r"hn[a-z]?[0-9a-f]{11,12}")
_PROTOCOLS = {"802.1q": 0x8100, "802.1ad": 0x88A8}
_LINK_STATES = {"auto": 0, "enable": 1, "disable": 2}
_SWITCH = {"on": True, "off": False}
_MAX_RATE = (1 << 32) - 1  # Mbit/s


class HostDevice(Device):
    """An interface of the node, lent to a pod."""

    OPTIONS = frozenset({
        "hostInterface", "hwaddr", "kernelpath", "pciBusID", "deviceID", "allowInUse", "vlan", "vlanQoS", "vlanProto",
        "min_tx_rate", "max_tx_rate", "spoofchk", "trust", "link_state",
    })  # fmt: skip

    def __init__(self, call: options.Call) -> None:
        options.refuse(call.config, UNSUPPORTED, "by device host-device")
        asked = options.mac(call)
        self.interface = replace(options.interface(call), mac=asked)
        self._allowed_in_use = options.flag(call.config, "allowInUse")
        self._chosen = _chosen(call.config)
        self._wish = _function_wish(call.config, asked)
        self._key = call.key
        self._borrowed = Borrowed(call.key, call.saved)

    def reads(self) -> tuple[Read, ...]:
        function = self._borrowed.function
        return (self._chosen, *self._borrowed.reads(), *((Settings(function),) if function else ()))

    def plan(self, want: Interface, have: Have) -> tuple[Step, ...]:
        there = self._borrowed.in_pod(have)
        if have.pod is not None and (there is None or there.index != have.pod.index):
            raise name_taken(want.ifname)
        if there is not None:
            renamed = () if there.name == want.ifname else (Lend(there, Where.IN_POD, want.ifname),)
            return (*self._function_steps(have), *renamed)
        candidate = self._candidate(have)
        link = candidate.link
        marked = self._borrowed.is_marked(link)
        if not marked:
            self._refuse_in_use(candidate)
        return (
            *(() if marked else (Mark(link, self._borrowed.alias(link.name)),)),
            *self._settings_steps(candidate),
            Lend(link, Where.NODE, want.ifname),
        )

    def mismatches(self, want: Interface, have: Have) -> tuple[str, ...]:
        if have.pod is None:
            return ()  # said already
        there = self._borrowed.in_pod(have)
        if there is None or there.index != have.pod.index:
            return (f"interface {want.ifname} is not the device that was attached",)
        return tuple(
            f"{step.function.card} has other settings for its function {step.function.number} than {step.settings}"
            for step in self._function_steps(have)
        )

    def memory(self, have: Have) -> Mapping[str, Any] | None:
        """Besides: the link is known by what is returned from now on, in the pod as well."""
        if self._borrowed.was is not None:
            return None  # the first one is the true one
        note = self._note(have)
        self._borrowed = Borrowed(self._key, note)
        return note

    def _note(self, have: Have) -> Mapping[str, Any]:
        selection: Selection = have.facts[self._chosen]
        if self._borrowed.in_pod(have) is not None or len(selection.candidates) != 1:
            return {"claims": self._claims(selection)}
        (one,) = selection.candidates
        was = self._borrowed.before(one.link, one.state).note()
        note = {"claims": self._claims(selection), "was": was, "setup": one.setup.note()}
        if one.function and one.settings:
            return {**note, "function": {"card": one.function.card, "number": one.function.number},
                    "settings": one.settings.of(self._wish).note()}  # fmt: skip
        return note

    def removal(self, have: Have) -> tuple[Step, ...]:
        return self._borrowed.removal(have)

    def segment(self) -> str:
        """One at a time: two choices may lead to one device."""
        return "host-device"

    def _claims(self, selection: Selection) -> list[str]:
        """Return what names the device, however it is chosen."""
        names = {f"{self._chosen.key} {self._chosen.value}"}
        hardware = selection.hardware.links if selection.hardware else ()
        names |= {f"device {bus}/{name}" for bus, name in hardware}
        for one in selection.candidates if len(selection.candidates) == 1 else ():
            names |= {f"hostInterface {one.state.name}", f"hwaddr {one.state.mac}"}
            names |= {f"device {one.state.bus}/{one.state.device}"} if one.state.device else set()
        return sorted(names)

    def _candidate(self, have: Have) -> Candidate:
        selection: Selection = have.facts[self._chosen]
        choice = f"{self._chosen.key}={self._chosen.value!r}"
        if not selection.candidates:
            driver = selection.hardware.driver if selection.hardware else ""
            why = "is no interface of this node"
            if driver in USERSPACE_DRIVERS:
                why = f"is bound to {driver}, and has no interface that could be attached"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, f"{choice} {why}")
        if len(selection.candidates) > 1:
            names = ", ".join(one.link.name for one in selection.candidates)
            message = f"{choice} is several interfaces ({names}); choose one by hostInterface"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        return selection.candidates[0]

    def _refuse_in_use(self, candidate: Candidate) -> None:
        """Raise CNIError 7 where the node, or another attachment, has the interface (rule 2)."""
        link, why = candidate.link, ""
        if link.index == 1 or link.name == "lo":
            raise errors.CNIError(errors.Code.INVALID_CONFIG, "interface lo stays where it is")
        if link.alias.startswith("hotnic "):
            why = "is held by another attachment"
        elif self._allowed_in_use:
            return
        elif candidate.default_route:
            why = "bears a default route of the node"
        elif link.master:
            why = "is a port of another interface"
        elif candidate.users:
            why = f"carries {', '.join(candidate.users)}"
        elif _OUR_HOST_END.fullmatch(link.name):
            why = "is the host end of an attachment"
        elif own := sorted(str(one) for one in candidate.addresses if not one.ip.is_link_local):
            why = f"has addresses of the node ({', '.join(own)})"
        if why:
            hint = "" if link.alias.startswith("hotnic ") else "; allowInUse takes it nevertheless"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, f"interface {link.name} {why}{hint}")

    def _settings_steps(self, candidate: Candidate) -> tuple[SetFunction, ...]:
        if self._wish == VirtualFunction(mac=self._wish.mac) and candidate.function is None:
            return ()
        if candidate.function is None or candidate.settings is None:
            keys = ", ".join(name for name, value in self._wish.note().items() if value is not None)
            message = f"interface {candidate.link.name} is no virtual function of a card here, for which to set {keys}"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message)
        changes = self._wish.changes(candidate.settings)
        return () if changes == VirtualFunction() else (SetFunction(candidate.function, changes),)

    def _function_steps(self, have: Have) -> tuple[SetFunction, ...]:
        """Of a function that is in the pod already, whose card the journal knows."""
        function = self._borrowed.function
        settings = have.facts.get(Settings(function)) if function else None
        changes = self._wish.changes(settings) if settings else VirtualFunction()
        return () if function is None or changes == VirtualFunction() else (SetFunction(function, changes),)


def _chosen(config: Mapping[str, Any]) -> Chosen:
    """Return the one choice. A device ID that a device plugin gave beats `pciBusID`, which callers derive from it."""
    runtime = config.get("runtimeConfig") or {}
    device = (runtime.get("deviceID") if isinstance(runtime, Mapping) else None) or config.get("deviceID")
    said = {key: config[key] for key in CHOICES if config.get(key)}
    if device:
        said = {"deviceID": device, **{key: value for key, value in said.items() if key != "pciBusID"}}
    if len(said) != 1:
        message = f"exactly one of {', '.join(CHOICES)} or runtimeConfig.deviceID chooses the interface"
        raise errors.CNIError(errors.Code.INVALID_CONFIG, f"{message}, not {', '.join(said) or 'none'}")
    ((key, value),) = said.items()
    if key == "hostInterface":
        return Chosen(key, options.link_name(config, key))
    if not isinstance(value, str):
        raise options.invalid(key, value, "must be a string")
    return Chosen(key, _checked(key, value))


_SHAPES = {
    "hwaddr": (re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}"), "must be six bytes in hexadecimal"),
    "kernelpath": (re.compile(r"/sys/devices(/[A-Za-z0-9._:@+-]+)+"), "must be the path of a device in /sys/devices"),
    "pciBusID": (re.compile(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]"), "must be like 0000:3b:00.1"),
    "deviceID": (re.compile(r"[A-Za-z0-9_.:-]{1,128}"), "must be a PCI address or an auxiliary device's name"),
}


def _checked(key: str, value: str) -> str:
    """Return the value as the kernel writes it. Raises CNIError 7 for what it can never be."""
    shape, why = _SHAPES[key]
    if not shape.fullmatch(value) or any(part in (".", "..") for part in value.split("/")):
        raise options.invalid(key, value, why)
    if key == "hwaddr":
        return value.replace("-", ":").lower()
    is_address = key == "pciBusID" or _SHAPES["pciBusID"][0].fullmatch(value)
    return value.lower() if is_address else value


def _function_wish(config: Mapping[str, Any], mac: str) -> VirtualFunction:
    """Return what the card is to set for its function, as `sriov-cni` has it. Raises CNIError 7."""
    vlan, qos = options.whole(config, "vlan", 0, 4094), options.whole(config, "vlanQoS", 0, 7)
    proto = _word(config, "vlanProto", _PROTOCOLS)
    if vlan is None and (qos is not None or proto is not None):
        key = "vlanProto" if qos is None else "vlanQoS"
        raise options.invalid(key, config[key], "needs vlan")
    if vlan == 0 and (qos or proto == _PROTOCOLS["802.1ad"]):
        raise options.invalid("vlan", vlan, "means no VLAN, which has neither priority nor 802.1ad")
    least, most = (options.whole(config, f"{which}_tx_rate", 0, _MAX_RATE) for which in ("min", "max"))
    if least and most and least > most:
        raise options.invalid("min_tx_rate", least, f"is more than max_tx_rate={most}")
    return VirtualFunction(
        mac=mac or None,
        vlan=vlan,
        qos=None if vlan is None else qos or 0,
        proto=None if vlan is None else proto or _PROTOCOLS["802.1q"],
        min_rate=least,
        max_rate=most,
        spoofchk=_word(config, "spoofchk", _SWITCH),
        trust=_word(config, "trust", _SWITCH),
        link_state=_word(config, "link_state", _LINK_STATES),
    )


def _word(config: Mapping[str, Any], key: str, meanings: Mapping[str, Any]) -> Any:
    """Return what a word means; None where none is said."""
    value = config.get(key)
    if value in (None, ""):
        return None
    if not isinstance(value, str) or value.lower() not in meanings:
        raise options.invalid(key, value, f"must be one of {', '.join(meanings)}")
    return meanings[value.lower()]
