"""The logit lens as people read it: the likeliest tokens of every state, and how likely one token is in each.

nostalgebraist 2020, "interpreting GPT: the logit lens".

Shapes: N states, T positions, D d_model, V vocabulary, K best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.analysis.residual import logit_lens
from pellucid.errors import UserError

CHUNK = 1 << 24  # scores at a time


@dataclass(frozen=True, eq=False)
class Glimpse:
    """What each state would answer.

    Attributes:
        ids: the likeliest tokens, the likeliest first, with their ``logits`` and ``probabilities``.
        entropy: of the whole distribution, in nats.
        chosen: the probability of the token asked about, and its ``rank`` from 1.
    """

    ids: Int[Tensor, "N T K"]
    logits: Float[Tensor, "N T K"]
    probabilities: Float[Tensor, "N T K"]
    entropy: Float[Tensor, "N T"]
    chosen: Float[Tensor, "N T"]
    rank: Int[Tensor, "N T"]


@torch.no_grad()
def glimpse(model: nn.Module, states: Float[Tensor, "N T D"], tokens: Int[Tensor, " T"], *, top: int) -> Glimpse:
    """Reads every state through the model's last norm and head.

    Args:
        tokens: one at each position whose probability is followed.
        top: K, how many of the likeliest tokens.

    Raises:
        UserError: for a model without a language head, or a token outside the vocabulary.
    """
    size = logit_lens(model, states[0, :1]).size(-1)
    if not bool(((tokens >= 0) & (tokens < size)).all()):
        raise UserError("token", f"found {tokens.tolist()[:5]}", f"0 to {size - 1}")
    step = max(1, CHUNK // size)
    rows, wanted = states.flatten(0, 1), tokens.to(states.device).repeat(len(states))
    chunks = [
        _read(logit_lens(model, rows[i : i + step]), wanted[i : i + step], top) for i in range(0, len(rows), step)
    ]
    parts = (torch.cat(column) for column in zip(*chunks, strict=True))
    return Glimpse(*(part.view(*states.shape[:2], *part.shape[1:]) for part in parts))


def _read(logits: Float[Tensor, "R V"], tokens: Int[Tensor, " R"], top: int) -> tuple[Tensor, ...]:
    logits = logits.float()
    logs, own = logits.log_softmax(-1), logits.gather(-1, tokens[:, None])
    best, ids = logits.topk(min(top, logits.size(-1)))
    entropy, chosen = torch.special.entr(logs.exp()).sum(-1), logs.gather(-1, tokens[:, None])[:, 0].exp()
    return ids, best, logs.gather(-1, ids).exp(), entropy, chosen, (logits > own).sum(-1) + 1
