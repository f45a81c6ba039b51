"""Execute a command under a seccomp profile, as a container runtime does: `python confined.py PROFILE COMMAND…`.

The profile is in the form of the OCI runtime specification (linux.seccomp), and the filter is libseccomp's, which runc
uses too. Standard library only: it runs as a script, before the command takes its place.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # <seccomp.h>
_OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_NO_NEW_PRIVS, _UNKNOWN = 3, -1
_library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
_library.seccomp_init.restype = ctypes.c_void_p


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def confine(profile: dict[str, Any]) -> None:
    """Put this process under the profile. Raises OSError where the kernel or the library refuses it, KeyError for what
    this reader does not know.
    """
    context = ctypes.c_void_p(_library.seccomp_init(ctypes.c_uint32(_ERRNO | profile["defaultErrnoRet"])))
    # whether there are new privileges is somebody else's decision
    _checked(_library.seccomp_attr_set(context, _NO_NEW_PRIVS, ctypes.c_uint32(0)), "attributes")
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            _add(context, name, rule)
    _checked(_library.seccomp_load(context), "load")
    _library.seccomp_release(context)


def _add(context: ctypes.c_void_p, name: str, rule: dict[str, Any]) -> None:
    number = _library.seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN:
        return  # newer than the library; refused by default
    arguments = [
        _Comparison(one["index"], _OPERATORS[one["op"]], one["value"], one["valueTwo"]) for one in rule.get("args", ())
    ]
    action = _ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else _ERRNO | rule["errnoRet"]
    array = (_Comparison * len(arguments))(*arguments)
    _checked(
        _library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(arguments), array), f"rule {name}"
    )


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"seccomp: {what}: {os.strerror(-result)}")


if __name__ == "__main__":
    confine(json.loads(Path(sys.argv[1]).read_text()))
    os.execvp(sys.argv[2], sys.argv[2:])
