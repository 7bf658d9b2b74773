"""Attention in blocks of queries, with its backward pass written out: the fastest way to train on a CPU.

Three savings over letting autograd follow ``kernels.explicit``: under the causal triangle a block of queries is
multiplied only with the keys it may see; the softmax weights are the only thing kept for the backward pass; scale and
mask go into the products. Short rows of keys are filled up to whole vectors of the processor, since a softmax of 15 is
four times as slow as one of 16. Figures: benchmarks/results/kernels.md.

Shapes: N rows times heads, T queries, S keys, K head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128  # queries at a time: smaller blocks skip more of the triangle, larger ones multiply faster
VECTOR = 16  # float32 numbers in the widest vector of today's processors


class BlockedAttention(torch.autograd.Function):
    """softmax(q kᵀ · scale + additive) v for q (B, H, T, K) and k, v (B, H, S, K).

    Args:
        additive: what is added to the scores, -inf where nobody may look, of a shape that broadcasts to (B, H, T, S);
            ``None`` for the causal triangle, T being S, or for nothing at all.
        blind: (B, 1, T, 1), the queries that see nothing and whose context is zero; ``None`` for no such query.
        triangle: the future is hidden.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        additive: Tensor | None,
        blind: Tensor | None,
        triangle: bool,
        scale: float,
    ) -> Tensor:
        shape, keys = q.shape, k.size(2)
        k, v, additive = _filled(k, v, additive, triangle)
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        contexts, kept = [], []
        for start, end, seen in _blocks(shape[2], k.size(1), triangle):
            scores = _product(q[:, start:end], k[:, :seen].mT, scale)
            weights = _weights(scores.view(*shape[:2], end - start, seen), start, additive, blind, triangle)
            kept.append(weights.view_as(scores))
            contexts.append(torch.bmm(kept[-1], v[:, :seen]))
        ctx.save_for_backward(q, k, v, *kept)
        ctx.shape, ctx.keys, ctx.triangle, ctx.scale = shape, keys, triangle, scale
        return _one(contexts).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        gradient = gradient.reshape(q.shape)
        dqs, dk, dv = [], None, None
        blocks = [*_blocks(q.size(1), k.size(1), ctx.triangle)]
        for (start, end, seen), weights in zip(reversed(blocks), reversed(kept), strict=True):
            above = gradient[:, start:end]
            dv = _into(dv, torch.bmm(weights.mT, above))
            dweights = torch.bmm(above, v[:, :seen].mT)
            dscores = _softmax_backward(dweights, weights)
            dqs.append(_product(dscores, k[:, :seen], ctx.scale))
            dk = _into(dk, _product(dscores.mT, q[:, start:end], ctx.scale))
        assert dk is not None
        assert dv is not None  # there is a block
        dq, dk, dv = _one(dqs[::-1]), dk[:, : ctx.keys], dv[:, : ctx.keys]
        return *(x.view(*ctx.shape[:2], *x.shape[1:]) for x in (dq, dk, dv)), None, None, None, None


def _one(parts: list[Tensor]) -> Tensor:
    """What the blocks of queries gave, one behind the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _into(whole: Tensor | None, part: Tensor) -> Tensor:
    """Adds what a block gives to the keys that it sees; the last block, which comes first here, sees them all."""
    if whole is None:
        return part
    whole[:, : part.size(1)] += part
    return whole


def _filled(k: Tensor, v: Tensor, additive: Tensor | None, triangle: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Few keys made up to whole vectors with keys that nobody sees."""
    keys = k.size(2)
    missing = -keys % VECTOR if keys < 4 * VECTOR else 0
    if not missing:
        return k, v, additive
    k, v = (F.pad(x, (0, 0, 0, missing)) for x in (k, v))
    if triangle:  # hides what comes after its last row anyway
        return k, v, additive
    additive = k.new_zeros(1, 1, 1, keys) if additive is None else additive
    return k, v, F.pad(additive, (0, missing), value=-torch.inf)


def _weights(scores: Tensor, start: int, additive: Tensor | None, blind: Tensor | None, triangle: bool) -> Tensor:
    """The softmax of one block of scores (B, H, t, S), which are used up."""
    end = start + scores.size(2)
    if triangle:
        ahead = scores[..., start:]
        ahead += _future(ahead)
    elif additive is not None:
        scores += additive if additive.size(-2) == 1 else additive[..., start:end, :]  # 1: the same for all queries
    weights = torch.softmax(scores, dim=-1, dtype=_for_softmax(scores)).to(scores.dtype)
    return weights if blind is None else weights.masked_fill_(blind[:, :, start:end], 0.0)  # a row of -inf is NaN


def _softmax_backward(dweights: Tensor, weights: Tensor) -> Tensor:
    """dscores = weights · (dweights - Σ weights · dweights)."""
    dtype = _for_softmax(weights)
    gradient = torch.ops.aten._softmax_backward_data(dweights.to(dtype), weights.to(dtype), -1, dtype)
    return gradient.to(weights.dtype)


def _for_softmax(x: Tensor) -> torch.dtype:
    """What a softmax is taken in: it sums in float32 anyway, but converts rows of less than two vectors slowly."""
    return torch.promote_types(x.dtype, torch.float32) if x.size(-1) < 2 * VECTOR else x.dtype


def _blocks(queries: int, keys: int, triangle: bool) -> Iterator[tuple[int, int, int]]:
    """First query, query after the last, and how many keys they see."""
    for start in range(0, queries, BLOCK):
        end = min(start + BLOCK, queries)
        yield start, end, end if triangle and end < queries else keys


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _future(scores: Tensor) -> Tensor:
    """-inf above the diagonal, for scores (..., t, s) that begin at the diagonal."""
    return torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu_(1)
