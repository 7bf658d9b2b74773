"""Attention as products, a softmax and a product again: from the expression of the weights to a site."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.trace.expressions import ORDERED, SAME, SOFTMAX, Expression, plain
from pellucid.trace.formulas import Form, UnclearError, factors, is_product, number_of, read
from pellucid.trace.sites import Formula, Replay, Site, compared, divided, new_site, verify

_REPEATS = {"expand", "repeat", "repeat_interleave", "index_select", "index"}


def site_of(weights: Expression, right: bool, values: Any, output: Tensor) -> tuple[Site, Expression]:
    """The site, and the product of its queries and keys.

    Args:
        weights: what was multiplied, (N, T, S), or (N, S, T) on the right.
        right: values are on the left, (N, K, S).
        values: (N, S, K), a tensor or an expression.
        output: the product.

    Raises:
        UnclearError: when queries, keys and values do not fit together.
    """
    root = next((part for part in weights.line() if is_product(part)), None)
    if root is None:
        raise UnclearError("a softmax of something that is no product")
    v, context = _batched(plain(values)), _batched(output)
    if right:
        v, context = v.mT, context.mT
    try:
        form = read(weights)
        site, root = _by_formula(form, right, v, repeats(values), context), form.root
    except UnclearError as error:
        site = _by_replay(weights, right, root, v, context, str(error))
    return replace(site, kernel=_kernel(weights, root)), root


def _kernel(weights: Expression, root: Expression) -> str:
    softmax = next(part for part in weights.line() if part.name in SOFTMAX)
    if softmax.name == "_safe_softmax":
        return "scaled_dot_product_attention in steps"  # nothing else in PyTorch uses this softmax
    return f"{root.name}, softmax"


def _by_formula(form: Form, right: bool, v: Tensor, shared: bool, context: Tensor) -> Site:
    first, second = factors(form.root)
    rows, columns = form.root.shape[-2:]
    swapped = _is_swapped(form, right)
    if swapped:
        first, second = second, first
    (q, q_scale), (k, k_scale) = stripped(first), stripped(second)
    q, k = _batched(q), _batched(k)
    q, k = (q.mT, k) if swapped else (q, k.mT)
    if q.size(1) != context.size(1) or k.size(1) != v.size(1) or q.size(0) != context.size(0):
        raise UnclearError("queries, keys and values of lengths that do not fit")
    lead = form.lead or _lead(first, rows, columns) or _lead(second, rows, columns)
    batch, heads = _split(lead, second, q.size(0))
    if form.folded and not lead and not swapped:
        formula = form.formula((batch, *form.folded, columns), q_scale * k_scale)
        q, context = (divided(x, 1, form.folded) for x in (q, context))
        k, v = (divided(x, 0, (batch, 1)) for x in (k, v))
    else:
        formula = form.formula((batch, heads, rows, columns), q_scale * k_scale)
        formula = _turned(formula) if swapped else formula
        q, k, v, context = (divided(x, 0, (batch, heads)) for x in (q, k, v, context))
    formula, k, v = _unpadded(formula, k, v, _length(second))
    found = new_site("", (q, k, v, context), formula, dropout=_dropout(formula))
    found = replace(verify(found), before=q_scale * k_scale)
    return ungrouped(found) if shared and repeats(second) else found


def _length(keys: Any) -> int | None:
    """How many keys there were before more were added to fill vectors of the processor."""
    while isinstance(keys, Expression):
        if keys.name == "constant_pad_nd" and keys.argument(1, "pad")[:3] == [0, 0, 0]:
            return int(keys.arguments[0].shape[-2])
        keys = keys.arguments[0]
    return None


def _unpadded(formula: Formula, k: Tensor, v: Tensor, length: int | None) -> tuple[Formula, Tensor, Tensor]:
    """Without added keys, if indeed nobody sees these."""
    keep = formula.keep
    if length is None or keep is None or keep.size(-1) != k.size(2) or bool(keep[..., length:].any()):
        return formula, k, v

    def cut(x: Any) -> Any:
        return x[..., :length] if isinstance(x, Tensor) and x.size(-1) == k.size(2) else x

    keep = None if bool(cut(keep).all()) else cut(keep)
    parts = {"bias": cut(formula.bias), "factor": cut(formula.factor), "scale": cut(formula.scale)}
    return replace(formula, keep=keep, **parts), k[:, :, :length], v[:, :, :length]


def _is_swapped(form: Form, right: bool) -> bool:
    """Whether keys are the rows of the product.

    Raises:
        UnclearError: when batch or heads changed places, or the softmax is not taken over the keys.
    """
    layout = form.layout if form.layout.dim() == 3 else form.layout.unsqueeze(0)
    rows, columns = form.root.shape[-2:]
    if form.padded:
        raise UnclearError("sinks that meet values")
    if layout.dim() != 3 or (layout.size(0) != 1 and layout.stride(0) != rows * columns):
        raise UnclearError("heads in another order than in the product")
    keys = -2 if right else -1
    swapped = layout.size(keys) != 1 and layout.stride(keys) != 1
    if layout.size(keys) != (rows if swapped else columns) or (swapped and layout.stride(keys) != columns):
        raise UnclearError("queries and keys folded together")
    if form.axis is not None and form.axis and layout.size(keys) != 1 and form.axis != layout.stride(keys):
        raise UnclearError("a softmax over the queries in place of the keys")
    return swapped


def _lead(operand: Any, rows: int, columns: int) -> tuple[int, ...]:
    """Batch and heads, from before they were folded into one axis."""
    while isinstance(operand, Expression):
        inner = operand.arguments[0]
        shape = tuple(getattr(inner, "shape", ()))
        if operand.name in ORDERED | SAME and len(shape) == 4 and shape[-2:] == tuple(operand.shape[-2:]):
            return shape[:2]
        narrower = operand.name == "view" and len(operand.shape) == len(shape) == 3 and shape[2] > operand.shape[2]
        if narrower and shape[0] == operand.shape[0]:
            return shape[1], operand.shape[1] // shape[1]  # (T, B, H·K) as (T, B·H, K): nn.MultiheadAttention's way
        operand = inner
    return ()


def _split(lead: tuple[int, ...], keys: Any, size: int) -> tuple[int, int]:
    """Batch and heads; several axes before the heads are all batch, unless keys were shared along the last."""
    if math.prod(lead) != size or len(lead) < 2:
        return size, 1
    if len(lead) == 3 and isinstance(keys, Expression):
        shared = [part for part in keys.line() if part.name == "expand" and part.shape[:3] == lead]
        if any(getattr(part.arguments[0], "shape", lead)[2] == 1 != lead[2] for part in shared):
            return lead[0], lead[1] * lead[2]
    return math.prod(lead[:-1]), lead[-1]


def _turned(formula: Formula) -> Formula:
    parts = {
        name: value.mT
        for name in ("scale", "bias", "keep", "factor")
        if isinstance(value := getattr(formula, name), Tensor)
    }
    if formula.sinks is not None:
        raise UnclearError("sinks of transposed scores")
    return replace(formula, **parts)  # type: ignore[arg-type]


def _batched(x: Tensor) -> Tensor:
    return x if x.dim() == 3 else x.unsqueeze(0)


def repeats(operand: Any) -> bool:
    """Whether the same numbers stand in it several times."""
    return isinstance(operand, Expression) and any(part.name in _REPEATS for part in operand.line())


def unscaled(site: Site, q: Expression | None, k: Expression | None) -> Site:
    """The site of a fused kernel with queries and keys as they were before they were multiplied by a number."""
    (first, one), (second, other) = (
        stripped(x) if x is not None and x.stage == "operand" else (None, 1.0) for x in (q, k)
    )
    if one * other == 1.0 or isinstance(site.scale, Tensor):
        return site
    formula = replace(site.formula, scale=site.scale * one * other)
    bare = site.q if first is None else first, site.k if second is None else second
    found = replace(site, formula=formula, before=one * other, q=bare[0], k=bare[1])
    return verify(found) if found.q.shape == site.q.shape and found.k.shape == site.k.shape else site


def ungrouped(site: Site) -> Site:
    """The site with keys and values (B, G, S, K), each once, where they were repeated for H heads."""
    heads = site.k.size(1)
    for group in range(heads, 1, -1):
        if heads % group == 0 and all(_is_repeated(x, group) for x in (site.k, site.v)):
            return replace(site, k=site.k[:, ::group], v=site.v[:, ::group])
    return site


def _is_repeated(x: Tensor, group: int) -> bool:
    grouped = divided(x, 1, (-1, group))
    return torch.equal(grouped, grouped[:, :, :1].expand_as(grouped))


def _dropout(formula: Formula) -> float:
    """The probability of dropping, if the factor is zero or one and the same number above one."""
    if formula.factor is None or formula.factor.dtype == torch.bool:
        return 0.0
    largest = float(formula.factor.max())
    drawn = bool(((formula.factor == 0) | (formula.factor == largest)).all())
    return 1.0 - 1.0 / largest if drawn and largest > 1 else 0.0


def _by_replay(weights: Expression, right: bool, root: Expression, v: Tensor, context: Tensor, step: str) -> Site:
    """A site whose scores are computed again step by step: something is done to them that the formula lacks."""
    first, second = factors(root)
    q, k = _batched(plain(first)), _batched(plain(second)).mT
    shapes = [tuple(part.shape[:2]) for part in weights.line() if len(part.shape) == 4]
    lead = next((shape for shape in shapes if math.prod(shape) == context.size(0)), (context.size(0), 1))
    if q.size(0) != context.size(0) or v.size(0) != context.size(0) or k.size(-1) != q.size(-1):
        raise UnclearError(step)
    softmax = next(part for part in weights.line() if part.name in SOFTMAX)
    before = softmax.arguments[0]

    def rebuilt() -> Tensor:
        value = _batched(weights.value())
        return divided(value.mT if right else value, 0, lead)

    def scores() -> Tensor:
        value = plain(before)
        return value.reshape(*lead, -1, v.size(1)) if value.numel() == context[..., 0].numel() * v.size(1) else value

    q, k, v, context = (divided(x, 0, lead) for x in (q, k, v, context))
    site = new_site("", (q, k, v, context), Formula(), replay=Replay(scores, rebuilt, step))
    found = compared(rebuilt() @ v, context)
    why = "" if found <= 1e-5 else f"repeating its steps differs by {found:.2g}"
    if step.startswith("a softmax over the queries"):
        why = step
    elif math.prod(before.shape) != context[..., 0].numel() * v.size(2):
        why = f"the softmax is taken over more or less than these keys ({step})"
    return replace(site, deviation=found, why=why)


def stripped(operand: Tensor | Expression) -> tuple[Tensor, float]:
    """Queries or keys as they were before they were multiplied by a number, and that number."""
    if isinstance(operand, Tensor):
        return operand, 1.0
    if operand.name in ("mul", "div"):
        inner, other = operand.arguments[:2]
        number = number_of(other) if isinstance(inner, Expression) or not _isnumber_of(inner) else None
        if number and operand.shape == inner.shape and operand.dtype == inner.dtype:
            base, factor = stripped(inner)
            return base, factor * (number if operand.name == "mul" else 1.0 / number)
    inner = operand.arguments[0]
    if not isinstance(inner, Expression):
        return operand.value(), 1.0
    base, factor = stripped(inner)
    if operand.name in ORDERED and operand.shape.numel() == base.numel():
        return base.reshape(operand.shape), factor
    if operand.name == "clone" or (operand.name == "_to_copy" and operand.dtype == base.dtype):
        return base, factor
    result = operand.function(base, *operand.arguments[1:], **operand.keywords)
    return (result if operand.output is None else result[operand.output]), factor


def _isnumber_of(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1
