"""Make the executable's one file: `python -m cni.build bin/hotnic`.

Rules
1. The file holds `forward` and what it needs of `wire`, as source: any CPython 3 of the node can run it, and no
   path of this tree is in it. What the interpreter would parse for nothing at every call is left out: docstrings,
   comments, annotations, and whatever `main` does not reach.
2. It appears whole, under its name, by a rename: a runtime may execute it at any moment.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from pathlib import Path

SHEBANG = "#!/usr/bin/python3 -IS"  # isolated and without site: quick, and deaf to the runtime's environment
NOTICE = "# hotnic CNI plugin. Made by cni/build.py from cni/forward.py and cni/wire.py."
HERE = Path(__file__).parent


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python -m cni.build FILE")
    install(Path(arguments[0]))


def install(target: Path) -> None:
    """Write the executable (rule 2)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 -- it is open already
            file.write(source())
            os.fchmod(file.fileno(), 0o755)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink()
        raise


def source() -> str:
    """Return the text of the executable (rule 1)."""
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
