"""CNI errors (specification, section 2 "Error").

Rules
1. An error is one JSON document: cniVersion, code, msg, details. Nothing else may be on stdout.
2. Codes 1-99 mean what the specification says; 100 and up are a plugin's own. 8 and 999 are not in the
   specification, but the reference plugins use them, and runtimes know them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Code(enum.IntEnum):
    """Who must do what about it is in the comment."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2  # the message names key and value
    UNKNOWN_CONTAINER = 3  # the runtime need not DEL
    INVALID_ENVIRONMENT = 4  # the message names the variables
    IO_FAILURE = 5
    DECODE_FAILURE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50  # STATUS: ADD cannot be served now
    LIMITED_CONNECTIVITY = 51  # STATUS: as 50, and containers that are attached may suffer too
    INTERNAL = 999


class CNIError(Exception):
    """A failure as CNI tells it. `code` is a `Code` where the number is one, else a plugin's own number."""

    def __init__(self, code: Code | int, message: str, details: str = "") -> None:
        super().__init__(code, message, details)
        self.code = _named(code)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}: {self.details}" if self.details else self.message

    def document(self, cni_version: str) -> dict[str, Any]:
        """Return what goes to stdout."""
        document = {"cniVersion": cni_version, "code": int(self.code), "msg": self.message}
        return document | ({"details": self.details} if self.details else {})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> CNIError:
        """Read the error that another plugin printed.

        Wrong or missing parts are made up for: an error about an error would hide the first one.
        """
        code = document.get("code")
        message, details = document.get("msg"), document.get("details")
        return cls(
            code if isinstance(code, int) and code > 0 else Code.INTERNAL,
            message if isinstance(message, str) and message else f"plugin failed: {dict(document)!r}",
            details if isinstance(details, str) else "",
        )


def _named(code: int) -> Code | int:
    try:
        return Code(code)
    except ValueError:
        return code
