"""What a model is made of and does not know of: parts in plain lists, dictionaries and tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from pellucid.doctor.localise import assigned_at


def unregistered(module: nn.Module) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """Paths of what is to be trained in plain lists, tuples, dictionaries and tensors, and is registered nowhere."""
    known = {id(part) for part in module.modules()} | {id(p) for p in module.parameters()}
    internal = set(vars(nn.Module()))
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in internal or name.startswith("__"):
                continue
            for place, item in _items(value, f"{path}.{name}".lstrip(".")):
                if isinstance(item, nn.Module):
                    learns = any(p.requires_grad for p in item.parameters())
                else:
                    learns = item.is_leaf and item.requires_grad
                if learns and id(item) not in known:
                    yield place, item


def _items(value: Any, place: str, depth: int = 3) -> Iterator[tuple[str, nn.Module | Tensor]]:
    if isinstance(value, nn.Module | Tensor):
        yield place, value
    elif depth and isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _items(item, f"{place}[{number}]", depth - 1)
    elif depth and isinstance(value, dict):
        for key, item in value.items():
            yield from _items(item, f"{place}[{key!r}]", depth - 1)


def unseen(module: nn.Module) -> str:
    """What to add to an answer about all parameters where some are not registered, and so were not looked at."""
    names = [name for name, _ in unregistered(module)]
    if not names:
        return ""
    return f"; not looked at: {listed(names)}, which {'are' if len(names) > 1 else 'is'} not registered"


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def held_in(module: nn.Module, place: str) -> tuple[str, str]:
    """Where a part that is not registered was put, and how to register it."""
    plain = place.partition("[")[0]
    owner, _, name = plain.rpartition(".")
    kind = type(module.get_submodule(owner))
    value = getattr(module.get_submodule(owner), name)
    where = f"{plain} (in {kind.__name__}, {assigned_at(kind, name)})"
    if isinstance(value, Tensor):
        return where, f"self.{name} = nn.Parameter(…), in place of a plain tensor"
    if isinstance(value, nn.Module):
        return where, f"self.{name} = …, by an ordinary assignment after super().__init__()"
    inside = next(_items(value, ""), ("", None))[1]
    if isinstance(value, dict):
        remedy = "nn.ModuleDict" if isinstance(inside, nn.Module) else "nn.ParameterDict"
        return where, f"self.{name} = {remedy}(…), in place of a plain dictionary"
    remedy = "nn.ModuleList" if isinstance(inside, nn.Module) else "nn.ParameterList"
    return where, f"self.{name} = {remedy}(…), in place of a plain {type(value).__name__}"
