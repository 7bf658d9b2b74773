"""Which tensors of a cache followed a choice of its rows, by comparing them before and after.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DEPTH = 8


@dataclass(frozen=True)
class Followed:
    """Paths of tensors (B, …) in a cache, by what a choice of rows did to them.

    Attributes:
        moved: hold the chosen rows.
        kept: hold the rows they had.
        other: hold neither.
    """

    moved: tuple[str, ...]
    kept: tuple[str, ...]
    other: tuple[str, ...]

    def part(self) -> str:
        """The first tensor that kept its rows, and how many more there are; empty where there is none."""
        return listed(self.kept) if self.kept else ""

    def as_dict(self) -> dict[str, tuple[str, ...]]:
        """For evidence; what there is none of is left out."""
        named = {"rows_kept": self.kept, "rows_reordered": self.moved, "other_rows": self.other}
        return {name: paths for name, paths in named.items() if paths}

    def __str__(self) -> str:
        told = []
        for names, what in ((self.kept, "kept their rows"), (self.other, "hold other rows than those chosen")):
            if names:
                told.append(f"{listed(names)} {what if len(names) > 1 else what.replace('their', 'its', 1)}")
        if told and self.moved:
            told.append(f"{listed(self.moved)} {'were' if len(self.moved) > 1 else 'was'} reordered")
        return "; ".join(told)


def listed(names: tuple[str, ...]) -> str:
    """The first path, and how many more there are."""
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else names[0]


def snapshot(cache: Any, rows: int) -> dict[str, Tensor]:
    """Copies of all tensors of a cache that have a row for each text, by their paths."""
    return {path: tensor.clone() for path, tensor in _tensors(cache, "cache", set(), DEPTH) if _of_rows(tensor, rows)}


def followed(before: dict[str, Tensor], after: dict[str, Tensor], order: Tensor) -> Followed:
    """Sorts tensors by what became of their rows; those whose rows are alike, or that are gone, tell nothing."""
    moved: list[str] = []
    kept: list[str] = []
    other: list[str] = []
    for path, old in before.items():
        new = after.get(path)
        if new is None or new.shape[1:] != old.shape[1:]:
            continue
        chosen = old[order.to(old.device)]
        if torch.equal(chosen, old):
            continue
        (moved if torch.equal(new, chosen) else kept if torch.equal(new, old) else other).append(path)
    return Followed(tuple(moved), tuple(kept), tuple(other))


def _of_rows(tensor: Tensor, rows: int) -> bool:
    return tensor.dim() > 0 and tensor.size(0) == rows


def _tensors(value: Any, path: str, passed: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    if depth == 0 or id(value) in passed or isinstance(value, nn.Module | type | str | bytes):
        return
    passed.add(id(value))
    for step, item in _parts(value):
        yield from _tensors(item, path + step, passed, depth - 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container or an object holds, with the piece of the path that leads there."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        yield from ((f"[{number}]", item) for number, item in enumerate(value))
    elif hasattr(value, "_asdict"):
        yield from ((f".{name}", item) for name, item in value._asdict().items())
    names = {*vars(value)} if hasattr(value, "__dict__") else set()
    names |= {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
    for name in sorted(names):
        if not name.startswith("__"):
            yield f".{name}", getattr(value, name, None)
