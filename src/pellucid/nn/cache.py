"""Where keys and values come from: computed now, remembered from earlier steps, or projected once from a source.

A cache of a stack says at which sites its keys stand (``admit``), gives each layer a drawer of its own (``layer``),
keeps a length per row, and can be rearranged (``select``) and cut back (``crop``).

Shapes: B batch, T new positions, S keys, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.nn.masks import PADDING, Sites

Heads = Float[Tensor, "B G S K"]
Project = Callable[[], tuple[Tensor, Tensor]]


@runtime_checkable
class LayerCache(Protocol):
    """Where one layer gets its keys and values from."""

    def keys_values(self, project: Project) -> tuple[Heads, Heads]:
        """Keys and values (B, G, S, K); ``project`` computes those of the new positions (B, G, T, K)."""


@runtime_checkable
class Cache(Protocol):
    """Where the layers of a stack get their keys and values from."""

    @property
    def longest(self) -> int:
        """No row has more positions behind it than this."""

    def past(self, tokens: Tensor) -> Int[Tensor, " B"]:
        """How many positions each row has behind it."""

    def admit(self, sites: Sites, window: int | None) -> Sites:
        """Makes room for new positions; returns the sites of all keys that layers of this window will see."""

    def layer(self, index: int) -> LayerCache:
        """The cache of one layer's self-attention."""

    def source(self, index: int) -> LayerCache:
        """The cache of one layer's cross-attention."""


class NoCache:
    """Training and encoding: compute them, keep nothing."""

    longest = 0

    def past(self, tokens: Tensor) -> Int[Tensor, " B"]:
        return torch.zeros(tokens.size(0), dtype=torch.long, device=tokens.device)

    def admit(self, sites: Sites, window: int | None) -> Sites:
        return sites

    def layer(self, index: int) -> LayerCache:
        return self

    def source(self, index: int) -> LayerCache:
        return self

    def keys_values(self, project: Project) -> tuple[Heads, Heads]:
        return project()


NO_CACHE = NoCache()


class SourceCache:
    """Cross-attention: one layer's view of the source, projected once and read at every step."""

    def __init__(self, keys: Heads, values: Heads) -> None:
        self.keys, self.values = keys, values

    def keys_values(self, project: Project) -> tuple[Heads, Heads]:
        return self.keys, self.values

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Keeps these rows, in this order."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class Ledger:
    """Which position stands in which slot, for all the layers that look equally far.

    Without a window the slots fill up with the text. With one they are a ring of that many slots, in which position p
    takes the place of position p - window. One slot more, at the end, swallows what is not to be kept: padding, and
    what a long chunk would push through the ring at once.
    """

    def __init__(self, batch: int, capacity: int, window: int | None, device: torch.device) -> None:
        self.window = window
        self.slots = capacity if window is None else min(window, capacity)
        self.positions = torch.zeros(batch, self.slots + 1, dtype=torch.long, device=device)
        self.segments = torch.full_like(self.positions, PADDING)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.longest = 0  # an upper bound of the lengths that asks nothing of the device
        self.even = True  # every row equally long, so that no slot in use is empty
        self.fresh: Int[Tensor, "B T"] = self.positions[:, :0]  # the slots of the newest positions
        self.before = 0  # slots in use before them

    def admit(self, sites: Sites) -> Sites:
        """Takes in new sites (B, T); returns those of all keys (B, S), in the order of :meth:`Drawer.keys_values`.

        Raises:
            ValueError: for more than there is room for; the ledger is then as it was.
        """
        longest = self.longest + sites.positions.size(1)
        is_ring = self.window is not None and self.window <= self.slots
        if longest > self.slots and not is_ring:
            raise ValueError(f"this cache has room for {self.slots} positions and was given {longest}")
        self.before, self.longest = min(self.longest, self.slots), longest
        segments = torch.zeros_like(sites.positions) if sites.segments is None else sites.segments
        real = segments != PADDING
        place = self.lengths[:, None] + real.cumsum(1) - 1
        self.lengths = self.lengths + real.sum(1)
        kept = real & (place >= self.lengths[:, None] - self.slots)
        self.fresh = torch.where(kept, place % self.slots, self.slots)
        self.even = self.even and sites.segments is None
        keys = Sites(self.file(self.positions, sites.positions), self.file(self.segments, segments))
        self.segments[:, self.slots] = PADDING
        return Sites(keys.positions) if self.even else keys

    def file(self, slots: Tensor, new: Tensor) -> Tensor:
        """Puts ``new`` (B, T, ...) into its slots (B, slots + 1, ...); returns all that the new queries may need.

        A chunk also sees what it pushes out of a ring: its first query still looks that far back.
        """
        through = self.window is not None and new.size(1) > 1
        everything = torch.cat([slots[:, : self.before], new], dim=1) if through else None
        index = self.fresh if new.dim() == 2 else self.fresh[:, :, None, None].expand_as(new)
        slots.scatter_(1, index, new)
        return slots[:, : self.used] if everything is None else everything

    @property
    def used(self) -> int:
        """How many slots are in use in the longest row."""
        return min(self.longest, self.slots)

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Keeps these rows, in this order."""
        self.positions, self.segments, self.lengths = self.positions[rows], self.segments[rows], self.lengths[rows]

    def check_crop(self, length: int) -> None:
        """Raises :class:`ValueError` for a ring that has already overwritten what would come back into view."""
        if self.window is not None and self.longest > self.slots:
            raise ValueError(f"a ring of {self.slots} slots has overwritten what a crop to {length} would need")

    def crop(self, length: int) -> None:
        """Forgets everything from position ``length`` of each row on; raises as :meth:`check_crop`."""
        self.check_crop(length)
        self.lengths = self.lengths.clamp(max=length)
        self.longest = min(self.longest, length)
        slots = torch.arange(self.slots + 1, device=self.lengths.device)
        self.segments.masked_fill_(slots >= self.lengths[:, None], PADDING)


class Drawer:
    """The keys and values of one layer, in the slots its ledger assigns."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def keys_values(self, project: Project) -> tuple[Heads, Heads]:
        """Files the new keys and values; returns all that the new queries may need."""
        k, v = (x.transpose(1, 2) for x in project())  # (B, T, G, K), the order of the ledger
        if self.keys is None or self.values is None:
            self.keys, self.values = self._empty(k), self._empty(v)
        return self.ledger.file(self.keys, k).transpose(1, 2), self.ledger.file(self.values, v).transpose(1, 2)

    def _empty(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.size(0), self.ledger.slots + 1, x.size(2), x.size(3))

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Keeps these rows, in this order."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


class KVCache:
    """The memory of a stack while it writes: one drawer per layer, one ledger per window.

    Args:
        windows: how far each layer looks; ``None`` is everywhere.
        batch: rows.
        capacity: positions a row may have in all.
        sources: what each layer remembers of the source, in a decoder that reads one.
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        batch: int,
        capacity: int,
        device: torch.device,
        sources: Sequence[SourceCache] = (),
    ) -> None:
        self.capacity, self.sources = capacity, list(sources)
        self.ledgers = {window: Ledger(batch, capacity, window, device) for window in windows}
        self.drawers = [Drawer(self.ledgers[window]) for window in windows]

    @property
    def longest(self) -> int:
        return next(iter(self.ledgers.values())).longest

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """How many positions each row holds."""
        return next(iter(self.ledgers.values())).lengths

    def past(self, tokens: Tensor) -> Int[Tensor, " B"]:
        return self.lengths

    def admit(self, sites: Sites, window: int | None) -> Sites:
        return self.ledgers[window].admit(sites)

    def layer(self, index: int) -> LayerCache:
        return self.drawers[index]

    def source(self, index: int) -> LayerCache:
        return self.sources[index] if self.sources else NO_CACHE

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Keeps these rows, in this order, as beam search does at every step."""
        parts: list[Ledger | Drawer | SourceCache] = [*self.ledgers.values(), *self.drawers, *self.sources]
        for part in parts:
            part.select(rows)

    def crop(self, length: int) -> None:
        """Forgets everything from position ``length`` of each row on, as after a rejected guess.

        Raises:
            ValueError: where a ring cannot; nothing is then forgotten.
        """
        for ledger in self.ledgers.values():
            ledger.check_crop(length)
        for ledger in self.ledgers.values():
            ledger.crop(length)
