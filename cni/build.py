"""Make the executable: `python -m cni.build FILE...`.

Rules
1. The native form is the C of native/, linked with all that it needs, hardened, and stripped. musl's library is
   taken where its compiler is there: a call starts in a third of the time that it takes with the C library of GNU.
2. A FILE that ends in `.py` gets the portable form: `forward` and what it needs of `wire`, as source. Any CPython 3
   of the node can run it, and no path of this tree is in it. What the interpreter would parse for nothing at every
   call is left out: docstrings, comments, annotations, and whatever `main` does not reach.
3. Either appears whole, under its name, by a rename: a runtime may execute it at any moment.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

SHEBANG = "#!/usr/bin/python3 -IS"  # isolated and without site: quick, and deaf to the runtime's environment
NOTICE = "# hotnic CNI plugin. Made by cni/build.py from cni/forward.py and cni/wire.py."
HERE = Path(__file__).parent
NATIVE = HERE / "native"

LANGUAGE = ("-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow")
HARDENED = ("-O2", "-fPIE", "-fstack-protector-strong", "-Wl,-z,relro,-z,now,-z,noexecstack", "-s")


def main(arguments: list[str]) -> None:
    if not arguments:
        sys.exit("usage: python -m cni.build FILE...")
    for target in map(Path, arguments):
        install(target, _write_source if target.suffix == ".py" else _compile)


def install(target: Path, make: Callable[[Path], None]) -> None:
    """Have `make` write the executable, and put it in its place (rule 3)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        make(temporary)
        temporary.chmod(0o755)
        temporary.replace(target)
    except BaseException:
        temporary.unlink()
        raise


# the native form


def _compile(target: Path) -> None:
    compile_native(target, sorted(NATIVE.glob("*.c")))


def compile_native(target: Path, sources: Sequence[Path]) -> None:
    """Write the native form (rule 1). Raises OSError where there is no compiler, or it refuses."""
    run_compiler([*_linking(), "-o", str(target), *map(str, sources)])


def run_compiler(command: Sequence[str]) -> None:
    """Run a C compiler by its command line, of which the options for our C are not part. Raises OSError."""
    compiler, *options = command
    done = subprocess.run([compiler, *LANGUAGE, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{compiler} failed:\n{done.stderr}")


def _linking() -> list[str]:
    """Return compiler and options for a static executable that can be loaded at any address."""
    if shutil.which("musl-gcc") is None:
        return ["gcc", *HARDENED, "-static-pie", "-D_FORTIFY_SOURCE=2"]  # musl has no counterpart of this one
    arch = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    start = [f"/usr/lib/{arch.replace('-gnu', '-musl')}/{name}" for name in ("rcrt1.o", "crti.o", "crtn.o")]
    # its wrapper does not know -static-pie
    return ["musl-gcc", *HARDENED, "-static", "-nostartfiles", "-Wl,-pie,--no-dynamic-linker,-z,text", *start]


# the portable form


def _write_source(target: Path) -> None:
    target.write_text(source(), encoding="utf-8")


def source() -> str:
    """Return the text of the portable form (rule 2)."""
    statements = [*_statements("wire"), *_statements("forward")]
    body = [statement for statement in statements if _defined(statement) & _reached(statements, "main")]
    return f"{SHEBANG}\n{NOTICE}\n{ast.unparse(ast.Module(body, []))}\nmain()\n"


def _statements(module: str) -> list[ast.stmt]:
    tree = _Bare().visit(ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8")))
    return [ast.fix_missing_locations(statement) for statement in tree.body]


def _reached(statements: list[ast.stmt], start: str) -> set[str]:
    """Return the names that `start` needs, directly or not, itself included."""
    needs: dict[str, set[str]] = {}
    for statement in statements:
        for name in _defined(statement):
            if name in needs and not isinstance(statement, ast.Import):
                raise ValueError(f"{name} is defined twice, which one file cannot hold")
            needs[name] = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    reached, fresh = set[str](), {start}
    while fresh:
        reached |= fresh
        fresh = set().union(*(needs[name] & needs.keys() for name in fresh)) - reached
    return reached


def _defined(statement: ast.stmt) -> set[str]:
    """Return the names that a top-level statement gives a meaning to."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        case ast.Import(names=aliases):
            return {alias.asname or alias.name for alias in aliases}
        case _:
            return set()


class _Bare(ast.NodeTransformer):
    """Drop what only readers and checkers need, and write `wire.name` as `name`."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_docstring = isinstance(node.value, ast.Constant)
        return None if is_docstring else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return ast.Assign([node.target], self.visit(node.value)) if node.value else None

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "wire":
            return ast.Name(node.attr, node.ctx)
        return self.generic_visit(node)


if __name__ == "__main__":
    main(sys.argv[1:])
