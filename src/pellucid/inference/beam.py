"""Beam search: the best few beginnings are carried on side by side.

Shapes: B rows, W beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.inference.decode import Prompt, State, WritingModel, prefill, room, step
from pellucid.inference.sampling import Filter


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: its tokens without the end, and its log-probability over its length penalty."""

    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class Wu:
    """((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14), which the paper uses with 0.6; fairseq and Marian differ."""

    alpha: float = 0.6

    def __call__(self, length: int) -> float:
        """What the log-probability of a text of this length, its end counted, is divided by."""
        return float(((5 + length) / 6) ** self.alpha)


@dataclass(frozen=True)
class Power:
    """length^alpha, as in fairseq, Marian and ``transformers``, where 1 is the mean over the tokens."""

    alpha: float = 1.0

    def __call__(self, length: int) -> float:
        """What the log-probability of a text of this length, its end counted, is divided by."""
        return float(length**self.alpha)


LengthPenalty = Wu | Power
PAPER = Wu(0.6)


Fate = Literal["kept", "finished", "dropped"]


@dataclass(frozen=True)
class Candidate:
    """A text that a step of the search looked at: one of the beginnings, and one token more.

    Attributes:
        beam: of the beginning that it goes on from. token: what is added.
        total: the log-probability of all that was written. score: that over its length penalty.
        fate: it goes on, has ended, or is given up.
        becomes: the beam that it goes on as; ``None`` unless kept.
    """

    beam: int
    token: int
    total: float
    score: float
    fate: Fate
    becomes: int | None = None


Observer = Callable[[int, int, list[Candidate]], None]
"""Hears the row, the length that its texts now have, and the candidates of that step, the likeliest first."""


def beam_search(
    model: WritingModel,
    prompt: Prompt,
    *,
    beams: int,
    max_new_tokens: int,
    ends: Sequence[int],
    penalty: LengthPenalty = PAPER,
    filters: Sequence[Filter] = (),
    written: int = 0,
    observer: Observer | None = None,
) -> list[list[Hypothesis]]:
    """The best ``beams`` texts of each row, best first.

    A row ends when no beginning could still beat its worst finished text, or at ``max_new_tokens``, where what is
    unfinished competes as it stands.

    Args:
        ends: tokens that end a text.
        filters: applied to the log-probabilities of each step.
        written: how many tokens at the end of the prompt count as written, where a first token is forced.
        observer: hears what every step looked at and what became of it.
    """
    max_new_tokens = room(model, prompt, max_new_tokens)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            search = _Search(beams, tuple(ends), penalty, tuple(filters), written, observer)
            return search.run(model, prompt, max_new_tokens)
    finally:
        model.mark_step(None)
        model.train(was_training)


@dataclass(frozen=True)
class _Search:
    """One search; its fields are the arguments of :func:`beam_search`."""

    beams: int
    ends: tuple[int, ...]
    penalty: LengthPenalty
    filters: tuple[Filter, ...]
    written: int
    observer: Observer | None

    def run(self, model: WritingModel, prompt: Prompt, max_new_tokens: int) -> list[list[Hypothesis]]:
        logits, state = prefill(model, prompt, max_new_tokens)
        batch, device, beams = logits.size(0), logits.device, self.beams
        finished: list[list[Hypothesis]] = [[] for _ in range(batch)]
        # The first step has one beginning per row; the other beams start out impossible.
        totals = torch.full((batch, beams), -torch.inf, device=device)
        totals[:, 0] = 0.0
        _spread(state, batch, beams)
        logits = logits.repeat_interleave(beams, dim=0)
        texts = torch.zeros(batch * beams, 0, dtype=torch.long, device=device)
        kindest = max(self.divisor(length) for length in (1, max_new_tokens))
        for length in range(1, max_new_tokens + 1):
            totals, origin, tokens = self.extend(totals, logits, finished, texts)
            texts = torch.cat([texts[origin], tokens[:, None]], dim=1)
            if length == max_new_tokens or self.settled(finished, totals, kindest):
                break
            state.select(origin)
            logits = step(state, tokens)
        for row, best in enumerate(finished):
            if texts.size(1) == max_new_tokens or len(best) < beams:
                best.extend(self.unfinished(texts, totals, row))
        return [sorted(best, key=lambda h: -h.score)[:beams] for best in finished]

    def divisor(self, length: int) -> float:
        """What the log-probability of so many new tokens is divided by."""
        return self.penalty(length + self.written)

    def extend(
        self,
        totals: Float[Tensor, "B W"],
        logits: Float[Tensor, "R V"],
        finished: list[list[Hypothesis]],
        texts: Tensor,
    ) -> tuple[Float[Tensor, "B W"], Int[Tensor, " R"], Int[Tensor, " R"]]:
        """One more token for every row: files texts that end, returns the best beginnings that go on.

        More candidates than beams are looked at, as many as there are when each beam ends in every way it can.
        """
        batch, beams = totals.shape
        scores = logits.float().log_softmax(dim=-1)
        for keep in self.filters:
            scores = keep(scores)
        vocabulary = scores.size(-1)
        everything = totals[:, :, None] + scores.view(batch, beams, vocabulary)
        candidates = max(2, 1 + len(self.ends)) * beams
        values, indices = everything.flatten(1).topk(min(candidates, beams * vocabulary), dim=1)
        origins, tokens = indices // vocabulary, indices % vocabulary
        origins = origins + torch.arange(batch, device=totals.device)[:, None] * beams
        ends = torch.isin(tokens, torch.tensor(self.ends, dtype=torch.long, device=tokens.device))
        divisor = self.divisor(texts.size(1) + 1)
        for row, place in ends.nonzero().tolist():
            # As in a search that takes the best W candidates: an end ranked below them does not count.
            if place < beams and values[row, place] > -torch.inf:
                text = tuple(texts[origins[row, place]].tolist())
                best = [*finished[row], Hypothesis(text, values[row, place].item() / divisor)]
                finished[row] = sorted(best, key=lambda h: -h.score)[:beams]
        going_on = values.masked_fill(ends, -torch.inf)
        best_places = going_on.topk(beams, dim=1).indices
        if self.observer is not None:
            for row in range(batch):
                beam = origins[row] - row * beams
                found = zip(beam.tolist(), tokens[row].tolist(), values[row].tolist(), ends[row].tolist(), strict=True)
                kept = best_places[row].tolist()
                self.observer(row, texts.size(1) + 1, list(_judged(found, kept, beams, divisor)))
        return (
            going_on.gather(1, best_places),
            origins.gather(1, best_places).flatten(),
            tokens.gather(1, best_places).flatten(),
        )

    def settled(self, finished: list[list[Hypothesis]], totals: Float[Tensor, "B W"], kindest: float) -> bool:
        """Whether no beginning can still displace a finished text.

        A log-probability only falls as a text goes on; what it can hope for is its present one over the kindest
        penalty.
        """
        hopes = totals.amax(dim=1).tolist()
        pairs = zip(finished, hopes, strict=True)
        return all(len(best) == self.beams and best[-1].score >= hope / kindest for best, hope in pairs)

    def unfinished(self, texts: Int[Tensor, "R L"], totals: Float[Tensor, "B W"], row: int) -> list[Hypothesis]:
        """The beginnings of a row as they stand."""
        divisor = self.divisor(texts.size(1))
        return [
            Hypothesis(tuple(texts[row * self.beams + beam].tolist()), total / divisor)
            for beam, total in enumerate(totals[row].tolist())
            if total > -torch.inf
        ]


def _judged(
    found: Iterable[tuple[int, int, float, bool]], kept: Sequence[int], beams: int, divisor: float
) -> Iterator[Candidate]:
    """The possible candidates among (beam, token, total, whether it ends), the likeliest first, with their fate."""
    for place, (beam, token, total, over) in enumerate(found):
        if total == -math.inf:
            continue
        becomes = kept.index(place) if place in kept and not over else None
        fate: Fate = "kept" if becomes is not None else "finished" if over and place < beams else "dropped"
        yield Candidate(beam, token, total, total / divisor, fate, becomes)


def _spread(state: State, batch: int, beams: int) -> None:
    rows = torch.arange(batch, device=state.cache.lengths.device)
    state.select(rows.repeat_interleave(beams))
