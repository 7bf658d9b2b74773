"""Beams that the engine carries on: what is remembered is never moved.

Beams of a text are queries of one row, side by side; each looks at those slots that its own history went through. So
the source is read once for all of them, and going on from another beam changes a mask and no keys. The plain twin
selects rows: :func:`pellucid.inference.writer.selecting`.

Shapes: R rows, W beams, S slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.inference.engine.looking import masks_of
from pellucid.inference.engine.memory import Memory
from pellucid.inference.writer import LEAVING

if TYPE_CHECKING:
    from pellucid.inference.engine.engine import Engine


class Carried:
    """Beginnings of every row, carried on side by side.

    Args:
        memory: rows that have been prefilled.
        width: how many beginnings each row will have.
    """

    def __init__(self, engine: Engine, memory: Memory, width: int) -> None:
        self.engine, self.memory, self.width = engine, memory, width
        lengths = torch.tensor(memory.lengths, device=engine.device)
        slots = torch.arange(max(memory.lengths), device=engine.device)
        self.positions = slots.expand(len(memory.lengths), -1)  # of what stands in each slot
        self.seen: Bool[Tensor, "R W S"] = (slots < lengths[:, None])[:, None].expand(-1, width, -1)
        self.next = lengths  # the position of what is written next
        self.live = list(range(len(memory.lengths)))  # the rows that are not over
        self.beams = 1  # how many each row has so far: its prompt

    def go(self, rows: Int[Tensor, " Q"], tokens: Int[Tensor, " Q"]) -> Float[Tensor, "Q V"]:
        """Goes on from some beams, each by a token; the scores of what follows.

        Args:
            rows: W of each text that goes on, one text behind the other, as numbered by the last call.
        """
        stay = (rows[:: self.width] // self.beams).tolist()
        self.live = [self.live[place] for place in stay]
        if len(self.live) <= (1 - LEAVING) * len(self.memory.lengths):
            self._select(self.live)
        origins = rows.new_zeros(len(self.memory.lengths), self.width)
        added, live = torch.zeros_like(origins), torch.tensor(self.live, device=rows.device)
        origins[live] = (rows % self.beams).view(-1, self.width)
        added[live] = tokens.view(-1, self.width)
        self.beams = self.width
        states = self._feed(origins, added).view(len(origins), self.width, -1)
        return self.engine.head((states if len(live) == len(states) else states[live]).flatten(0, 1))

    def _feed(self, origins: Int[Tensor, "R W"], tokens: Int[Tensor, "R W"]) -> Float[Tensor, "RW D"]:
        engine, memory, device = self.engine, self.memory, self.engine.device
        rows, width = tokens.shape
        places, before = memory.places(width, device), self.seen.size(2)
        seen = self.seen.new_zeros(rows, width, places.used)
        seen[:, :, :before] = self.seen.gather(1, origins[:, :, None].expand(-1, -1, before))
        self.seen = seen.scatter_(2, places.slots[:, :, None], True)
        at = self.next[:, None].expand(-1, width)
        positions = self.positions.new_zeros(rows, places.used)
        positions[:, :before] = self.positions
        self.positions = positions.scatter_(1, places.slots, at)
        masks = masks_of(engine.tower, at, self.positions, self.seen, all_seen=False)
        states = engine.run(tokens, at, memory, masks, places)
        memory.lengths = [length + width for length in memory.lengths]
        self.next = self.next + 1
        return states

    def _select(self, rows: Sequence[int]) -> None:
        self.memory.select(rows)
        index, used = torch.tensor(rows, device=self.engine.device), max(self.memory.lengths)
        self.seen, self.positions = self.seen[index, :, :used], self.positions[index, :used]
        self.next, self.live = self.next[index], list(range(len(rows)))
