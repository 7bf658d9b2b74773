"""What a model's positions are: the vectors they add, the angles they turn by, the numbers they add to scores.

All of it comes from the modules of the model; nothing is worked out a second time. And what becomes of a text when its
words change places.

Shapes: T tokens, D d_model, H heads, K head_dim, P pairs of coordinates, N distances, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.analysis.streams import streams_of
from pellucid.errors import UserError
from pellucid.models.tower import Tower
from pellucid.nn.positions import (
    AddedPositions,
    NoAddedPositions,
    NoRotation,
    RelativePositionBias,
    RotaryPositions,
    Rotation,
)


@torch.no_grad()
def codes(tower: Tower, length: int) -> Float[Tensor, "T D"]:
    """The vectors that a tower adds to the first positions: sines and cosines, or rows of a trained table.

    Raises:
        UserError: for a tower that adds none, or for more positions than it has learned.
    """
    added: Any = tower.embedding.positions
    if not isinstance(added, AddedPositions):
        raise UserError("positions", f"{type(added).__name__}: nothing is added to the embedding", "a tower that adds")
    if tower.max_length is not None and length > tower.max_length:
        raise UserError("length", f"found {length}", f"at most {tower.max_length}, the positions that were learned")
    return added.code(torch.arange(length, device=tower.device)[None])[0].float()


def likeness(vectors: Float[Tensor, "T D"]) -> Float[Tensor, "T T"]:
    """The cosines between all pairs of vectors."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    return (unit @ unit.mT).to(vectors.dtype)


@torch.no_grad()
def biases(tower: Tower, ahead: Sequence[int]) -> tuple[Float[Tensor, "H N"], list[int] | None]:
    """What a tower adds to the scores of keys that stand so many positions after the query; and T5's buckets.

    Raises:
        UserError: for a tower that adds nothing to its scores.
    """
    if tower.bias is None:
        raise UserError("positions", "nothing is added to the scores", "a tower with ALiBi or a relative bias")
    base = max(0, -min(ahead))
    query = torch.tensor([[base]], device=tower.device)
    key = torch.tensor([list(ahead)], device=tower.device) + base
    added = tower.bias(query, key)[0, :, 0]
    buckets = tower.bias.bucket(key - query)[0].tolist() if isinstance(tower.bias, RelativePositionBias) else None
    return added, buckets


def turned_pairs(rotation: RotaryPositions) -> list[tuple[int, int]]:
    """Which coordinates of a head are turned together."""
    count = rotation.frequency.numel()
    return [(2 * i, 2 * i + 1) if rotation.interleaved else (i, i + count) for i in range(count)]


@torch.no_grad()
def turned(rotation: RotaryPositions, x: Float[Tensor, " K"], positions: Sequence[int]) -> Float[Tensor, "N K"]:
    """A query or a key as it is turned at each of these positions."""
    turn: Rotation = rotation(torch.tensor([list(positions)], device=x.device))
    return turn(x.expand(1, 1, len(positions), -1))[0, 0]


def pair_products(
    rotation: RotaryPositions, q: Float[Tensor, " K"], keys: Float[Tensor, "N K"]
) -> Float[Tensor, "N P+1"]:
    """What each pair of coordinates adds to q · k, and last what is not turned: the sum of a row is the product."""
    products = q.double() * keys.double()
    pairs = torch.tensor(turned_pairs(rotation), device=q.device)
    still = products[:, 2 * len(pairs) :].sum(-1, keepdim=True)
    return torch.cat([products[:, pairs].sum(-1), still], dim=-1)


@contextmanager
def without_positions(model: nn.Module) -> Iterator[None]:
    """A model that is told no positions, inside a ``with`` block: it adds nothing, turns nothing, favours no distance.

    Causal masks stay, and give the order away: from them alone a decoder can learn it (Haviv et al. 2022).
    """
    with ExitStack() as back:
        for stream in streams_of(model):
            tower: Any = stream.tower
            taken: list[tuple[Any, str, Any]] = [
                (tower.embedding, "positions", NoAddedPositions()),
                (tower, "rotation", NoRotation()),
                (tower, "bias", None),
            ]
            for owner, name, absent in taken:
                back.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, absent)
        yield


def exchanged(length: int, first: int, second: int) -> list[int]:
    """The places 0 to ``length`` - 1 with two of them exchanged.

    Raises:
        UserError: for a place that is not there.
    """
    order = list(range(length))
    for place in (first, second):
        if not 0 <= place < length:
            raise UserError("swap", f"found {place}", f"places from 0 to {length - 1}")
    order[first], order[second] = second, first
    return order


def moved(before: Float[Tensor, "L T D"], after: Float[Tensor, "L T D"], order: Sequence[int]) -> Float[Tensor, "L T"]:
    """How far the vector of each token went, over its length, when the token of place t went to ``order[t]``.

    All are 0 where a model knows nothing of order: then its outputs change places as its inputs do.
    """
    if before.shape != after.shape or before.size(-2) != len(order):
        raise UserError("swap", f"states of shapes {list(before.shape)} and {list(after.shape)}", "equal ones")
    gone = after[:, list(order)].double() - before.double()
    return (gone.norm(dim=-1) / before.double().norm(dim=-1).clamp(min=1e-300)).to(before.dtype)
