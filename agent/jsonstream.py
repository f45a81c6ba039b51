"""Pure: JSON objects that come one after the other, nothing between them, as OVSDB's do (RFC 7047 §4): where each ends.

Rules
1. Who sends is not trusted: how long a message is is bounded, and each byte is looked at once, in whatever pieces it
   comes. A message is decoded by who asks for it, when it is whole.
2. Only braces and texts count here: what else is wrong with a message its decoder tells.
3. Searching is done by expressions that never go back: a loop over the brackets of a large answer takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MESSAGE_BYTES = 16 << 20

_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_TEXTS = re.compile(_TEXT, re.DOTALL)
_IN_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
# up to the brace behind which another message begins, or nothing is known; or up to a text that does not end yet
_OUTSIDE = re.compile(rb'(?:[^"}]++|' + _TEXT + rb"|\}(?=\s{0,99}[^\s{]))*+", re.DOTALL)
_ANOTHER = re.compile(rb"\s{0,99}\{")


class Messages:
    """Cuts what comes into messages."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._seen = 0  # bytes of the rest that have been looked at
        self._depth = 0  # braces that are open
        self._is_text = False

    @property
    def has_rest(self) -> bool:
        """Whether a message has begun to come, and has not ended."""
        return bool(self._rest)

    def take(self, data: bytes) -> list[bytes]:
        """Return the messages that are whole now. Raises ValueError for what cannot become one."""
        self._rest += data
        whole = list(self._cut())
        if not self._depth:  # then the rest is blank
            self._rest.clear()
            self._seen = 0
        if len(self._rest) > MESSAGE_BYTES:
            raise ValueError("a message has no end")
        return whole

    def _cut(self) -> Iterator[bytes]:
        start = 0
        while self._seen < len(self._rest) and self._goes_on():
            self._seen += 1
            if not self._depth:
                yield bytes(self._rest[start : self._seen])
                start = self._seen
        del self._rest[:start]
        self._seen -= start

    def _goes_on(self) -> bool:
        """Look up to where a text begins or ends, or a message ends; return whether it does."""
        if self._is_text:
            self._pass(_IN_TEXT)
            self._is_text = self._next() != b'"'
            return not self._is_text
        self._pass_outside()
        if self._next() == b'"':
            self._is_text = True
            return True
        if self._next() == b"}" and self._depth == 1:
            self._depth = 0
            return True
        if _ANOTHER.match(self._rest, self._seen + 1):
            raise ValueError("a message begins within another")
        return False

    def _pass_outside(self) -> None:
        outside = _TEXTS.sub(b"", self._pass(_OUTSIDE))
        self._depth += outside.count(b"{") - outside.count(b"}")
        if self._depth < 1 and (self._next() or outside.strip()):
            raise ValueError("it is no JSON object")

    def _pass(self, expression: re.Pattern[bytes]) -> bytes:
        passed = expression.match(self._rest, self._seen)
        assert passed
        self._seen = passed.end()
        return passed[0]

    def _next(self) -> bytes:
        return bytes(self._rest[self._seen : self._seen + 1])
