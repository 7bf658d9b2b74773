"""What to do with a tensor before the model goes on: functions that make an edit, for all of it or for a part.

An edit is a function from a tensor to one of the same shape, so any function of yours will do. Those here copy, never
write in place, and let gradients through. Several for one name, as a sequence, are applied in order.

Shapes: (B, T, D) rows, positions, units; (B, H, T, K) rows, heads, positions, units, or keys for scores and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.trace.tape import Edit, Tape
from pellucid.trace.taps import trace

Chosen = int | Sequence[int] | slice | None


@dataclass(frozen=True)
class Where:
    """A part of a tensor, by number, numbers or slice; what is left out is taken whole.

    Attributes:
        rows: of the batch.
        positions: of this pass; of queries in scores and weights. While writing, a step has one.
        heads: in tensors of heads.
        units: the last axis: features, coordinates of a head, keys of scores and weights.
    """

    rows: Chosen = None
    positions: Chosen = None
    heads: Chosen = None
    units: Chosen = None

    def grid(self, x: Tensor) -> tuple[Tensor, ...]:
        """The part as indices of a tensor.

        Raises:
            UserError: for a part that the tensor does not have.
        """
        chosen: tuple[Chosen, ...]
        match x.dim():
            case 4:
                chosen = (self.rows, self.heads, self.positions, self.units)
            case 3:
                chosen = (self.rows, self.positions, self.units)
            case 1:
                chosen = (self.rows,)
            case _:
                chosen = (self.rows, *(None,) * (x.dim() - 2), self.units)
        for what, there in (("heads", x.dim() == 4), ("positions", x.dim() > 2), ("units", x.dim() > 1)):
            if getattr(self, what) is not None and not there:
                raise UserError("edit", f"a tensor of shape {list(x.shape)} has no {what}", "a tensor that has them")
        axes = [_indices(part, size) for part, size in zip(chosen, x.shape, strict=True)]
        return tuple(axis.view(*[1] * i, -1, *[1] * (x.dim() - i - 1)).to(x.device) for i, axis in enumerate(axes))


def _indices(chosen: Chosen, size: int) -> Tensor:
    everything = torch.arange(size)
    if chosen is None:
        return everything
    if isinstance(chosen, slice):
        return everything[chosen]
    numbers = [chosen] if isinstance(chosen, int) else list(chosen)
    try:
        return everything[numbers]
    except IndexError:
        raise UserError("edit", f"found {numbers}", f"numbers below {size}") from None


EVERYWHERE = Where()


def change(function: Callable[[Tensor], Tensor | float], where: Where = EVERYWHERE) -> Edit:
    """Any function of the chosen part."""

    def edit(x: Tensor) -> Tensor:
        grid = where.grid(x)
        part = x[grid]
        changed = x.clone()
        changed[grid] = torch.as_tensor(function(part), dtype=x.dtype, device=x.device).expand_as(part)
        return changed

    return edit


def zero(where: Where = EVERYWHERE) -> Edit:
    """Zeros. In a mask: hides."""
    return change(torch.zeros_like, where)


def scale(factor: float, where: Where = EVERYWHERE) -> Edit:
    """Times a factor."""
    return change(lambda part: part * factor, where)


def add(vector: Tensor | float, where: Where = EVERYWHERE) -> Edit:
    """Plus a number, or a vector over the last axis."""
    return change(lambda part: part + (vector.to(part.device) if isinstance(vector, Tensor) else vector), where)


def steer(direction: Tensor, strength: float = 1.0, where: Where = EVERYWHERE) -> Edit:
    """A push along a direction (D,), as long as ``strength`` times the vector it is added to (Turner et al. 2023)."""

    def pushed(part: Tensor) -> Tensor:
        unit = direction.to(part) / direction.norm()
        return part + strength * part.norm(dim=-1, keepdim=True) * unit

    return change(pushed, where)


def mean(where: Where = EVERYWHERE, of: Tensor | None = None) -> Edit:
    """The mean over rows and positions, of this tensor or of another such as one from many texts.

    Raises (when applied):
        UserError: for a tensor that has no mean, as a mask has none.
    """

    def edit(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise UserError("edit", f"values of {x.dtype} have no mean", "floating-point numbers")
        source = x if of is None else of.to(x)
        axes = (0, 2) if x.dim() == 4 else tuple(range(x.dim() - 1))
        middle = source.mean(dim=axes, keepdim=True).expand_as(x)
        return replace(middle, where)(x)

    return edit


def replace(value: Tensor | float | bool, where: Where = EVERYWHERE, taken: Where | None = None) -> Edit:
    """Another value: a number, or a tensor of which the part ``taken`` is used, the same one when left out.

    Patching is this with a tensor of another tape; freezing an attention pattern with its weights; opening a mask with
    ``True``.

    Raises (when applied):
        UserError: where the part taken does not fit the part replaced.
    """

    def edit(x: Tensor) -> Tensor:
        grid = where.grid(x)
        part = value[(taken or where).grid(value)] if isinstance(value, Tensor) and value.dim() else value
        shape = x[grid].shape
        if isinstance(part, Tensor) and part.dim() and part.shape != shape:
            raise UserError("edit", f"a part of shape {list(part.shape)}", f"{list(shape)}, what it is to replace")
        changed = x.clone()
        changed[grid] = torch.as_tensor(part, dtype=x.dtype, device=x.device)
        return changed

    return edit


def swap(first: int, second: int) -> Edit:
    """Two positions change places: in ``embedding.tokens``, to which no position is added yet, two words.

    Raises (when applied):
        UserError: for a position that the tensor does not have.
    """

    def edit(x: Tensor) -> Tensor:
        changed = x.clone()
        here, there = (Where(positions=[position]).grid(x) for position in (first, second))
        changed[here], changed[there] = x[there], x[here]
        return changed

    return edit


def patch(tape: Tape, *names: str, where: Where = EVERYWHERE, taken: Where | None = None) -> dict[str, Edit]:
    """Edits that put what another run had in place of what this one has (Vig et al. 2020; Meng et al. 2022)."""
    return {name: replace(tape[name], where, taken) for name in names}


def skip(layer: str) -> dict[str, Edit]:
    """Edits that leave out a layer, such as ``blocks.2``: what comes in goes out."""
    coming_in: list[Tensor] = []

    def remember(x: Tensor) -> Tensor:
        coming_in[:] = [x]
        return x

    return {f"{layer}.residual_pre": remember, f"{layer}.residual_post": lambda _: coming_in.pop()}


def edit(model: nn.Module, edits: Mapping[str, Edit | Sequence[Edit]]) -> AbstractContextManager[Tape]:
    """Lets a model run with edits inside a ``with`` block; afterwards, also on an error, it is as it was.

    Raises (when the block ends):
        UserError: where the model ran and no tensor has a name that is edited, with the nearest.
    """
    return trace(model, watch=(), edits=edits)
