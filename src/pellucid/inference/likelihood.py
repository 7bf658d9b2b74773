"""How likely tokens were where they stand. Shapes: N places, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.inference.rules import check


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The log-probability of a token, before any rule, and of the likeliest in its place, the likeliest first."""

    token: int
    logprob: float
    best: tuple[tuple[int, float], ...] = ()


AT_ONCE = 256
"""Places whose scores of a whole vocabulary are held at a time: some 150 MB of 150,000 tokens."""


def likelihoods(logits: Float[Tensor, "N V"], tokens: Sequence[int], top: int) -> list[Likelihood]:
    """Of each token by the scores of its place, with the ``top`` likeliest."""
    check(top >= 0, "likeliest tokens", top, "0 or more")
    table = logits.float().log_softmax(dim=-1)
    own = table.gather(1, torch.tensor(list(tokens), device=table.device)[:, None])[:, 0].tolist()
    best = table.topk(min(top, table.size(-1)), dim=-1)
    rows = zip(tokens, own, best.indices.tolist(), best.values.tolist(), strict=True)
    return [Likelihood(token, value, tuple(zip(ids, found, strict=True))) for token, value, ids, found in rows]
