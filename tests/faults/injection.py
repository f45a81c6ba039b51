"""Faults at effect functions, in the process that is to suffer them: nothing of the product knows.

Rules
1. An effect function gets other code, under the same object: whoever holds a reference to it, calls the fault too.
2. Calls are counted by function from the moment of `arm`, in all threads. The fault happens at one of them, once.
3. What is about to happen is told first, on a socket that also says when a delayed effect may go on: nobody sleeps.
"""

import builtins
import importlib
import inspect
import json
import os
import signal
import socket
import threading
import types
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.faults.effects import EFFECTS, Answer

BEFORE, AFTER, ERROR, DELAY = KINDS = ("kill before", "kill after", "error", "delay")
LONGEST_S = 30.0  # the longest delay, where the other end says nothing
STREAMS = frozenset({"controller.kube:_chunks", "controller.agents:Agents._stream"})  # each value is an effect
_HOOK, _ORIGINALS = "_effect_of_the_tests", "_effects_of_the_tests"


@dataclass(frozen=True, slots=True)
class Fault:
    """At the `number`th call of the function. Number 0: nowhere, calls are only counted."""

    effect: str = ""
    number: int = 0
    kind: str = BEFORE

    def __str__(self) -> str:
        return f"{self.kind} at call {self.number} of {self.effect}"


class Injection:
    """The faults of this process. `said`: the socket of rule 3."""

    def __init__(self, said: socket.socket, names: Iterable[str]) -> None:
        self._said = said
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._fault: Fault | None = None
        self._go = threading.Event()
        setattr(builtins, _HOOK, self.around)
        for name in names:
            _rewrite(name)

    def arm(self, fault: Fault) -> None:
        with self._lock:
            self._calls, self._fault = Counter(), fault

    def counted(self) -> Mapping[str, int]:
        """Return how often each effect function was called since `arm`."""
        with self._lock:
            return dict(self._calls)

    def around(self, name: str, effect: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Stands for each call of an effect function."""
        kind = self._kind(name)
        if inspect.isgeneratorfunction(effect):
            return self._generated(kind, name, effect(*args, **named))
        if kind == ERROR and isinstance(answer := EFFECTS[name].error, Answer):
            self.tell({"hit": kind})
            return answer.value
        self._before(kind, name)
        value = effect(*args, **named)
        self._after(kind)
        return value

    def _generated(self, kind: str, name: str, made: Generator[Any, Any, Any]) -> Any:
        """A generator has its effect once its first value is asked for; what comes after that is passed on."""
        if kind == ERROR and isinstance(answer := EFFECTS[name].error, Answer):
            self.tell({"hit": kind})
            return (yield from answer.value)
        self._before(kind, name)
        try:
            value = next(made)
        except StopIteration as end:
            self._after(kind)
            return end.value
        self._after(kind)
        while True:
            try:
                sent = yield value
            except BaseException as problem:  # noqa: BLE001 -- also GeneratorExit: all is the effect's to hear
                step = lambda problem=problem: made.throw(problem)  # noqa: E731
            else:
                step = lambda sent=sent: made.send(sent)  # noqa: E731
            if name in STREAMS:
                kind = self._kind(name)
                self._before(kind, name)
            try:
                value = step()
            except StopIteration as end:
                return end.value
            if name in STREAMS:
                self._after(kind)

    def _kind(self, name: str) -> str:
        with self._lock:
            if self._fault is None:
                return ""
            self._calls[name] += 1
            is_now = (self._fault.effect, self._fault.number) == (name, self._calls[name])
            return self._fault.kind if is_now else ""

    def _before(self, kind: str, name: str) -> None:
        if not kind:
            return
        self.tell({"hit": kind})
        if kind == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == ERROR:
            error = EFFECTS[name].error
            assert not isinstance(error, Answer)
            raise error()
        if kind == DELAY:
            self._go.wait(LONGEST_S)

    def _after(self, kind: str) -> None:
        if kind == AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    # -- the other end ----------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Serve the other end, in a thread of its own."""
        threading.Thread(target=self._serve, name="faults", daemon=True).start()

    def tell(self, message: Mapping[str, Any]) -> None:
        self._said.send(json.dumps(message).encode())

    def _serve(self) -> None:
        while data := self._said.recv(65536):
            said = json.loads(data)
            if "arm" in said:
                self._go.clear()
                self.arm(Fault(**said["arm"]))
                self.tell({"armed": True})
            elif "go" in said:
                self._go.set()
            elif "count" in said:
                self.tell({"counted": self.counted()})
        os._exit(1)  # nobody is there any more who could end this process


def _rewrite(name: str) -> None:
    """Rule 1. A function that is decorated is rewritten below its decorators."""
    module, _, where = name.partition(":")
    place: Any = importlib.import_module(module)
    *owners, last = where.split(".")
    for owner in owners:
        place = getattr(place, owner)
    found = inspect.unwrap(inspect.getattr_static(place, last))
    function = inspect.unwrap(found.__func__) if isinstance(found, staticmethod | classmethod) else found
    original = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    assert not function.__code__.co_freevars, f"{name} has a closure, and cannot be rewritten"
    call = f"{_HOOK}({name!r}, {_ORIGINALS}[{name!r}], args, named)"
    result = f"(yield from {call})" if inspect.isgeneratorfunction(original) else call
    scope: dict[str, Any] = {}
    exec(f"def {last}(*args, **named):\n    return {result}\n", scope)
    builtins.__dict__.setdefault(_ORIGINALS, {})[name] = original
    function.__code__ = scope[last].__code__
    function.__defaults__ = function.__kwdefaults__ = None
