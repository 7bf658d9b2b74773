"""Beam search: the best few beginnings are carried on side by side.

Shapes: B rows, W beams, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.inference.decode import Prompt, State, WritingModel, prefill, room, step


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: its tokens without the end, and its log-probability over its length penalty."""

    tokens: tuple[int, ...]
    score: float


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14); the length counts the end-of-sequence token."""
    return float(((5 + length) / 6) ** alpha)


def beam_search(
    model: WritingModel, prompt: Prompt, *, beams: int, max_new_tokens: int, eos: int, alpha: float = 0.6
) -> list[list[Hypothesis]]:
    """The best ``beams`` texts of each row, best first.

    A row ends when no beginning could still beat its worst finished text, or at ``max_new_tokens``, where what is
    unfinished competes as it stands.
    """
    max_new_tokens = room(model, prompt, max_new_tokens)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _search(model, prompt, beams, max_new_tokens, eos, alpha)
    finally:
        model.mark_step(None)
        model.train(was_training)


def _search(
    model: WritingModel, prompt: Prompt, beams: int, max_new_tokens: int, eos: int, alpha: float
) -> list[list[Hypothesis]]:
    logits, state = prefill(model, prompt, max_new_tokens)
    batch, device = logits.size(0), logits.device
    finished: list[list[Hypothesis]] = [[] for _ in range(batch)]
    # The first step has one beginning per row; the other beams start out impossible.
    totals = torch.full((batch, beams), -torch.inf, device=device)
    totals[:, 0] = 0.0
    _spread(state, batch, beams)
    logits = logits.repeat_interleave(beams, dim=0)
    texts = torch.zeros(batch * beams, 0, dtype=torch.long, device=device)
    kindest = max(length_penalty(length, alpha) for length in (1, max_new_tokens))
    for length in range(1, max_new_tokens + 1):
        totals, origin, tokens = _extend(totals, logits, eos, finished, texts, length, alpha)
        texts = torch.cat([texts[origin], tokens[:, None]], dim=1)
        if length == max_new_tokens or _settled(finished, totals, beams, kindest):
            break
        state.select(origin)
        logits = step(state, tokens)
    for row, best in enumerate(finished):
        if len(best) < beams:
            best.extend(_unfinished(texts, totals, row, beams, alpha))
    return [sorted(best, key=lambda h: -h.score)[:beams] for best in finished]


def _spread(state: State, batch: int, beams: int) -> None:
    rows = torch.arange(batch, device=state.cache.lengths.device)
    state.select(rows.repeat_interleave(beams))


def _extend(
    totals: Float[Tensor, "B W"],
    logits: Float[Tensor, "R V"],
    eos: int,
    finished: list[list[Hypothesis]],
    texts: Int[Tensor, "R L"],
    length: int,
    alpha: float,
) -> tuple[Float[Tensor, "B W"], Int[Tensor, " R"], Int[Tensor, " R"]]:
    """One more token for every row: files texts that end, returns the best beginnings that go on.

    Twice as many candidates as beams are looked at, since at most ``beams`` of them can end.
    """
    batch, beams = totals.shape
    vocabulary = logits.size(-1)
    everything = totals[:, :, None] + logits.float().log_softmax(dim=-1).view(batch, beams, vocabulary)
    values, indices = everything.flatten(1).topk(min(2 * beams, beams * vocabulary), dim=1)
    origins, tokens = indices // vocabulary, indices % vocabulary
    origins = origins + torch.arange(batch, device=totals.device)[:, None] * beams
    ends = tokens == eos
    for row, place in ends.nonzero().tolist():
        # As in a search that takes the best W candidates: an end ranked below them does not count.
        if place < beams and values[row, place] > -torch.inf:
            text = tuple(texts[origins[row, place]].tolist())
            score = values[row, place].item() / length_penalty(length, alpha)
            finished[row] = sorted([*finished[row], Hypothesis(text, score)], key=lambda h: -h.score)[:beams]
    values = values.masked_fill(ends, -torch.inf)
    best = values.topk(beams, dim=1).indices
    return values.gather(1, best), origins.gather(1, best).flatten(), tokens.gather(1, best).flatten()


def _settled(finished: list[list[Hypothesis]], totals: Float[Tensor, "B W"], beams: int, kindest: float) -> bool:
    """Whether no beginning can still displace a finished text.

    A log-probability only falls as a text goes on; what it can hope for is its present one over the kindest penalty.
    """
    hopes = totals.amax(dim=1).tolist()
    pairs = zip(finished, hopes, strict=True)
    return all(len(best) == beams and best[-1].score >= hope / kindest for best, hope in pairs)


def _unfinished(
    texts: Int[Tensor, "R L"], totals: Float[Tensor, "B W"], row: int, beams: int, alpha: float
) -> list[Hypothesis]:
    length = texts.size(1)
    return [
        Hypothesis(tuple(texts[row * beams + beam].tolist()), total / length_penalty(length, alpha))
        for beam, total in enumerate(totals[row].tolist())
        if total > -torch.inf
    ]
