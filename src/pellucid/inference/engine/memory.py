"""What the engine remembers of texts in the making: keys and values in slots, of a source once.

Room is made in buckets, and read up to the longest live text. Rows may be of any lengths; they come, go and change
order, and who leaves makes room for who comes. Room is not touched before it is needed; but what is read behind the end
of a shorter row must be finite, as it weighs 0 and 0 · NaN is NaN: there, zeros are written first.

Shapes: R rows, P rows that there is room for, G key/value heads, C slots of room, S slots in use, K head_dim, T new
positions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.inference.writer import filled

SMALLEST, LARGEST = 128, 512
"""Room doubles from the smallest bucket to the largest, then grows by the largest."""


def bucket(length: int) -> int:
    """The room that is made for so many slots."""
    room = SMALLEST
    while room < length and room < LARGEST:
        room *= 2
    return room if room >= length else -(-length // LARGEST) * LARGEST


@dataclass
class Source:
    """What rows remember of what they read: (R, G, S, K) for each layer, and how long each is."""

    keys: list[Tensor]
    values: list[Tensor]
    lengths: list[int]

    def mask(self) -> Float[Tensor, "R 1 1 S"] | None:
        """What is added to the scores of queries that look at it; ``None`` where every row fills its slots."""
        longest = self.keys[0].size(2)
        if min(self.lengths) == longest:
            return None
        device = self.keys[0].device
        real = torch.arange(longest, device=device) < torch.tensor(self.lengths, device=device)[:, None]
        return torch.zeros(real.shape, device=device).masked_fill_(~real, -torch.inf)[:, None, None]

    def select(self, rows: Sequence[int]) -> Source:
        """These rows, in this order, and no more slots than they need."""
        lengths = [self.lengths[row] for row in rows]
        index, longest = torch.tensor(rows, dtype=torch.long, device=self.keys[0].device), max(lengths, default=0)
        return Source([k[index, :, :longest] for k in self.keys], [v[index, :, :longest] for v in self.values], lengths)

    def join(self, other: Source) -> Source:
        """These rows and those."""
        keys = [stacked(*pair) for pair in zip(self.keys, other.keys, strict=True)]
        values = [stacked(*pair) for pair in zip(self.values, other.values, strict=True)]
        return Source(keys, values, self.lengths + other.lengths)


@dataclass(frozen=True)
class Places:
    """The slots of new positions of each row, from its end on.

    Attributes:
        rows: their numbers, beside ``slots``. count: how many they are.
        before: where the longest row ends. used: where it will.
        even: whether all rows end there.
    """

    slots: Int[Tensor, "R T"]
    rows: Int[Tensor, "R 1"]
    count: int
    before: int
    used: int
    even: bool


class Memory:
    """Rows of texts, fed so far up to their lengths; position p of a row stands in its slot p.

    Args:
        layers: how many.
        rows: how many.
    """

    def __init__(self, layers: int, rows: int, source: Source | None = None) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths = [0] * rows
        self.source = source
        self.source_mask = None if source is None else source.mask()

    @property
    def even(self) -> bool:
        """Whether all rows are equally long."""
        return min(self.lengths) == max(self.lengths)

    def places(self, new: int, device: torch.device) -> Places:
        """Where so many new positions of each row will stand."""
        slots = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(new, device=device)
        count, before = len(self.lengths), max(self.lengths)
        rows = torch.arange(count, device=device)[:, None]
        return Places(slots, rows, count, before, before + new, self.even)

    def put(
        self, layer: int, k: Float[Tensor, "R G T K"], v: Float[Tensor, "R G T K"], at: Places
    ) -> tuple[Float[Tensor, "R G S K"], Float[Tensor, "R G S K"]]:
        """Files the keys and values of a layer's new positions; returns all that stand up to the longest row's end."""
        return self._put(self.keys, layer, k, at), self._put(self.values, layer, v, at)

    def _put(
        self, slots: list[Tensor | None], layer: int, new: Float[Tensor, "R G T K"], at: Places
    ) -> Float[Tensor, "R G S K"]:
        room = slots[layer] = self._room(slots[layer], new, at.count, at.used)
        live = room[: at.count, :, : at.used]
        if at.even:
            live[:, :, at.before :] = new
        else:
            live[:, :, at.before :] = 0
            live[at.rows, :, at.slots] = new.transpose(1, 2)
        return live

    def fill(self, layer: int, rows: Sequence[int], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]) -> None:
        """Files the first keys and values of some rows, which are equally long; all rows' room is made at once."""
        keys, values = self._begun(self.keys, layer, k), self._begun(self.values, layer, v)
        first, length = rows[0], k.size(2)
        if list(rows) == list(range(first, first + len(rows))):
            keys[first : first + len(rows), :, :length], values[first : first + len(rows), :, :length] = k, v
        else:
            index = torch.tensor(rows, device=k.device)
            keys[index, :, :length], values[index, :, :length] = k, v

    def _begun(self, slots: list[Tensor | None], layer: int, like: Tensor) -> Float[Tensor, "R G C K"]:
        """Room for the first keys of all rows; zero where one is shorter than others."""
        room = slots[layer]
        if room is None:
            used = max(self.lengths)
            slots[layer] = room = self._room(None, like, len(self.lengths), used)
            if not self.even:
                room[:, :, :used] = 0
        return room

    def _room(self, slots: Tensor | None, like: Tensor, rows: int, used: int) -> Float[Tensor, "P G C K"]:
        """At least so many rows and slots: what there is if that suffices, else anew, with what has been written."""
        if slots is None:
            return like.new_empty(rows, like.size(1), bucket(used), like.size(3))
        if slots.size(0) >= rows and slots.size(2) >= used:
            return slots
        count, written = len(self.lengths), max(self.lengths)
        room = like.new_empty(max(rows, slots.size(0)), like.size(1), bucket(used), like.size(3))
        room[:count, :, :written] = slots[:count, :, :written]
        return room

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order; one may be there twice."""
        room = bucket(max((self.lengths[row] for row in rows), default=0))
        index = torch.tensor(rows, dtype=torch.long)
        for slots in (self.keys, self.values):
            for layer, each in enumerate(slots):
                if each is not None:  # copies, even of all rows: others may hold what is there
                    slots[layer] = each[:, :, :room].index_select(0, index.to(each.device))
        self.lengths = [self.lengths[row] for row in rows]
        if self.source is not None:
            self.source = self.source.select(rows)
            self.source_mask = self.source.mask() if rows else None

    @torch.inference_mode()  # what is written into was made in it
    def vacate(self, rows: Collection[int]) -> list[int]:
        """As :meth:`~pellucid.inference.writer.Vacating.vacate`."""
        order = filled(len(self.lengths), rows)
        moved = [(place, row) for place, row in enumerate(order) if place != row]
        if moved:
            places, origins = (torch.tensor(part) for part in zip(*moved, strict=True))
            used = max(self.lengths)
            for each in (*self.keys, *self.values):
                if each is not None:
                    each[places.to(each.device), :, :used] = each[origins.to(each.device), :, :used]
        self.lengths = [self.lengths[row] for row in order]
        if self.source is not None:
            self.source = self.source.select(order)
            self.source_mask = self.source.mask() if order else None
        return order

    @torch.inference_mode()
    def join(self, other: Memory) -> None:
        """Takes in the rows of another behind its own: where others have left, if there is room."""
        theirs = max(other.lengths)
        for mine, others in ((self.keys, other.keys), (self.values, other.values)):
            for layer, (a, b) in enumerate(zip(mine, others, strict=True)):
                assert a is not None
                assert b is not None  # rows that are joined have been prefilled
                mine[layer] = self._with(a, b[: len(other.lengths), :, :theirs])
        self.lengths = self.lengths + other.lengths
        if self.source is not None and other.source is not None:
            self.source = self.source.join(other.source)
            self.source_mask = self.source.mask()

    def _with(self, slots: Float[Tensor, "P G C K"], new: Float[Tensor, "B G T K"]) -> Float[Tensor, "P G C K"]:
        """New rows behind those that are there. Rows are doubled, so that few who come move the others."""
        count, used, length = len(self.lengths), max(self.lengths), new.size(2)
        after, longest = count + new.size(0), max(used, length)
        rows = slots.size(0) if slots.size(0) >= after else 1 << (after - 1).bit_length()
        room = self._room(slots, slots, rows, longest)
        room[:count, :, used:longest] = 0
        room[count:after, :, :length], room[count:after, :, length:longest] = new, 0
        return room

    def shrink(self) -> None:
        """As :meth:`~pellucid.inference.writer.Shrinking.shrink`."""
        count, used = len(self.lengths), max(self.lengths, default=0)
        for slots in (self.keys, self.values):
            slots[:] = [None if each is None else each[:count, :, :used].clone() for each in slots]

    def crop(self, lengths: Sequence[int]) -> None:
        """Forgets what each row was fed beyond these lengths."""
        self.lengths = [min(own, length) for own, length in zip(self.lengths, lengths, strict=True)]


def stacked(a: Float[Tensor, "R G A K"], b: Float[Tensor, "B G T K"]) -> Float[Tensor, "P G S K"]:
    """Rows of one and the other, the shorter filled up with zeros."""
    longest = max(a.size(2), b.size(2))
    return torch.cat([F.pad(each, (0, 0, 0, longest - each.size(2))) for each in (a, b)])
