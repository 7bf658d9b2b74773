"""The hidden units of feed-forward networks: seen at their activation, or at the linear layer that reads them.

Shapes: N tokens, F hidden features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pellucid.doctor.health import dead, is_activation

FEW = 512
"""Tokens below which nothing is said of a unit: an expert that is given few has few chances to fire."""


@dataclass(eq=False)
class Units:
    """What was seen while the model ran.

    Attributes:
        dead: name of an activation, or of the linear layer that reads hidden features → share that never fired.
        bare: pairs of linear layers, the second of which reads just what the first returned, wider than both ends.
    """

    dead: dict[str, float] = field(default_factory=dict)
    bare: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def units(model: nn.Module) -> Iterator[Units]:
    """Watches activations and linear layers while the block runs."""
    found, last = Units(), _Last()
    handles = []
    for name, part in model.named_modules():
        if is_activation(part):
            handles.append(part.register_forward_hook(_activation(found, name, isinstance(part, nn.ReLU | nn.ReLU6))))
        elif _is_linear(part):
            handles.append(part.register_forward_hook(_linear(found, last, name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(eq=False)
class _Last:
    """The linear layer that ran before: its name, what it returned, and how wide it read."""

    name: str = ""
    returned: Tensor | None = None
    width: int = 0


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"


def _activation(found: Units, name: str, relu: bool) -> object:
    def hook(_: nn.Module, __: object, result: object) -> None:
        if isinstance(result, Tensor) and _tokens(result) >= FEW:
            found.dead[name] = dead(result.detach(), relu=relu)

    return hook


def _linear(found: Units, last: _Last, name: str) -> object:
    def hook(_: nn.Module, given: tuple[object, ...], result: object) -> None:
        x = given[0] if given else None
        if not isinstance(x, Tensor) or not isinstance(result, Tensor):
            return
        before = last.returned
        if before is not None and x.size(-1) > max(last.width, result.size(-1)) and x.shape[:-1] == before.shape[:-1]:
            if x.shape == before.shape and torch.equal(x, before):
                found.bare.append((last.name, name))
            elif x.size(-1) in (before.size(-1), before.size(-1) // 2) and _tokens(x) >= FEW:
                found.dead[name] = still(x.detach())
        last.name, last.returned, last.width = name, result.detach(), x.size(-1)

    return hook


def still(x: Tensor) -> float:
    """The share of (…, F) that is one number over all tokens: what an activation gives that never fires."""
    flat = x.reshape(-1, x.size(-1))
    return float((flat == flat[:1]).all(0).float().mean())


def _tokens(x: Tensor) -> int:
    return x.numel() // max(1, x.size(-1))
