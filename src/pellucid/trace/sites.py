"""One place where a model attends: its operands, the formula over them, and whether that gives what the model got.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.trace.working import wide

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest deviation of a verified context, as a share of its largest value. Recomputing is done in double precision, so
this is the noise of the model's own arithmetic alone: measured up to 1e-6 in float32, 4e-3 in bfloat16."""

HIDDEN = -1e4
"""A score that low means "may not look": nothing that small survives a softmax beside a score that may."""


@dataclass(frozen=True, eq=False)
class Formula:
    """softmax([softcap(q kᵀ · scale) + bias, or fill where not kept | sinks]) · factor, times v.

    Args:
        scale: what the products are multiplied by; a tensor where heads differ.
        softcap: squashes the scaled products to ±softcap by a tanh.
        bias: (B or 1, H or 1, T or 1, S or 1), added to the scores.
        keep: boolean, of such a shape: True where a query may look.
        fill: the score where it may not.
        causal: the future is hidden, counted from the first query and key as ``scaled_dot_product_attention`` does.
        sinks: (B or 1, H or 1, T or 1, n), scores that take part in the softmax and have no value.
        factor: what the weights are multiplied by after the softmax: dropout, a mask of heads.
    """

    scale: float | Tensor = 1.0
    softcap: float | None = None
    bias: Tensor | None = None
    keep: Tensor | None = None
    fill: float = -torch.inf
    causal: bool = False
    sinks: Tensor | None = None
    factor: Tensor | None = None

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, T, S), masked, for q (B, H, T, K) and k (B, G, S, K)."""
        scores = q @ for_each_head(k, q).mT * self.scale
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            # A score is lost in a large negative bias, in the precision of the bias: a row of such is uniform.
            lost = (scores.to(self.bias.dtype) + self.bias).to(scores.dtype)
            scores = torch.where(self.bias > HIDDEN, scores + self.bias, lost)
        if self.keep is not None:
            scores = scores.masked_fill(~self.keep, self.fill)
        if self.causal:
            ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(~ones.tril(), -torch.inf)
        return scores

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, T, S), before ``factor``; zeros for a query that may look nowhere."""
        scores = self.scores(q, k)
        keys = scores.size(-1)
        blind = (scores == -torch.inf).all(-1, keepdim=True)
        if self.sinks is not None:
            sinks = self.sinks.to(scores.dtype).expand(*scores.shape[:-1], self.sinks.size(-1))
            scores = torch.cat([scores, sinks], dim=-1)
        return scores.softmax(dim=-1)[..., :keys].masked_fill(blind, 0.0)

    def context(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, T, K)."""
        weights = self.weights(q, k)
        if self.factor is not None:
            weights = weights * self.factor
        return weights @ for_each_head(v, q)

    def row(self, index: int) -> Formula:
        """The same for one row of the batch."""

        def pick(x: Tensor | None) -> Tensor | None:
            return x[index : index + 1] if x is not None and x.dim() == 4 and x.size(0) > 1 else x

        scale = pick(self.scale) if isinstance(self.scale, Tensor) else self.scale
        assert scale is not None
        parts = {name: pick(getattr(self, name)) for name in ("bias", "keep", "sinks", "factor")}
        return replace(self, scale=scale, **parts)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Replay:
    """What the model did between products and softmax, step by step, where no formula says it."""

    scores: Callable[[], Tensor]
    weights: Callable[[], Tensor]
    step: str


@dataclass(frozen=True, eq=False)
class Site:
    """Where softmax(q kᵀ · scale + mask) v was computed. Tensors are detached; the context is the model's own.

    Args:
        name: the path of the module that attends, with ``#1`` for its second time.
        module: its class.
        kind: whether keys come from what the queries come from; ``None`` where that cannot be told.
        kernel: the function that was called.
        q: (B, H, T, K). k: (B, G, S, K). v: (B, G, S, K).
        context: (B, H, T, K), as the model's kernel returned it. ``nn.TransformerEncoderLayer`` in one kernel returns
            only its last sum: there it is recomputed, and the sum compared.
        formula: what the kernel computed.
        dropout: probability of dropping a weight.
        deviation: largest difference between the recomputed and the model's context, as a share of its largest value.
        why: empty when verified, else what does not fit.
        replay: stands in for the formula where the model does something between products and softmax that it lacks.
        before: what of the scale queries and keys were multiplied by before their product.
    """

    name: str
    module: str
    kind: Literal["self", "cross"] | None
    kernel: str
    q: Tensor
    k: Tensor
    v: Tensor
    context: Tensor
    formula: Formula
    dropout: float = 0.0
    deviation: float = 0.0
    why: str = ""
    replay: Replay | None = None
    before: float = 1.0

    @property
    def verified(self) -> bool:
        """Whether the recomputed context is the model's."""
        return not self.why

    @property
    def scale(self) -> float | Tensor:
        """What the products are multiplied by, also where queries or keys are multiplied before."""
        return self.formula.scale

    @property
    def softcap(self) -> float | None:
        """Scores are squashed to ± so much."""
        return self.formula.softcap

    @property
    def mask(self) -> Tensor | None:
        """Boolean, True where a query may look; or what is added; broadcasts to (B, H, T, S)."""
        keep, bias = self.formula.keep, self.formula.bias
        if bias is None or keep is None:
            return keep if bias is None else bias
        return bias.masked_fill(~keep, self.formula.fill)

    @property
    def is_causal(self) -> bool:
        """Whether exactly the past can be seen, by flag or by mask; the last query sees the last key."""
        mask, (queries, keys) = self.mask, (self.q.size(2), self.k.size(2))
        if self.formula.causal:
            return True
        if mask is None or mask.shape[-2:] != (queries, keys) or queries < 2:
            return False
        seen = mask if mask.dtype == torch.bool else mask > HIDDEN
        triangle = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril(keys - queries)
        return bool((seen == triangle).all())

    def scores(self) -> Tensor:
        """(B, H, T, S) in float32 or wider, with mask and bias: what the softmax is taken of."""
        if self.replay is not None:
            return self.replay.scores()
        return self.formula.scores(wide(self.q), wide(self.k))

    def weights(self) -> Tensor:
        """(B, H, T, S): the softmax of the scores, before dropout; zeros for a query that may look nowhere."""
        if self.replay is not None:
            return self.replay.weights()
        return self.formula.weights(wide(self.q), wide(self.k))

    def mixed(self) -> Tensor:
        """(B, H, T, K): the context again, from the weights."""
        if self.replay is not None:
            v = wide(for_each_head(self.v, self.q))
            return self.replay.weights().to(v.dtype) @ v
        return self.formula.context(self.q, self.k, self.v)

    def as_dict(self) -> dict[str, Any]:
        """All but the tensors, of which it says the shapes."""
        scale = self.scale
        mask = self.mask
        return {
            "name": self.name,
            "module": self.module,
            "kind": self.kind,
            "kernel": self.kernel,
            "q": list(self.q.shape),
            "k": list(self.k.shape),
            "v": list(self.v.shape),
            "mask": None if mask is None else {"shape": list(mask.shape), "dtype": str(mask.dtype).split(".")[-1]},
            "scale": {"shape": list(scale.shape)} if isinstance(scale, Tensor) else scale,
            "softcap": self.softcap,
            "is_causal": self.is_causal,
            "sinks": self.formula.sinks is not None,
            "dropout": self.dropout,
            "replayed": self.replay.step if self.replay is not None else None,
            "deviation": self.deviation,
            "verified": self.verified,
            "why": self.why,
        }


def new_site(
    kernel: str, operands: Sequence[Tensor], formula: Formula, *, dropout: float = 0.0, replay: Replay | None = None
) -> Site:
    """A site still without name and verdict, of q, k, v and context."""
    q, k, v, context = (x.detach() for x in operands)
    return Site("", "", None, kernel, q, k, v, context, formula, dropout, replay=replay)


def divided(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """One axis as several."""
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def for_each_head(x: Tensor, q: Tensor) -> Tensor:
    """Repeats the G key or value heads so that each of the H query heads has its own."""
    group = q.size(1) // x.size(1)
    return x if group == 1 else x.repeat_interleave(group, dim=1)


def compared(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value; NaN counts as infinite."""
    difference = (found.double() - expected.double()).abs()
    share = (
        difference.max() / expected.double().abs().max().clamp_min(1e-30) if difference.numel() else difference.sum()
    )
    return float(share.nan_to_num(nan=torch.inf))


def deviation(formula: Formula, q: Tensor, k: Tensor, v: Tensor, context: Tensor) -> float:
    """How far the formula is from the context, computed row by row in double precision."""
    largest, worst = context.nan_to_num(nan=0.0).abs().max().double().clamp_min(1e-30), 0.0
    for b in range(q.size(0)):
        row = formula.row(b)
        at = slice(b, b + 1)
        found = row.context(q[at].double(), k[at].double(), v[at].double())
        expected = context[at].double()
        blind = (found == 0).all(-1, keepdim=True) & expected.isnan()  # 0/0, as a query that sees nothing may get
        difference = (found - expected).abs().masked_fill(blind, 0.0).max() / largest
        worst = max(worst, float(difference.nan_to_num(nan=torch.inf)))
    return worst


def verify(site: Site) -> Site:
    """The site with its deviation, and why it is not verified if it is not."""
    operands = (site.q, site.k, site.v, site.context)
    if site.dropout and site.formula.factor is None:
        return replace(
            site, deviation=torch.inf, why=f"dropout of {site.dropout:g} inside the kernel cannot be repeated"
        )
    if site.context.numel() == 0:
        return replace(site, why="the context is empty")
    found = deviation(site.formula, *operands)
    if found <= (limit := TOLERANCE.get(site.context.dtype, 1e-5)):
        return replace(site, deviation=found)
    why = f"the context recomputed from q, k and v differs by {found:.2g} of its largest value, above {limit:g}"
    return replace(site, deviation=found, why=why + _suspicion(site.formula, operands, limit))


def _suspicion(formula: Formula, operands: tuple[Tensor, Tensor, Tensor, Tensor], limit: float) -> str:
    """What the kernel seems to have computed instead, where one of the usual mistakes explains it."""
    width = operands[0].size(-1)
    guesses = {
        f"a scale of 1/√{width}": replace(formula, scale=width**-0.5),
        "a scale of 1": replace(formula, scale=1.0),
        f"a scale of 1/{width}": replace(formula, scale=1.0 / width),
        "no mask": replace(formula, bias=None, keep=None, causal=False),
        "a causal mask": replace(formula, causal=True),
        "no softcap": replace(formula, softcap=None),
    }
    if formula.keep is not None:
        guesses["the mask turned round"] = replace(formula, keep=~formula.keep)
    for name, guess in guesses.items():
        if deviation(guess, *operands) <= limit:
            return f"; it fits with {name}"
    return ""
