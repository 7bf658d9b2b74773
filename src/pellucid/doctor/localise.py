"""Where a fault begins: the first module whose output moves at a place where it may not.

Shapes: B batch, T positions.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.measures import moved
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.trace.calls import Call, CallStack, following, numbered, tensors_in
from pellucid.trace.uncompiled import uncompiled


def first_moved(subject: Subject, one: Batch, other: Batch, *, allowed: int, train: bool = False) -> str:
    """The first module of which an output before position ``allowed`` differs between two batches.

    Returns:
        Its path, class and the line of its ``forward``; empty where none can be named.
    """

    def forbidden(a: Tensor, b: Tensor) -> bool:
        return bool((moved(a, b)[:, :allowed] > 0).any())

    return first_where(subject, one, other, forbidden, axis=one.ids.size(1), train=train)


def first_row(subject: Subject, one: Batch, other: Batch, *, row: int, train: bool = False) -> str:
    """The first module of which the output of a row differs between two batches of the same shapes."""

    def forbidden(a: Tensor, b: Tensor) -> bool:
        return bool((moved(a, b)[row] > 0).any())

    return first_where(subject, one, other, forbidden, axis=one.ids.size(1), train=train)


def first_where(
    subject: Subject,
    one: Batch,
    other: Batch,
    forbidden: Callable[[Tensor, Tensor], bool],
    *,
    axis: int,
    train: bool = False,
    within: str = "",
) -> str:
    """The first module, innermost before what is around it, for whose outputs ``forbidden`` holds, as (B, T, …).

    Args:
        axis: T, by which outputs over positions are known.
        within: a regular expression that the module's path must fit.
    """
    if subject.module is None:
        return ""
    try:
        a, b = (_outputs(subject, batch, train) for batch in (one, other))
    except Exception:  # a place is a help, and must not cost the finding
        return ""
    rows = one.ids.size(0)
    for (call, name, first), (_, _, second) in zip(a, b, strict=False):
        if not re.search(within, name):
            continue
        if first.shape != second.shape or first.dim() < 2:
            continue
        if first.shape[:2] == (axis, rows) != (rows, axis):  # time first
            first, second = first.transpose(0, 1), second.transpose(0, 1)
        if first.shape[:2] != (rows, axis):
            continue
        if forbidden(first.reshape(rows, axis, -1), second.reshape(rows, axis, -1)):
            return told(call, name)
    return ""


def told(call: Call, path: str) -> str:
    """A call in words: path, class, and where its ``forward`` is written; of what PyTorch wrote, whoever called it."""
    kind, around = type(call.module), call.parent
    place = f"{path or 'the model'} ({kind.__name__}, {_line(kind)})"
    while around is not None and kind.__module__.startswith("torch."):
        kind, around = type(around.module), around.parent
    if kind is not type(call.module) and not kind.__module__.startswith("torch."):
        place = f"{path} ({type(call.module).__name__}, in {kind.__name__}.forward, {_line(kind)})"
    return place


def _line(kind: type[nn.Module]) -> str:
    """The file, as it is called from here where it is ours to edit, and the line of its ``forward``."""
    return written_at(kind.forward) or kind.__module__


def written_at(function: Any) -> str:
    """The file and line of a function; empty where it has none."""
    try:
        path, line = Path(inspect.getsourcefile(function) or ""), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):
        return ""
    return file_line(path, line)


def assigned_at(kind: type, name: str) -> str:
    """The file and line at which a class first gives itself an attribute; that of the class where no line says so."""
    for around in kind.__mro__:
        try:
            lines, first = inspect.getsourcelines(around)
            path = Path(inspect.getsourcefile(around) or "")
        except (OSError, TypeError):
            continue
        for number, line in enumerate(lines):
            if re.search(rf"\bself\.{re.escape(name)}\s*(:[^=]+)?=(?!=)", line):
                return file_line(path, first + number)
    return written_at(kind)


def file_line(path: Path, line: int) -> str:
    """A place, by the path from here where the file is ours to edit."""
    here = Path.cwd()
    inside = path.is_relative_to(here) and "site-packages" not in path.parts
    return f"{path.relative_to(here).as_posix() if inside else path.name}:{line}"


def placed(module: nn.Module | None, where: str) -> str:
    """A place with the class and the line of its module, where it names a module or a tensor of one, and no line."""
    if module is None or not where or re.search(r"\.py:\d", where):
        return where
    parts = dict(module.named_modules())
    path = re.split(r"[\s#@(,]", where, maxsplit=1)[0]
    while path and path not in parts:
        path = path.rpartition(".")[0]
    if not path:
        return where
    kind = type(parts[path])
    if kind.__module__.startswith("torch."):
        return where
    return f"{where.partition(' (')[0]} ({kind.__name__}, {_line(kind)})"


def _outputs(subject: Subject, batch: Batch, train: bool) -> list[tuple[Call, str, Tensor]]:
    found: list[tuple[Call, Tensor]] = []

    def returned(call: Call, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        found.extend((call, tensor.detach()) for tensor in tensors_in(result).values() if tensor.is_floating_point())

    assert subject.module is not None
    ticks = itertools.count()
    stack = CallStack(subject.module, lambda: next(ticks))
    with uncompiled(), following(stack, returned), nullcontext() if train else torch.no_grad():
        subject(batch, train=train)
    names = numbered(stack.calls)
    return [(call, names[id(call)], tensor) for call, tensor in found]
