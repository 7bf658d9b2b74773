"""One more token for every row in fixed shapes: what a GPU is told once, and does again and again.

A step of a small model is hundreds of kernels of some microseconds each, and Python cannot ask for them as fast as a
GPU does them. A CUDA graph asks for all at once; but it does what was recorded, on the same memory, and nothing else.
So a fixed step finds its tokens and their places in two buffers, and looks at all the room that a memory has, behind a
mask. Its plain twin is :meth:`pellucid.inference.engine.engine.Engine.extend`.

Shapes: P rows that there is room for, C slots of room, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.inference.engine.looking import Reading, attend, attentions, masks_of
from pellucid.inference.engine.memory import Memory

if TYPE_CHECKING:
    from pellucid.inference.engine.engine import Engine

Replay = Callable[[], Tensor]
"""Does a fixed step; the scores of what follows."""


class FixedStep:
    """A step of a memory's rows, as its room is now.

    Rows that nobody is in are fed as well, and nobody looks at what follows there.

    Args:
        memory: whose rows have been prefilled. What nothing was written to becomes zero, as it is looked at.
    """

    def __init__(self, engine: Engine, memory: Memory) -> None:
        first = memory.keys[0]
        assert first is not None  # prefilled
        self.engine, self.first, self.source = engine, first, memory.source
        count, used = len(memory.lengths), max(memory.lengths)
        rows = first.size(0) if memory.source is None else count  # a source has no room to spare
        self.rooms = []
        for keys, values in zip(memory.keys, memory.values, strict=True):
            assert keys is not None
            assert values is not None
            for room in (keys, values):
                room[:, :, used:], room[count:] = 0, 0
            self.rooms.append((keys[:rows], values[:rows]))
        device = engine.device
        self.tokens, self.places = (torch.zeros(rows, 1, dtype=torch.long, device=device) for _ in range(2))
        self.rows = torch.arange(rows, device=device)[:, None]
        self.slots = torch.arange(first.size(2), device=device).expand(rows, -1)
        self.read = None  # holds the source alone: who holds the memory keeps it from ending
        if memory.source is not None:
            self.read = Reading(engine.sites, Memory(0, rows, memory.source), rows)

    def fits(self, memory: Memory) -> bool:
        """Whether a memory has the same room as then, and some of it left."""
        counts = self.source is None or len(memory.lengths) == len(self.rows)
        same = memory.keys[0] is self.first and memory.source is self.source
        return same and counts and max(memory.lengths) < self.slots.size(1)

    def set(self, tokens: Int[Tensor, "R 1"], memory: Memory) -> None:
        """What the next step feeds, to as many rows as there are."""
        count = tokens.size(0)
        self.tokens[:count] = tokens
        self.places.zero_()
        self.places[:count] = memory.places(1, self.places.device).slots

    def __call__(self) -> Float[Tensor, "P V"]:
        """The scores of what follows, by what stands in the buffers now."""
        tower = self.engine.tower
        masks, sites = masks_of(tower, self.places, self.slots, None, all_seen=False), attentions(tower)

        def look(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.rooms[layer]
            keys[self.rows, :, self.places], values[self.rows, :, self.places] = k[:, None], v[:, None]
            site, mask = sites[layer], masks[tower.windows[layer]]
            return attend(q[:, :, None], keys, values, mask, site.scale, site.softcap)

        states = self.engine.layers(self.tokens.flatten(), self.places.flatten(), look, self.read)
        return self.engine.head(states)


class Recorder:
    """Takes steps in fixed shapes for as long as a memory's room stays as it is.

    Args:
        record: makes a step that can be done again: :func:`recorded` on a GPU.
    """

    AFTER = 4  # steps in the same room; before that, recording takes longer than it gains

    def __init__(self, engine: Engine, record: Callable[[FixedStep], Replay]) -> None:
        self.engine, self.record = engine, record
        self.known: WeakKeyDictionary[Memory, tuple[FixedStep, Replay]] = WeakKeyDictionary()
        self.waiting: WeakKeyDictionary[Memory, tuple[Tensor | None, int]] = WeakKeyDictionary()

    def __call__(self, tokens: Int[Tensor, "R 1"], memory: Memory) -> Float[Tensor, "R V"] | None:
        """Feeds a token to every row; ``None`` where nothing was done, because a step has not been recorded."""
        step, replay = self.known.get(memory, (None, None))
        if step is None or replay is None or not step.fits(memory):
            self.known.pop(memory, None)
            if not self._is_time(memory):
                return None
            step = FixedStep(self.engine, memory)
            if not step.fits(memory):
                return None
            step.set(tokens, memory)
            try:
                replay = self.record(step)
            except RuntimeError as error:
                warnings.warn(f"a step could not be recorded: {error}; each kernel is asked for", stacklevel=3)
                self.engine.recorder = None
                return None
            self.known[memory] = step, replay
        step.set(tokens, memory)
        scores = replay()[: tokens.size(0)].clone()  # the next step writes over them
        memory.lengths = [length + 1 for length in memory.lengths]
        return scores

    def _is_time(self, memory: Memory) -> bool:
        room, steps = self.waiting.get(memory, (None, 0))
        steps = steps + 1 if room is memory.keys[0] else 0
        self.waiting[memory] = memory.keys[0], steps
        return steps >= self.AFTER


def recorded(step: FixedStep) -> Replay:
    """A step as a CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # kernels are chosen and memory is found before anything is recorded
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        scores = step()

    def replay() -> Tensor:
        graph.replay()
        return scores

    return replay
