"""Reads an expression as the formula of attention: which scale, which softcap, which mask, which bias.

Numbers are followed through reshapes and transposes by their place in the product of queries and keys: ``layout`` is a
tensor without memory that goes through the same views as the scores, and its strides say which score is where.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.trace.expressions import ORDERED, PRODUCTS, SAME, SOFTMAX, VIEWS, Expression, plain
from pellucid.trace.sites import HIDDEN, Formula


class UnclearError(Exception):
    """A step that the formula has no place for."""


@dataclass(frozen=True, eq=False)
class Term:
    """Numbers that met the scores when these were laid out so."""

    value: Tensor | Expression
    layout: Tensor
    coefficient: float = 1.0

    def placed(self, shape: tuple[int, int, int, int]) -> Tensor:
        """As (B or 1, H or 1, T or 1, S or 1), for products of the shape (B, H, T, S)."""
        value = plain(self.value)
        if self.coefficient != 1.0:
            value = value * self.coefficient
        layout = self.layout
        value = value.reshape((1,) * (layout.dim() - value.dim()) + tuple(value.shape))
        strides = layout.stride()
        order = sorted(range(layout.dim()), key=lambda axis: -strides[axis])
        long = [axis for axis in order if layout.size(axis) != 1]
        if [layout.size(axis) for axis in long] == [size for size in shape if size != 1]:
            sizes = iter([value.size(axis) for axis in long])
            value = value.permute(*long, *(axis for axis in order if axis not in long))
            return value.reshape([1 if size == 1 else next(sizes) for size in shape])
        return value.expand(layout.shape).permute(order).reshape(shape)


@dataclass(frozen=True, eq=False)
class Form:
    """What became of a product so far.

    Args:
        root: the product, of (N, R, K) and (N, K, C).
        layout: where each score now is, in strides of the product.
        lead: the leading axes of the first layout with four axes or more.
        folded: heads and queries, where the rows of the product are both, as when all heads share keys.
        axis: stride of the axis that the softmax was taken over.
        squashed: after a tanh.
        padded: scores without value are still there, after the others.
    """

    root: Expression
    layout: Tensor
    lead: tuple[int, ...] = ()
    folded: tuple[int, int] | None = None
    axis: int | None = None
    scale: float = 1.0
    scales: tuple[Term, ...] = ()
    squashed: bool = False
    softcap: float | None = None
    biases: tuple[Term, ...] = ()
    hidden: tuple[tuple[Term, float], ...] = ()
    sinks: Term | None = None
    padded: bool = False
    factors: tuple[Term, ...] = ()

    def formula(self, shape: tuple[int, int, int, int], scale: float) -> Formula:
        """The formula over (B, H, T, S), with what queries and keys were scaled by before the product."""
        bias: Tensor | None = None
        keep: Tensor | None = None
        factor: Tensor | None = None
        for term in self.biases:
            placed = term.placed(shape)
            bias = placed if bias is None else bias + placed
        for term, _ in self.hidden:
            placed = ~term.placed(shape).bool()
            keep = placed if keep is None else keep & placed
        for term in self.factors:
            placed = term.placed(shape)
            factor = placed if factor is None else factor * placed
        if bias is not None and keep is None and bool(((bias == 0) | (bias == -torch.inf)).all()):
            keep = torch.eq(bias, 0)
            bias = None
        total: float | Tensor = self.scale * scale
        fill = self.hidden[-1][1] if self.hidden else -torch.inf
        for term in self.scales:
            placed = term.placed(shape)
            if bias is None or not _masks(placed, bias):  # GPT's way: scores · mask - 10⁴ · (1 - mask)
                total = total * placed
        softcap = 1.0 if self.squashed and self.softcap is None else self.softcap
        sinks = None if self.sinks is None else self._sinks(self.sinks, shape)
        return Formula(total, softcap, bias, keep, fill, sinks=sinks, factor=factor)

    def _sinks(self, term: Term, shape: tuple[int, int, int, int]) -> Tensor:
        value = plain(term.value)
        return value.expand(*term.layout.shape[:-1], value.size(-1)).reshape(*shape[:3], value.size(-1))


def _masks(factor: Tensor, bias: Tensor) -> bool:
    """Whether a factor is 1, or 0 where so much is taken off anyway that nobody looks there."""
    return bool(((factor == 1) | ((factor == 0) & (bias <= HIDDEN))).all())


def is_product(expression: Expression) -> bool:
    """Whether these are products of queries and keys, not a mixture of heads by a parameter."""
    return expression.name in PRODUCTS and not any(part.stage != "operand" for part in expression.parts())


def factors(root: Expression) -> tuple[Any, Any]:
    """What was multiplied, tensors or expressions."""
    first = 1 if root.name in ("addmm", "baddbmm") else 0
    return root.arguments[first], root.arguments[first + 1]


def read(expression: Expression) -> Form:
    """The form of scores or weights.

    Raises:
        UnclearError: at a step that the formula has no place for.
    """
    if is_product(expression):
        return _product(expression)
    heavy = [part for part in expression.parts() if part.stage != "operand"]
    if len({id(part) for part in heavy}) == 2 and expression.name in ("add", "sub"):
        return _sum(expression, heavy)
    if expression.name == "slice_scatter":
        return _partly_biased(expression)
    if len(heavy) != 1:
        raise UnclearError(expression.name)
    form = read(heavy[0])
    if expression.name in VIEWS:
        return _viewed(form, expression)
    if expression.name in SAME or expression.name == "nan_to_num":
        return form
    if expression.name in SOFTMAX:
        return _softmax(form, expression)
    step = _STEPS.get(expression.name)
    if step is None:
        raise UnclearError(expression.name)
    return step(form, expression, heavy[0])


def _product(root: Expression) -> Form:
    shape = root.shape if len(root.shape) == 3 else (1, *root.shape)
    layout = torch.empty(shape, device="meta")
    form = Form(root, layout if len(root.shape) == 3 else layout[0])
    if root.name in ("addmm", "baddbmm"):
        beta, alpha = root.keywords.get("beta", 1), root.keywords.get("alpha", 1)
        form = replace(form, scale=float(alpha))
        if beta:
            form = replace(form, biases=(Term(root.arguments[0], form.layout, float(beta)),))
    elif root.name not in ("mm", "bmm"):
        raise UnclearError(root.name)
    return form


def _sum(expression: Expression, heavy: list[Expression]) -> Form:
    """Two products added: the one that came straight here is queries times keys, the other a bias on positions."""
    if expression.name == "sub":
        whole, largest = expression.arguments[:2]
        # The largest score is taken off before a softmax, which it does not change.
        if largest in heavy and largest.shape[-1:] == (1,) and any(part is whole for part in largest.line()):
            return read(whole)
    forms: list[tuple[Form, Expression, Expression]] = []
    for one, other in (heavy, heavy[::-1]):
        try:
            forms.append((read(one), one, other))
        except UnclearError:
            continue
    if not forms:
        raise UnclearError("a sum of two products")
    form, one, other = forms[0]
    if one.shape != expression.shape:
        raise UnclearError("a sum of two products")
    sign = float(expression.keywords.get("alpha", 1)) * (-1.0 if expression.name == "sub" else 1.0)
    if one is not expression.arguments[0] and expression.name == "sub":
        raise UnclearError("sub")
    return _biased(form, other, sign)


def _viewed(form: Form, expression: Expression) -> Form:
    if form.padded:
        raise UnclearError("a reshape of scores with sinks")
    if math.prod(expression.shape) != form.layout.numel():
        raise UnclearError(expression.name)
    try:
        if expression.name in ORDERED:
            layout = form.layout.view(expression.shape)
        else:
            layout = expression.function(form.layout, *expression.arguments[1:], **expression.keywords)
    except RuntimeError as error:
        raise UnclearError("a reshape that mixes axes") from error
    lead = form.lead
    if not lead and layout.dim() > 3:
        rows, columns = form.root.shape[-2:]
        if tuple(layout.shape[-2:]) in ((rows, columns), (columns, rows)) and layout.shape[:-2].numel() > 0:
            lead = tuple(layout.shape[:-2])
            in_order = sorted((s for s, n in zip(layout.stride()[:-2], lead, strict=True) if n != 1), reverse=True)
            if in_order != [s for s, n in zip(layout.stride()[:-2], lead, strict=True) if n != 1]:
                lead = ()
    return replace(form, layout=layout, lead=lead, folded=form.folded or _folded(form.root, layout))


def _folded(root: Expression, layout: Tensor) -> tuple[int, int] | None:
    """Heads and queries of scores (B, H, T, S) from a product of (B, H·T, K) and (B, K, S)."""
    if layout.dim() != 4 or len(root.shape) != 3 or not layout.is_contiguous():
        return None
    batch, heads, queries, keys = layout.shape
    return (heads, queries) if root.shape == (batch, heads * queries, keys) and heads > 1 else None


def _softmax(form: Form, expression: Expression) -> Form:
    if form.axis is not None:
        raise UnclearError("a second softmax")
    dim = expression.argument(1, "dim", -1)
    if form.padded and dim % len(expression.shape) != len(expression.shape) - 1:
        raise UnclearError("a softmax over another axis than the sinks'")
    return replace(form, axis=form.layout.stride(dim) if form.layout.size(dim) != 1 else 0)


def number_of(value: Any) -> float | None:
    """A number, or a tensor of one element."""
    if isinstance(value, Expression):
        value = value.value() if math.prod(value.shape) == 1 else None
    if isinstance(value, Tensor):
        return float(value.item()) if value.numel() == 1 else None
    return None if value is None else float(value)


def _other(expression: Expression, heavy: Expression) -> Any:
    first, second = expression.arguments[:2]
    return second if first is heavy else first


def _times(form: Form, expression: Expression, heavy: Expression) -> Form:
    other = _other(expression, heavy)
    number = number_of(other)
    if expression.name == "div":
        if expression.arguments[0] is not heavy or expression.keywords.get("rounding_mode"):
            raise UnclearError("div")
        number = None if number is None else 1.0 / number
        other = other if number is not None else plain(other).reciprocal()
    if form.axis is not None:
        return replace(form, factors=(*form.factors, Term(_filled(other, number), form.layout)))
    if form.squashed and form.softcap is None and number is not None and not form.biases and not form.hidden:
        return replace(form, softcap=number, scale=form.scale * number)
    if form.softcap is not None or form.squashed or form.padded:
        raise UnclearError("a scale after the softcap")
    if number is None:
        if form.biases or any(fill != -torch.inf for _, fill in form.hidden):
            raise UnclearError("a factor after the mask")
        return replace(form, scales=(*form.scales, Term(other, form.layout)))
    biases = tuple(replace(term, coefficient=term.coefficient * number) for term in form.biases)
    hidden = tuple((term, fill * number) for term, fill in form.hidden)
    return replace(form, scale=form.scale * number, biases=biases, hidden=hidden)


def _filled(other: Any, number: float | None) -> Any:
    return torch.tensor(number) if number is not None and not isinstance(other, Tensor | Expression) else other


def _plus(form: Form, expression: Expression, heavy: Expression) -> Form:
    sign = float(expression.keywords.get("alpha", 1))
    if expression.name == "sub":
        sign = -sign
    if (expression.arguments[0] is not heavy and sign != 1.0) or form.axis is not None:
        raise UnclearError(expression.name)
    other = _other(expression, heavy)
    return form if not isinstance(other, Tensor | Expression) and other == 0 else _biased(form, other, sign)


def _biased(form: Form, other: Any, sign: float) -> Form:
    if (form.squashed and form.softcap is None) or form.padded or form.axis is not None:
        raise UnclearError("a bias in an unusual place")
    value = other if isinstance(other, Tensor | Expression) else torch.tensor(float(other))
    return replace(form, biases=(*form.biases, Term(value, form.layout, sign)))


def _hidden(form: Form, expression: Expression, heavy: Expression) -> Form:
    if expression.name == "masked_fill":
        condition, fill = expression.arguments[1], number_of(expression.arguments[2])
    else:
        condition, kept, other = expression.arguments[:3]
        condition = ~plain(condition) if kept is heavy else condition
        filling = other if kept is heavy else kept
        fill = number_of(filling)
        if (
            fill is None
            and isinstance(filling, Tensor)
            and filling.numel()
            and bool((filling == filling.flatten()[0]).all())
        ):
            fill = float(filling.flatten()[0])
    if fill is None or form.padded:
        raise UnclearError(expression.name)
    condition = plain(condition)
    if form.axis is not None:
        if fill != 0:
            raise UnclearError(f"{expression.name} after the softmax")
        return replace(form, factors=(*form.factors, Term(~condition.bool(), form.layout)))
    return replace(form, hidden=(*form.hidden, (Term(condition, form.layout), fill)))


def _partly_biased(expression: Expression) -> Form:
    """A bias added in place to the last of the keys alone."""
    whole, written = expression.arguments[:2]
    dim, start = expression.argument(2, "dim", 0), expression.argument(3, "start", 0) or 0
    last = dim % len(expression.shape) == len(expression.shape) - 1
    if not (last and start >= 0 and isinstance(written, Expression) and written.name == "add"):
        raise UnclearError("a part written in place")
    part, bias = written.arguments[:2]
    if not (isinstance(part, Expression) and part.name == "slice" and part.arguments[0] is whole):
        raise UnclearError("a part written in place")
    if isinstance(bias, Expression) or (isinstance(bias, Tensor) and bias.shape[-1:] != part.shape[-1:]):
        raise UnclearError("a part written in place")
    value = bias if isinstance(bias, Tensor) else torch.full((part.shape[-1],), float(bias))
    value = torch.nn.functional.pad(value, (start, expression.shape[-1] - start - part.shape[-1]))
    return _biased(read(whole), value, float(written.keywords.get("alpha", 1)))


def _squashed(form: Form, expression: Expression, heavy: Expression) -> Form:
    if form.squashed or form.biases or form.hidden or form.axis is not None:
        raise UnclearError("tanh")
    return replace(form, squashed=True)


def _clamped(form: Form, expression: Expression, heavy: Expression) -> Form:
    """A bound that only stops overflow changes no weight."""
    bounds = [
        number_of(value) for value in (*expression.arguments, *expression.keywords.values()) if value is not heavy
    ]
    if form.axis is not None or any(bound is None or abs(bound) < -HIDDEN for bound in bounds):
        raise UnclearError(expression.name)
    return form


def _joined(form: Form, expression: Expression, heavy: Expression) -> Form:
    """Scores without keys after those with: attention sinks."""
    parts, dim = expression.arguments[0], expression.argument(1, "dim", 0)
    if form.axis is not None or form.sinks is not None or len(parts) != 2 or parts[0] is not heavy:
        raise UnclearError("cat")
    if dim % len(expression.shape) != len(expression.shape) - 1:
        raise UnclearError("cat")
    return replace(form, sinks=Term(parts[1], form.layout), padded=True)


def _sliced(form: Form, expression: Expression, heavy: Expression) -> Form:
    if expression.shape == heavy.shape:
        return form
    dim, start = expression.argument(1, "dim", 0), expression.argument(2, "start", 0)
    last = dim % len(expression.shape) == len(expression.shape) - 1
    if not (form.padded and form.axis is not None and last and not start and expression.shape == form.layout.shape):
        raise UnclearError("a slice")
    return replace(form, padded=False)


_STEPS: dict[str, Callable[[Form, Expression, Expression], Form]] = {
    "mul": _times,
    "div": _times,
    "add": _plus,
    "sub": _plus,
    "where": _hidden,
    "masked_fill": _hidden,
    "tanh": _squashed,
    "clamp": _clamped,
    "clamp_min": _clamped,
    "clamp_max": _clamped,
    "maximum": _clamped,
    "minimum": _clamped,
    "max": _clamped,
    "cat": _joined,
    "slice": _sliced,
}
