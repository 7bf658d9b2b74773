"""How attention is computed: one signature, one answer, four ways.

``explicit`` is the specification, and the only one that names what lies in between. The others must agree with it
under every mask, length, group and padding. ``auto`` takes whichever is the fastest.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from pellucid.nn.blocked import BlockedAttention
from pellucid.nn.dropout import dropout as drop
from pellucid.nn.masks import Mask


@runtime_checkable
class Tap(Protocol):
    """Names a tensor, and what it was computed from; returns it, or what an edit made of it."""

    def __call__(self, name: str, tensor: Tensor, /, *operands: object) -> Tensor: ...


@runtime_checkable
class Kernel(Protocol):
    """Softmax attention of queries over keys.

    Args:
        q: (B, H, T, K). k, v: (B, G, S, K), with H a multiple of G.
        mask: who may look where, and what is added to the scores.
        scale: what the products are multiplied by.
        softcap: squashes the scaled products to ±softcap by a tanh, before mask and bias; ``None`` does not.
        dropout: probability of dropping a weight.
        tap: called with ``mask``, ``scores`` and ``weights`` where a kernel computes them, and with ``context``.

    Returns:
        The context (B, H, T, K); zeros for a query that sees nothing.
    """

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask,
        *,
        scale: float,
        softcap: float | None,
        dropout: float,
        tap: Tap,
    ) -> Float[Tensor, "B H T K"]: ...


def explicit(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, dropout: float, tap: Tap
) -> Float[Tensor, "B H T K"]:
    """softmax(q kᵀ · scale) v, one named step at a time (Vaswani et al. 2017, eq. 1)."""
    mask = mask.showing(tap("mask", mask.allowed(), mask))
    scores = q @ _for_each_head(k, q).mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if not mask.hides_nothing() or mask.bias is not None:
        scores = scores + mask.additive(scores.dtype)
    scores = tap("scores", scores, q, k, mask)
    weights = tap("weights", _softmax(scores, mask).to(v.dtype), scores)
    return tap("context", drop(weights, dropout, training=True) @ _for_each_head(v, q), weights, v)


def _softmax(scores: Tensor, mask: Mask) -> Tensor:
    blind = mask.blind()
    if blind is None:
        return scores.softmax(dim=-1)
    # A row of -inf alone would be NaN, also in its gradient: give such rows a finite softmax, then drop it.
    return scores.masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, dropout: float, tap: Tap
) -> Float[Tensor, "B H T K"]:
    """PyTorch's fused attention; nothing in between is ever stored.

    Raises:
        ValueError: with a softcap, which this kernel has no place for.
    """
    if softcap is not None:
        raise ValueError("the sdpa kernel cannot squash scores; use explicit or flex")
    bias, blind, causal = None, None, mask.is_triangle()
    if not causal and not (mask.hides_nothing() and mask.bias is None):
        bias, blind = mask.fused(q.dtype), mask.blind()
    # Asking for groups where there are none would rule out faster kernels.
    grouped = q.size(1) != k.size(1)
    context = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=causal, scale=scale, dropout_p=dropout, enable_gqa=grouped
    )
    context = context if blind is None else context.masked_fill(blind, 0.0)
    return tap("context", context, q, k, v, mask)


def blocked(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, dropout: float, tap: Tap
) -> Float[Tensor, "B H T K"]:
    """``explicit`` in blocks of queries, with a backward of its own; nothing in between is named.

    What its backward does not know (a softcap, dropout on the weights, a bias that is learned) takes the plain way.
    """
    triangle = mask.is_triangle()
    plain = triangle or (mask.hides_nothing() and mask.bias is None)
    additive = None if plain else mask.additive(q.dtype)
    if softcap is not None or dropout or (additive is not None and additive.requires_grad):
        return explicit(q, k, v, mask, scale=scale, softcap=softcap, dropout=dropout, tap=tap)
    heads = _for_each_head(k, q), _for_each_head(v, q)
    context: Tensor = BlockedAttention.apply(q, *heads, additive, mask.blind(), triangle, scale)  # type: ignore[no-untyped-call]
    return tap("context", context, q, k, v, mask)


LONGEST_BLOCKED = 2048
"""Up to so many keys products in blocks train faster on a CPU than the fused kernel; see benchmarks/kernels.py."""


def auto(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, dropout: float, tap: Tap
) -> Float[Tensor, "B H T K"]:
    """The fused kernel, except where blocks are the faster: training on a CPU, whose fused backward is slow."""
    learning = torch.is_grad_enabled() and q.requires_grad
    if softcap is not None:
        kernel: Kernel = explicit
    elif learning and q.device.type == "cpu" and k.size(2) <= LONGEST_BLOCKED:
        kernel = blocked
    else:
        kernel = sdpa
    return kernel(q, k, v, mask, scale=scale, softcap=softcap, dropout=dropout, tap=tap)


def flex(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, dropout: float, tap: Tap
) -> Float[Tensor, "B H T K"]:
    """Attention that passes over blocks nobody sees, for windows and packed documents that leave most pairs out.

    It does so where blocks are compiled (``training.compile``); called plainly, PyTorch computes every score. It has no
    dropout, and no backward on a CPU: there, training takes the plain way.
    """
    if dropout or (q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad):
        return explicit(q, k, v, mask, scale=scale, softcap=softcap, dropout=dropout, tap=tap)
    bias = mask.biases()

    def score(products: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if softcap is not None:
            products = softcap * torch.tanh(products / softcap)
        return products if bias is None else products + bias.expand(q.size(0), -1, -1, -1)[b, h, t, s]

    blocks = None if mask.hides_nothing() else mask.blocks()
    grouped = q.size(1) != k.size(1)
    context = flex_attention(q, k, v, score_mod=score, block_mask=blocks, scale=scale, enable_gqa=grouped)
    assert isinstance(context, Tensor)  # the log-sum-exp comes along only when asked for
    return tap("context", context, q, k, v, mask)


def _for_each_head(x: Tensor, q: Tensor) -> Tensor:
    """Repeats the G key or value heads so that each of the H query heads has its own."""
    group = q.size(1) // x.size(1)
    return x if group == 1 else x.repeat_interleave(group, dim=1)
