"""How the engine's queries look at keys: at those of their own text, at those remembered, at those of a source.

Shapes: N positions of all texts, B texts, T new positions, S keys, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.inference.engine.memory import Memory, Places
from pellucid.inference.engine.products import usual
from pellucid.models.tower import Tower
from pellucid.nn.attention import Attention
from pellucid.nn.kernels import auto, blocked
from pellucid.nn.masks import Mask, Sites
from pellucid.nn.medium import exact_products

Masks = dict[int | None, Tensor | None]
"""What is added to the scores, for each window that a tower has; ``None`` for nothing."""


@dataclass(frozen=True)
class Group:
    """Texts of one length, which stand one behind the other from ``start`` on.

    Attributes:
        rows: which of all texts they are.
    """

    start: int
    length: int
    rows: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Where the next group begins."""
        return self.start + self.length * len(self.rows)

    def cut(self, x: Float[Tensor, "N H K"]) -> Float[Tensor, "B H T K"]:
        """Its heads."""
        return x[self.start : self.stop].view(len(self.rows), self.length, *x.shape[1:]).transpose(1, 2)


def grouped(lengths: Sequence[int]) -> list[Group]:
    """Texts by length: those of one length together, the shortest first."""
    groups: list[Group] = []
    for length in sorted(set(lengths)):
        rows = tuple(row for row, own in enumerate(lengths) if own == length)
        groups.append(Group(groups[-1].stop if groups else 0, length, rows))
    return groups


def flat(
    texts: Sequence[Sequence[int]], groups: Sequence[Group], device: torch.device
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """The numbers of all texts, group after group, and their positions.

    Behind them stand zeros that belong to no text, so that there are as many rows as products take: each of them would
    copy all its rows to add some.
    """
    numbers = [number for group in groups for row in group.rows for number in texts[row]]
    positions = [p for group in groups for _ in group.rows for p in range(group.length)]
    nobodys = [0] * (usual(len(numbers)) - len(numbers))
    return torch.tensor(numbers + nobodys, device=device), torch.tensor(positions + nobodys, device=device)


def contexts(
    look: Callable[[Group], Float[Tensor, "B H T K"]], q: Float[Tensor, "N H K"], groups: Sequence[Group]
) -> Float[Tensor, "N HK"]:
    """Of each group what it looks at; zero behind the last."""
    context = torch.empty_like(q, memory_format=torch.contiguous_format)
    for group in groups:
        group.cut(context).copy_(look(group))
    context[groups[-1].stop :] = 0
    return context.flatten(1)


def attentions(tower: Tower) -> list[Attention]:
    """The self-attention of each layer."""
    return [block.self_attention for block in tower.blocks]  # type: ignore[misc]


class Whole:
    """Texts that are read from their beginning, each group for itself: nothing is padded.

    Args:
        remember: told the keys and values of each layer and group.
    """

    def __init__(
        self, tower: Tower, groups: Sequence[Group], remember: Callable[[int, Group, Tensor, Tensor], None] | None
    ) -> None:
        self.tower, self.groups, self.remember, self.sites = tower, groups, remember, attentions(tower)
        device = tower.device
        at = {g: Sites(torch.arange(g.length, device=device)[None]) for g in groups}  # alike in all rows
        self.masks = {
            g: {w: Mask(query=s, key=s, causal=tower.causal, window=w, bias=tower.bias) for w in set(tower.windows)}
            for g, s in at.items()
        }

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N HK"]:
        site, window = self.sites[layer], self.tower.windows[layer]

        def look(group: Group) -> Tensor:
            keys, values = group.cut(k), group.cut(v)
            if self.remember is not None:
                self.remember(layer, group, keys, values)
            return read(group.cut(q), keys, values, self.masks[group][window], site.scale, site.softcap)

        return contexts(look, q, self.groups)


SHORTEST, LONGEST = 32, 1024
"""Texts of so many tokens are sooner read by plain products, on a CPU; docs/decisions/0018 tells by how much."""

SCORES = 1 << 23
"""As many as are held at a time."""


def read(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T K"],
    mask: Mask,
    scale: float,
    softcap: float | None,
) -> Float[Tensor, "B H T K"]:
    """The context of texts that are read from their beginning; the mask is that of one, for all of them.

    Which way is taken depends on their length alone: a text does not depend on its neighbours.
    """
    rest: dict[str, Any] = {"scale": scale, "softcap": softcap, "dropout": 0.0, "tap": _pass}
    heads, length = q.shape[1:3]
    if q.device.type != "cpu" or not SHORTEST <= length <= LONGEST:
        return auto(q, k, v, mask, **rest)
    everything = mask.hides_nothing() and mask.bias is None and softcap is None and heads == k.size(1)
    several = max(1, SCORES // (heads * length**2))
    parts = []
    with exact_products():
        for a, b, c in zip(q.split(several), k.split(several), v.split(several), strict=True):
            parts.append(_all_see_all(a, b, c, scale) if everything else blocked(a, b, c, mask, **rest))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _all_see_all(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B H S K"], v: Float[Tensor, "B H S K"], scale: float
) -> Float[Tensor, "B H T K"]:
    asks = torch.mul(q, scale, out=q.new_empty(q.shape))  # side by side, as products take them
    return softmax_(asks @ k.mT) @ v


def _pass(name: str, tensor: Tensor, /, *operands: object) -> Tensor:
    return tensor


class Onward:
    """T new positions of every row, behind what its memory holds.

    Args:
        masks: what is added to the scores of (B, T) queries on all keys.
        places: of the new positions.
    """

    def __init__(self, tower: Tower, memory: Memory, masks: Masks, places: Places) -> None:
        self.windows, self.sites = tower.windows, attentions(tower)
        self.memory, self.masks, self.places = memory, masks, places

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N HK"]:
        batch, new = self.places.slots.shape
        if new == 1:
            q, k, v = q.unsqueeze(2), k.unsqueeze(2), v.unsqueeze(2)
        else:
            q, k, v = (x.view(batch, new, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        keys, values = self.memory.put(layer, k, v, self.places)
        site = self.sites[layer]
        return attend(q, keys, values, self.masks[self.windows[layer]], site.scale, site.softcap)


class Reading:
    """Queries of T positions of every row, over its source."""

    def __init__(self, sites: Sequence[Attention], memory: Memory, batch: int) -> None:
        self.sites, self.memory, self.batch = sites, memory, batch

    def __call__(self, layer: int, q: Float[Tensor, "N H K"]) -> Float[Tensor, "N HK"]:
        source, site = self.memory.source, self.sites[layer]
        assert source is not None  # whoever reads has one
        q = q.view(self.batch, -1, *q.shape[1:]).transpose(1, 2)
        mask = self.memory.source_mask
        return attend(q, source.keys[layer], source.values[layer], mask, site.scale, site.softcap)


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    mask: Float[Tensor, "#B #H #T S"] | None,
    scale: float,
    softcap: float | None,
) -> Float[Tensor, "N HK"]:
    """softmax(softcap(q kᵀ · scale) + mask) v, one row for each query."""
    batch, heads, new, width = q.shape
    if softcap is None and q.device.type != "cpu":
        gqa = heads > k.size(1)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)
        return context.transpose(1, 2).reshape(batch * new, -1)
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    asks = (q * scale).reshape(k.size(0), -1, width)  # query heads that share keys stand side by side
    # Of one query, a CPU multiplies keys by it sooner than it by keys.
    scores = torch.bmm(k, asks.mT).mT if asks.size(1) == 1 else torch.bmm(asks, k.mT)
    if softcap is not None or mask is not None:
        apart = scores.view(batch, heads, new, -1)
        apart = apart if softcap is None else softcap * torch.tanh(apart / softcap)
        scores = (apart if mask is None else apart + mask).view(scores.shape)
    context = torch.bmm(softmax_(scores), v)
    if new == 1:  # the heads of a text stand side by side
        return context.view(batch, -1)
    return context.view(batch, heads, new, width).transpose(1, 2).reshape(batch * new, -1)


VECTOR = 16


def softmax_(scores: Float[Tensor, "*N S"]) -> Float[Tensor, "*N S"]:
    """Over the keys, in place: half as much passes through the caches.

    A CPU takes scores together from one vector's width on: fewer are filled up with such as weigh 0.
    """
    missing = VECTOR - scores.size(-1)
    if missing <= 0:
        return torch.softmax(scores, -1, out=scores)
    return F.pad(scores, (0, missing), value=-torch.inf).softmax(dim=-1)[..., :-missing]


def masks_of(
    tower: Tower,
    queries: Int[Tensor, "B T"],
    keys: Int[Tensor, "B S"],
    seen: Tensor | None,
    *,
    all_seen: bool,
) -> Masks:
    """What is added to the scores, for each window of a tower.

    Args:
        queries: positions of the new tokens. keys: those of the slots.
        seen: which slots each query may see at all (B, T, S); by default those not behind it.
        all_seen: that no slot is hidden, but by a window.
    """
    bias = None if tower.bias is None else tower.bias(queries, keys)
    distance = queries[:, :, None] - keys[:, None, :]
    visible = None if all_seen else (distance >= 0 if seen is None else seen)
    found: Masks = {}
    for window in set(tower.windows):
        near = visible
        if window is not None and keys.size(1) > window:
            near = distance < window if visible is None else visible & (distance < window)
        if near is None:
            found[window] = bias
            continue
        zero = torch.zeros((), device=queries.device) if bias is None else bias
        found[window] = torch.where(near[:, None], zero, -torch.inf)
    return found
