"""Beam search on the engine: what is remembered is never moved.

Beams of a text are queries of one row, side by side; each looks at those slots that its own history went through. So
the source is read once for all of them, and going on from another beam changes a mask and no keys. Texts that are
settled leave the batch. Its plain twin is :func:`pellucid.inference.beam.beam_search`.

Shapes: R rows, W beams, C candidates, S slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.inference.beam import Hypothesis, LengthPenalty
from pellucid.inference.engine.head import likeliest
from pellucid.inference.engine.looking import masks_of
from pellucid.inference.engine.memory import Memory
from pellucid.inference.writer import Ids

if TYPE_CHECKING:
    from pellucid.inference.engine.engine import Engine


class Beams:
    """Beginnings of every row, carried on side by side."""

    def __init__(self, engine: Engine, memory: Memory, beams: int) -> None:
        self.engine, self.memory, self.beams = engine, memory, beams
        lengths = torch.tensor(memory.lengths, device=engine.device)
        slots = torch.arange(max(memory.lengths), device=engine.device)
        self.positions = slots.expand(len(memory.lengths), -1)  # of what stands in each slot
        self.seen: Bool[Tensor, "R W S"] = (slots < lengths[:, None])[:, None].expand(-1, beams, -1)
        self.next = lengths  # the position of what is written next

    def go(self, origins: Int[Tensor, "R W"], tokens: Int[Tensor, "R W"]) -> Float[Tensor, "RW V"]:
        """Feeds each beam its token, gone on from one of the beams before; the scores of what follows."""
        engine, memory, device = self.engine, self.memory, self.engine.device
        rows, beams = tokens.shape
        places = memory.places(beams, device)
        used = max(memory.lengths) + beams
        seen = self.seen.new_zeros(rows, beams, used)
        seen[:, :, : self.seen.size(2)] = self.seen.gather(1, origins[:, :, None].expand(-1, -1, self.seen.size(2)))
        self.seen = seen.scatter_(2, places[:, :, None], True)
        at = self.next[:, None].expand(-1, beams)
        positions = self.positions.new_zeros(rows, used)
        positions[:, : self.positions.size(1)] = self.positions
        self.positions = positions.scatter_(1, places, at)
        masks = masks_of(engine.tower, at, self.positions, self.seen, all_seen=False)
        states = engine.run(tokens, at, memory, masks, places)
        memory.lengths = [length + beams for length in memory.lengths]
        self.next = self.next + 1
        return engine.head(states)

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows."""
        self.memory.select(rows)
        index = torch.tensor(rows, device=self.engine.device)
        used = max(self.memory.lengths)
        self.seen, self.positions = self.seen[index, :, :used], self.positions[index, :used]
        self.next = self.next[index]


@dataclass(frozen=True)
class Search:
    """One search; its fields are arguments of :meth:`Engine.beam_search`."""

    beams: int
    ends: tuple[int, ...]
    penalty: LengthPenalty
    written: int

    def run(self, engine: Engine, prompts: Ids, sources: Sequence[Any] | None, room: int) -> list[list[Hypothesis]]:
        """The best texts of each row, best first."""
        logits, memory = engine.prefill(prompts, sources)
        carried, finished = Beams(engine, memory, self.beams), [list[Hypothesis]() for _ in prompts]
        totals = torch.zeros(len(prompts), 1, device=logits.device)
        texts = torch.zeros(len(prompts), 1, 0, dtype=torch.long, device=logits.device)
        here = list(range(len(prompts)))
        kindest = max(self.divisor(length) for length in (1, room))
        for length in range(1, room + 1):
            values, origins, tokens = self.candidates(totals, logits)
            ends = torch.isin(tokens, torch.tensor(self.ends, dtype=torch.long, device=tokens.device))
            self.file(finished, here, texts, values, origins, ends)
            going_on, places = values.masked_fill(ends, -torch.inf).topk(self.beams, dim=1)
            totals, origins, tokens = going_on, origins.gather(1, places), tokens.gather(1, places)
            texts = torch.cat([_of(texts, origins), tokens[:, :, None]], dim=2)
            settled = [self.settled(finished[row], hope, kindest) for row, hope in zip(here, totals[:, 0], strict=True)]
            if length == room or all(settled):
                break
            stay = [place for place, done in enumerate(settled) if not done]
            if len(stay) <= (1 - engine.leaving) * len(here):
                carried.select(stay)
                here = [here[place] for place in stay]
                totals, texts, origins, tokens = totals[stay], texts[stay], origins[stay], tokens[stay]
            logits = carried.go(origins, tokens)
        for place, row in enumerate(here):
            if texts.size(2) == room or len(finished[row]) < self.beams:
                finished[row].extend(self.unfinished(texts[place], totals[place]))
        return [sorted(best, key=lambda h: -h.score)[: self.beams] for best in finished]

    def divisor(self, length: int) -> float:
        """What the log-probability of so many new tokens is divided by."""
        return self.penalty(length + self.written)

    def candidates(
        self, totals: Float[Tensor, "R W"], logits: Float[Tensor, "RW V"]
    ) -> tuple[Float[Tensor, "R C"], Int[Tensor, "R C"], Int[Tensor, "R C"]]:
        """The likeliest continuations of each row, best first: totals, beams that they go on from, tokens.

        As many as there are when each beam ends in every way it can, and each comes among the likeliest of its beam.
        """
        rows = totals.size(0)
        count = min(max(2, 1 + len(self.ends)) * self.beams, logits.size(1))
        tokens = likeliest(logits, count)
        scores = logits.gather(1, tokens) - logits.logsumexp(dim=1, keepdim=True)
        together = (totals.flatten()[:, None] + scores).view(rows, -1)
        values, places = together.topk(min(count, together.size(1)), dim=1)
        return values, places // count, tokens.view(rows, -1).gather(1, places)

    def file(
        self,
        finished: list[list[Hypothesis]],
        here: Sequence[int],
        texts: Int[Tensor, "R W L"],
        values: Float[Tensor, "R C"],
        origins: Int[Tensor, "R C"],
        ends: Bool[Tensor, "R C"],
    ) -> None:
        """Files the texts that end among the best W candidates."""
        divisor = self.divisor(texts.size(2) + 1)
        for place, candidate in (ends[:, : self.beams] & values[:, : self.beams].isfinite()).nonzero().tolist():
            text = tuple(texts[place, origins[place, candidate]].tolist())
            row = here[place]
            best = [*finished[row], Hypothesis(text, values[place, candidate].item() / divisor)]
            finished[row] = sorted(best, key=lambda h: -h.score)[: self.beams]

    def settled(self, best: Sequence[Hypothesis], hope: Tensor, kindest: float) -> bool:
        """Whether no beginning can still displace a finished text."""
        return len(best) == self.beams and best[-1].score >= hope.item() / kindest

    def unfinished(self, texts: Int[Tensor, "W L"], totals: Float[Tensor, " W"]) -> list[Hypothesis]:
        """The beginnings of a row as they stand."""
        divisor = self.divisor(texts.size(1))
        pairs = zip(texts.tolist(), totals.tolist(), strict=True)
        return [Hypothesis(tuple(text), total / divisor) for text, total in pairs if total > -torch.inf]


def _of(texts: Int[Tensor, "R V L"], origins: Int[Tensor, "R W"]) -> Int[Tensor, "R W L"]:
    return texts.gather(1, origins[:, :, None].expand(-1, -1, texts.size(2)))
