"""The text of a function that a user wrote, with all the names it needs, so that it can stand in another script."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from pellucid.doctor.scripts.literals import literal

DEEPEST = 4
LIBRARIES = ("torch", "transformers", "pellucid", "math", "functools", "itertools")


@dataclass(frozen=True)
class Source:
    """A function as it was written.

    Attributes:
        text: its definition.
        imports: lines of import that it needs.
        others: definitions that it needs, in the order in which they must stand.
    """

    text: str
    imports: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def lines(self) -> str:
        """All of it but the imports."""
        return "\n\n".join([*self.others, self.text])


def source_of(function: Any, name: str, model: Any = None, depth: int = 0) -> Source | None:
    """The definition of a function or lambda under a name.

    Args:
        model: whose methods are called by their name.

    Returns:
        ``None`` for what has no source, or needs something that cannot be written down.
    """
    if model is not None and getattr(function, "__self__", None) is model:
        return Source(f"{name} = model.{function.__name__}")
    if not isinstance(function, FunctionType) or depth > DEEPEST:
        return None
    node = _node(function)
    if node is None:
        return None
    text = f"{name} = {ast.unparse(node)}" if isinstance(node, ast.Lambda) else _renamed(node, name)
    imports: list[str] = []
    others: list[str] = []
    for wanted, value in _needs(function, node).items():
        if not _provide(wanted, value, imports, others, depth):
            return None
    return Source(text, tuple(dict.fromkeys(imports)), tuple(dict.fromkeys(others)))


def _provide(name: str, value: Any, imports: list[str], others: list[str], depth: int) -> bool:
    """Adds what defines a name that a function uses; whether that is possible."""
    if isinstance(value, ModuleType):
        imports.append(f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else ""))
        return True
    home, called = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if isinstance(value, FunctionType) and not _importable(home):
        found = source_of(value, name, depth=depth + 1)
        if found is not None:
            imports.extend(found.imports)
            others.extend((*found.others, found.text))
            return True
    if isinstance(value, type | FunctionType) or (callable(value) and called):
        if not home or home == "__main__" or not called.isidentifier():
            return False
        imports.append(f"from {home} import {called}" + (f" as {name}" if name != called else ""))
        return True
    written = literal(value)
    if written is None:
        return False
    imports.extend(written.imports)
    others.append(f"{name} = {written.text}")
    return True


def _importable(home: str | None) -> bool:
    """Whether a function is better imported than copied: that of a library, and not of the doctor."""
    home = home or ""
    return home.split(".")[0] in LIBRARIES and not home.startswith("pellucid.doctor")


def _needs(function: FunctionType, node: ast.AST) -> dict[str, Any]:
    """The names that a function reads and does not define, with what they stand for."""
    code, around = function.__code__, function.__globals__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    read = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    found: dict[str, Any] = {}
    outside = _globals(code) - set(code.co_varnames)
    for name in dict.fromkeys(read):
        if name in cells:
            found[name] = cells[name].cell_contents
        elif name in outside and name in around:
            found[name] = around[name]
    return found


def _globals(code: Any) -> set[str]:
    """Names that a code object, or one inside it, looks up outside."""
    inside = [const for const in code.co_consts if inspect.iscode(const)]
    return set(code.co_names).union(*map(_globals, inside))


def _node(function: FunctionType) -> ast.FunctionDef | ast.Lambda | None:
    """Its place in the file that it was read from."""
    try:
        lines, _ = inspect.findsource(function)
        tree = ast.parse("".join(lines))
    except (OSError, TypeError, SyntaxError):
        return None
    code = function.__code__
    kind = ast.Lambda if code.co_name == "<lambda>" else ast.FunctionDef
    first = code.co_firstlineno
    found = [n for n in ast.walk(tree) if isinstance(n, kind) and first in (n.lineno, *_decorators(n))]
    if len(found) > 1:  # several lambdas on a line: that of the same arguments and the same code
        found = [n for n in found if _same(n, code)]
    return found[0] if len(found) == 1 else None


def _decorators(node: Any) -> list[int]:
    return [decorator.lineno for decorator in getattr(node, "decorator_list", ())]


def _same(node: Any, code: Any) -> bool:
    columns = [at for _, _, at, _ in code.co_positions() if at is not None and at >= 0]
    inside = node.body.col_offset if isinstance(node, ast.Lambda) else node.col_offset
    ends = node.body.end_col_offset if isinstance(node, ast.Lambda) else 10**6
    return bool(columns) and all(at == 0 or inside <= at <= ends for at in columns)


def _renamed(node: ast.FunctionDef, name: str) -> str:
    text = ast.unparse(_plain(node))
    return textwrap.dedent(re.sub(rf"\bdef {re.escape(node.name)}\b", f"def {name}", text, count=1))


def _plain(node: ast.FunctionDef) -> ast.FunctionDef:
    """Without decorators, annotations and docstring: what is left is what it does."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    arguments = ast.arguments(**{
        field: _bare(value) for field, value in ast.iter_fields(node.args)
    })  # fmt: skip
    made = ast.FunctionDef(name=node.name, args=arguments, body=body, decorator_list=[], returns=None)
    made.type_params = []  # type: ignore[attr-defined]  # of Python 3.12
    return ast.fix_missing_locations(made)


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(part) for part in value]
    return ast.arg(arg=value.arg) if isinstance(value, ast.arg) else value
