"""Attention in blocks of queries, with its backward pass written out: the fastest way to train on a CPU.

Three savings over letting autograd follow ``kernels.explicit``: under the causal triangle a block of queries is
multiplied only with the keys it may see; the softmax weights are the only thing kept for the backward pass; scale and
mask go into the products. Figures: benchmarks/results/kernels.md.

Shapes: N rows times heads, T queries, S keys, K head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128  # queries at a time: smaller blocks skip more of the triangle, larger ones multiply faster


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
        shape = q.shape
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        context = torch.empty_like(q)
        kept = []
        for start, end, seen in _blocks(shape[2], k.size(1), triangle):
            scores = _product(q[:, start:end], k[:, :seen].mT, scale)
            weights = _weights(scores.view(*shape[:2], end - start, seen), start, additive, blind, triangle)
            kept.append(weights.view_as(scores))
            context[:, start:end] = torch.bmm(kept[-1], v[:, :seen])
        ctx.save_for_backward(q, k, v, *kept)
        ctx.shape, ctx.triangle, ctx.scale = shape, triangle, scale
        return context.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        gradient = gradient.reshape(q.shape)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end, seen), weights in zip(_blocks(q.size(1), k.size(1), ctx.triangle), kept, strict=True):
            above = gradient[:, start:end]
            dv[:, :seen] += torch.bmm(weights.mT, above)
            dweights = torch.bmm(above, v[:, :seen].mT)
            # A softmax: dscores = weights · (dweights - Σ weights · dweights).
            dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dq[:, start:end] = _product(dscores, k[:, :seen], ctx.scale)
            dk[:, :seen] += _product(dscores.mT, q[:, start:end], ctx.scale)
        B, H = ctx.shape[:2]
        return *(x.view(B, H, *x.shape[1:]) for x in (dq, dk, dv)), None, None, None, None


def _weights(scores: Tensor, start: int, additive: Tensor | None, blind: Tensor | None, triangle: bool) -> Tensor:
    """The softmax of one block of scores (B, H, t, S), which are used up."""
    end = start + scores.size(2)
    if triangle:
        scores[..., start:] += _future(end - start, scores)
    elif additive is not None:
        scores += additive[..., start:end, :]
    weights = torch.softmax(scores, dim=-1)
    return weights if blind is None else weights.masked_fill_(blind[:, :, start:end], 0.0)  # a row of -inf is NaN


def _blocks(queries: int, keys: int, triangle: bool) -> Iterator[tuple[int, int, int]]:
    """First query, query after the last, and how many keys they see."""
    for start in range(0, queries, BLOCK):
        end = min(start + BLOCK, queries)
        yield start, end, end if triangle else keys


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _future(length: int, like: Tensor) -> Tensor:
    """(length, length): -inf above the diagonal."""
    return torch.full((length, length), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)
