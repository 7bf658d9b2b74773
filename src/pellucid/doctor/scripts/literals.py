"""Values as Python expressions: numbers, texts, containers, dataclasses, the dtypes of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import torch

LONGEST = 2000
"""Characters: what is longer is no line of a script."""


@dataclass(frozen=True)
class Literal:
    """A value as text, and the imports that the text needs."""

    text: str
    imports: tuple[str, ...] = ()


def literal(value: Any) -> Literal | None:
    """An expression that gives an equal value; ``None`` where there is no short one."""
    found = _literal(value)
    return None if found is None or len(found.text) > LONGEST else found


def _literal(value: Any) -> Literal | None:
    if isinstance(value, Enum):
        kind = type(value)
        return _imported(kind, f"{kind.__name__}.{value.name}")
    if value is None or isinstance(value, bool | int | str):
        return Literal(repr(value))
    if isinstance(value, float):
        return Literal(repr(value) if math.isfinite(value) else f"float({str(value)!r})")
    if isinstance(value, torch.dtype | torch.device):
        return Literal(repr(value) if isinstance(value, torch.dtype) else f"torch.{value!r}")
    if isinstance(value, list | tuple | set | frozenset):
        return _sequence(value)
    if isinstance(value, dict):
        parts = _all([*value.keys(), *value.values()])
        if parts is None:
            return None
        half = len(value)
        pairs = zip(parts.texts[:half], parts.texts[half:], strict=True)
        return Literal("{" + ", ".join(f"{key}: {each}" for key, each in pairs) + "}", parts.imports)
    if is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value)
    return None


@dataclass(frozen=True)
class _Parts:
    texts: list[str]
    imports: tuple[str, ...]


def _all(values: list[Any]) -> _Parts | None:
    found = [_literal(value) for value in values]
    if any(part is None for part in found):
        return None
    parts = [part for part in found if part is not None]
    return _Parts([part.text for part in parts], tuple(dict.fromkeys(line for part in parts for line in part.imports)))


def _sequence(value: Any) -> Literal | None:
    parts = _all(sorted(value, key=repr) if isinstance(value, set | frozenset) else list(value))
    if parts is None or type(value) not in (list, tuple, set, frozenset):
        return None
    inside = ", ".join(parts.texts)
    if isinstance(value, list):
        return Literal(f"[{inside}]", parts.imports)
    if isinstance(value, tuple):
        return Literal(f"({inside}{',' * (len(value) == 1)})", parts.imports)
    return Literal(f"{type(value).__name__}([{inside}])", parts.imports)


def _dataclass(value: Any) -> Literal | None:
    """The call of its class, without what is as by default."""
    told = {}
    for field in fields(value):
        if not field.init:
            continue
        held = getattr(value, field.name)
        try:
            if field.default == held:
                continue
        except Exception:  # what cannot be compared is said
            pass
        told[field.name] = held
    parts = _all(list(told.values()))
    if parts is None:
        return None
    inside = ", ".join(f"{name}={text}" for name, text in zip(told, parts.texts, strict=True))
    return _imported(type(value), f"{type(value).__name__}({inside})", parts.imports)


def _imported(kind: type, text: str, imports: tuple[str, ...] = ()) -> Literal | None:
    if kind.__module__ == "__main__" or not kind.__qualname__.isidentifier():
        return None
    return Literal(text, (f"from {kind.__module__} import {kind.__name__}", *imports))
