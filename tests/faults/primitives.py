"""What the product does outside of its own memory, found in its code: every call that can change or ask the world.

Rules
1. Python's own ways out are few: the modules of `ROOTS`, the methods of paths, files and sockets, and the libraries of
   `LIBRARIES` and `PARTS`. A call of one of them is a primitive, unless `HARMLESS` says that nobody else hears of it.
2. What a module of ours is asked to do is no primitive, but found in that module.
3. A call belongs to the function of a module, or method of a class, in which it stands, however deep.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROOTS = frozenset({
    "os", "posix", "shutil", "tempfile", "subprocess", "fcntl", "signal", "_signal", "socket", "_socket", "select",
    "selectors", "_libc", "ctypes", "grpc", "urllib3", "requests", "http", "Stream", "poller",
})  # fmt: skip
METHODS = frozenset({
    "rename", "replace", "unlink", "rmdir", "mkdir", "write_text", "write_bytes", "read_text", "read_bytes", "open",
    "iterdir", "glob", "rglob", "stat", "lstat", "exists", "is_dir", "is_file", "is_char_device", "is_symlink",
    "is_socket", "resolve", "readlink", "symlink_to", "hardlink_to", "chmod", "truncate", "write", "writelines",
    "send", "sendall", "sendmsg", "sendto", "recv", "recv_into", "recvmsg", "recvmsg_into", "recvfrom", "connect",
    "connect_ex", "accept", "bind", "setsockopt", "getsockopt", "makefile", "poll", "register_at_fork", "urlopen",
    "read1", "add_insecure_port", "serve_forever", "system", "popen", "execve", "fork", "kill", "terminate",
    "send_signal",
})  # fmt: skip
LIBRARIES = frozenset({"domain", "libvirt"})  # an object of libvirt's, and libvirt
PARTS = ("self._connection.", "self._libvirt.open", "self._qemu.", "config.load_")  # of a library
_STUBS = ("self._stub", "self._images")  # of gRPC: each attribute is a call
HARMLESS = frozenset({
    "os.abort", "os.close", "os.environ.get", "os.fsencode", "os.fspath", "os.getpid", "os.geteuid", "os.lseek",
    "os.path.join", "os.set_blocking", "os.strerror", "os.umask", "os.urandom", "os._exit", "posix._exit",
    "posix.environ.get", "posix.environ.items", "posix.geteuid", "posix.getpid", "posix.close", "posix.dup2",
    "posix.chdir", "ctypes.CDLL", "ctypes.c_char_p", "ctypes.c_int", "ctypes.c_long", "ctypes.c_size_t",
    "ctypes.c_ulong", "ctypes.get_errno", "socket.CMSG_SPACE", "socket.gethostname", "signal.Signals",
    "_signal.setitimer", "_signal.signal", "_signal.pthread_sigmask", "signal.signal", "urllib3.Timeout",
    "domain.isActive", "domain.isPersistent",
    "libvirt.registerErrorHandler", "posix.environ.get(b'PATH', b'').split",
})  # fmt: skip


def functions() -> Mapping[str, frozenset[str]]:
    """Return every function that has primitives, as `module:function` or `module:Class.method`, with their names."""
    found: dict[str, set[str]] = {}
    for path in _sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for where, primitive in _primitives(ast.parse(path.read_text())):
            found.setdefault(f"{module}:{where}", set()).add(primitive)
    return {name: frozenset(calls) for name, calls in sorted(found.items())}


def names_in(function: str) -> frozenset[str]:
    """Return every name, attribute, and keyword that stands in a function: `module:Class.method`, or a module."""
    module, _, where = function.partition(":")
    node: ast.AST = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    for part in filter(None, where.split(".")):
        node = next(one for one in ast.iter_child_nodes(node) if getattr(one, "name", "") == part)
    found = {getattr(one, "id", "") or getattr(one, "attr", "") or getattr(one, "arg", "") for one in ast.walk(node)}
    return frozenset(filter(None, found))


def _sources() -> Iterator[Path]:
    for package in ("agent", "controller"):
        yield from (path for path in sorted((ROOT / package).rglob("*.py")) if path.parent.name != "api")
    yield from (ROOT / "cni/forward.py", ROOT / "cni/wire.py")


def _primitives(tree: ast.Module) -> Iterator[tuple[str, str]]:
    own = {alias.asname or alias.name for node in ast.walk(tree) if _is_ours(node) for alias in node.names}
    return _below(tree, (), own)


def _is_ours(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("agent", "controller", "cni")


def _below(node: ast.AST, place: tuple[str, ...], own: set[str]) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if name := _primitive(child, own):
            yield ".".join(place) or "(module)", name
        yield from _below(child, _deeper(node, child, place), own)


def _deeper(node: ast.AST, child: ast.AST, place: tuple[str, ...]) -> tuple[str, ...]:
    """Rule 3."""
    is_named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    is_own = not place or (isinstance(node, ast.ClassDef) and place == (node.name,))
    return (*place, child.name) if is_named and is_own else place  # type: ignore[attr-defined]


def _primitive(node: ast.AST, own: set[str]) -> str:
    """Return how the primitive is written; "": it is none."""
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in _STUBS:
        return ast.unparse(node)  # also where another function is given it to call
    if not isinstance(node, ast.Call):
        return ""
    written = ast.unparse(node.func)
    if not isinstance(node.func, ast.Attribute):
        return written if written in {"open", "register"} else ""
    root, last = written.split(".")[0], node.func.attr
    if root in own or written in HARMLESS:
        return ""
    if last == "replace":
        return written if len(node.args) == 1 and not node.keywords else ""  # a path's; a string's takes two
    if root in LIBRARIES:
        return written if written.count(".") == 1 else ""
    return written if root in ROOTS or last in METHODS or written.startswith(PARTS) else ""
