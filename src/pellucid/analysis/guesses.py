"""What may be wrong in code that no setting shows, guessed from values: B's tensor, A's, what it was computed from.

Each guess is an edit of B's tensor that gives A's numbers; whether it does for the rest of the pass is tried later.

Shapes: B batch, T positions, S keys, H heads, K head_dim, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.analysis.recordings import Real, distance
from pellucid.analysis.relations import order_of
from pellucid.analysis.suspects import GUESSED, TAKEN, Suspect, same, shown
from pellucid.nn.masks import PADDING, Mask, Sites
from pellucid.nn.operations import Positioned, Rule, Scores, Turned
from pellucid.nn.positions import AddedPositions, Rotation, rotary_frequencies
from pellucid.trace import Edit, Elementwise, Entry, Gated, Linear, Norm, Operation, Sum, Tape
from pellucid.trace.tape import Held

AGREES = 1e-6  # of scale: the repaired tensor is A's, though a factor was guessed from rounded numbers
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu, F.gelu, partial(F.gelu, approximate="tanh"), F.silu, torch.tanh, torch.sigmoid, F.relu6, F.mish, F.elu,
)  # fmt: skip
EPSILONS = (0.0, *(10.0**-power for power in range(12, 1, -1)))
BASES = (1e4, 1e3, 1e5, 5e5, 1e6)

Guess = tuple[str, str, Callable[..., Tensor], bool]
"""How it is in B, what would mend it, the tensor from what was there and its operands, whether of all layers."""


def guesses(name: str, a: Tensor, b: Tensor, tape: Tape, theirs: Tape, real: Real) -> Iterator[Suspect]:
    """Suspects for one tensor, the operands of which agree.

    Args:
        name: of the tensor; ``a`` and ``b`` are its values, ``tape`` and ``theirs`` the tapes of A and of B.
    """
    entry = tape.entry(name)
    operands = _operands(entry, theirs, name)
    values = [theirs.tensors.get(given) if isinstance(given, str) else given for given in operands]
    found = list(_by_values(a, b))
    if any(value is None for value in values):
        found += _through(entry, tape, theirs, b)
    else:
        found = [*_by_operation(entry, theirs.entry(name).operation, values, a, b), *found]
    for what, remedy, function, starred in found:
        try:
            repaired = function(b, *values)
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError):
            continue
        if repaired.shape != a.shape or distance(real.part(name, a), real.part(name, repaired)) > AGREES:
            continue
        patterns = [name, starry(name)] if starred else [name]
        for pattern in dict.fromkeys(patterns):
            edits = _edits(pattern, name, operands, values, function)
            weight = TAKEN if remedy.startswith("doing") else GUESSED
            yield Suspect(name, what, f"{remedy} in B", edits=edits, weight=weight, exact=False)


def starry(name: str) -> str:
    """The pattern of the same tensor in every layer."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _operands(entry: Entry, theirs: Tape, name: str) -> list[Any]:
    """What a tensor of B should be computed from: names, or what came from outside, B's own where it has it."""
    own = theirs.entry(name).inputs
    found: list[Any] = []
    for i, given in enumerate(entry.inputs):
        there = own[i] if i < len(own) else given
        held = there if isinstance(there, Held) else given
        found.append(given if isinstance(given, str) else held.value)  # type: ignore[union-attr]
    return found


def _edits(
    pattern: str, name: str, operands: Sequence[Any], values: Sequence[Any], function: Callable[..., Tensor]
) -> dict[str, Edit]:
    """Edits that remember the operands as they come by, then compute the tensor from them."""
    named = zip(operands, values, strict=True)
    remembered: dict[str, Any] = {given: value for given, value in named if isinstance(given, str)}

    def remember(given: str) -> Edit:
        def edit(x: Tensor) -> Tensor:
            remembered[given] = x
            return x

        return edit

    def compute(x: Tensor) -> Tensor:
        now = [remembered.get(given) if isinstance(given, str) else given for given in operands]
        changed: Tensor = function(x, *now)
        return changed.to(x.dtype)

    names = {given: given if pattern == name else starry(given) for given in operands if isinstance(given, str)}
    return {**{names[given]: remember(given) for given in names}, pattern: compute}


# ---- by what the tensor is ---------------------------------------------------------------------


def _by_operation(before: Entry, own: Operation, operands: Sequence[Any], a: Tensor, b: Tensor) -> Iterator[Guess]:
    match before.operation:
        case Elementwise() | Gated():
            yield from _activations(operands, b, gated=isinstance(before.operation, Gated))
        case Norm() as norm:
            if isinstance(own, Norm) and same(norm.gain.detach(), own.gain.detach()):
                yield from _norms(norm)
        case Rule():
            yield from _masks(before.inputs[0], a, b)
        case Scores() as scores:
            yield from _scales(scores)
        case Turned():
            yield from _rotations(operands, b)
        case Positioned() as positioned:
            yield from _positions(positioned, operands, before, b)
        case Sum():
            yield from _sums(operands, b)
    if before.operation.formula not in ("given", "the same") and not isinstance(before.operation, Rule):
        formula, compute = before.operation.formula, before.operation.compute
        yield f"is not {formula}", f"doing {formula} as A does", lambda x, *given: compute(*given), False


def _activations(operands: Sequence[Any], b: Tensor, gated: bool) -> Iterator[Guess]:
    def applied(f: Callable[[Tensor], Tensor], *given: Tensor) -> Tensor:
        return f(given[0]) * given[1] if gated else f(given[0])

    if not operands:
        return
    there = next((f for f in ACTIVATIONS if distance(b, applied(f, *operands)) <= AGREES), None)
    now = "is of another activation" if there is None else f"is of {shown(there)}"
    for f in ACTIVATIONS:
        yield f"{now}, and of {shown(f)} in A", f"taking {shown(f)}", lambda x, *given, f=f: applied(f, *given), True
    for f in ACTIVATIONS if gated else ():
        if distance(b, applied(f, *operands[::-1])) <= AGREES:
            what = "gates with the values and takes the gate for values"
            yield what, "exchanging gate and values", lambda x, *given, f=f: applied(f, *given), True


def _through(entry: Entry, tape: Tape, theirs: Tape, b: Tensor) -> Iterator[Guess]:
    """A linear layer's result, where B does not name what the activation before it gives (of another's model)."""
    hidden = next(iter(entry.input_names), "")
    if not isinstance(entry.operation, Linear) or hidden not in tape.entries:
        return
    before = tape.entry(hidden)
    pre = [theirs.tensors.get(given) for given in before.input_names]
    if not isinstance(before.operation, Elementwise) or pre[0] is None:
        return
    computed = {shown(f): entry.operation.compute(f(pre[0])) for f in ACTIVATIONS}
    there = next((told for told, y in computed.items() if distance(b, y) <= AGREES), "another function")
    for told, y in computed.items():
        what = f"is computed with {there} as its activation, and with {told} in A"
        yield what, f"taking {told}", lambda x, *given, y=y: y, False


def _norms(norm: Norm) -> Iterator[Guess]:
    def normed(x: Tensor, epsilon: float, centred: bool) -> Tensor:
        x = x - x.mean(dim=-1, keepdim=True) if centred else x
        y = x * (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt() * norm.gain.detach()
        return y if norm.bias is None else y + norm.bias.detach()

    # The one A has comes first, and the usual ones after it: of two that both fit the first is told.
    for epsilon in dict.fromkeys((norm.epsilon, *EPSILONS)):
        what = f"is not normed with an epsilon of {epsilon:g}, as in A"
        yield what, f"norming with an epsilon of {epsilon:g}", lambda x, y, e=epsilon: normed(y, e, norm.centred), True


def _masks(given: str | Held, a: Tensor, b: Tensor) -> Iterator[Guess]:
    """Booleans (B, 1, T, S): who may look where. The mask given is A's."""
    mask = given.value if isinstance(given, Held) else None
    if not isinstance(mask, Mask):
        return
    query, key = mask.query.positions[:, None, :, None], mask.key.positions[:, None, None, :]
    asked, real = _real(mask.query)[:, None, :, None], _real(mask.key)[:, None, None, :].expand_as(a)
    seen, hidden = b & ~a & asked, a & ~b & asked  # wrongly
    if seen.any() and not hidden.any():
        yield from _opened(seen, query, key, real)
        far = int((query - key)[a & real].abs().max()) + 1 if (a & real).any() else 0
        near = (query - key).abs() < far
        if not (seen & near).any():
            what = f"sees further than the {far} positions of A's window"
            yield what, f"hiding what is {far} positions away or more", lambda x, *now: x & near, True
    if hidden.any() and not seen.any():
        yield from _closed(hidden, query, key, real)
    yield "lets other pairs see each other", "taking A's mask", lambda x, *now: a, True


def _real(sites: Sites) -> Tensor:
    """Which tokens are there (B, T)."""
    return torch.ones_like(sites.positions, dtype=torch.bool) if sites.segments is None else sites.segments != PADDING


def _opened(seen: Tensor, query: Tensor, key: Tensor, real: Tensor) -> Iterator[Guess]:
    """What a mask shows that should be hidden."""
    past = key <= query
    if not (seen & real).any():
        yield "lets a query see padding", "hiding padding", lambda x, *now: x & real, True
    if (seen & real & past).any() or not (seen & real).any():
        return
    next_alone = not (seen & real & (key > query + 1)).any() and bool((real & (key > query + 1)).any())
    what = "is off by one: a query sees the key after its own" if next_alone else "lets a query see the future"
    yield what, "hiding what comes later", lambda x, *now: x & past, True
    yield f"{what}, and padding", "hiding what comes later and padding", lambda x, *now: x & past & real, True


def _closed(hidden: Tensor, query: Tensor, key: Tensor, real: Tensor) -> Iterator[Guess]:
    """What a mask hides that should be seen."""
    if not (hidden & (key != query)).any():
        what = "is off by one: a query does not see its own key"
        yield what, "showing every query its own key", lambda x, *now: x | (real & (key == query)), True
    if not (hidden & (key <= query)).any():
        yield "hides the future", "showing what comes later", lambda x, *now: x | (real & (key > query)), True
    if not (hidden & real).any():
        yield "hides padding", "showing padding", lambda x, *now: x | ~real, True


def _scales(scores: Scores) -> Iterator[Guess]:
    if scores.softcap is not None:
        rule = Scores(scores.scale, scores.softcap)
        what = f"is not squashed to ±{scores.softcap:g} as in A"
        yield what, "squashing the scores", lambda x, *given: rule.compute(*given), True


def _rotations(operands: Sequence[Any], b: Tensor) -> Iterator[Guess]:
    """Queries or keys (B, H, T, K) turned otherwise."""
    if len(operands) < 2 or not isinstance(operands[1], Rotation):
        return
    x, rotation = operands[0], operands[1]
    turned, T = rotation.cos.size(-1), x.size(2)
    there = _turning(x, b, turned, T)
    for interleaved in (False, True):
        for base in BASES:
            for start in (0, 1, -1):
                made = rotation_of(turned, base, interleaved, torch.arange(T) + start)
                told = _told(interleaved, base, start)
                what = f"is turned {there}, and {told} in A"
                yield what, f"turning {told}", lambda y, z, *given, made=made: made(z), True


def _turning(x: Tensor, turned: Tensor, width: int, length: int) -> str:
    for interleaved in (False, True):
        for base in BASES:
            for start in (0, 1, -1):
                made = rotation_of(width, base, interleaved, torch.arange(length) + start)
                if distance(turned, made(x)) <= AGREES:
                    return _told(interleaved, base, start)
    return "otherwise" if distance(turned, x) > AGREES else "not at all"


def _told(interleaved: bool, base: float, start: int) -> str:
    pairs = "in neighbouring pairs" if interleaved else "by halves"
    return f"{pairs}, with the base {base:g}" + (f" and positions from {start}" if start else "")


def rotation_of(width: int, base: float, interleaved: bool, positions: Tensor) -> Rotation:
    """The angles of one row of positions (T)."""
    angle = (positions[None, :, None].float() * rotary_frequencies(width, base))[:, None]
    angle = angle.repeat_interleave(2, dim=-1) if interleaved else torch.cat([angle, angle], dim=-1)
    return Rotation(angle.cos(), angle.sin(), interleaved)


def _positions(positioned: Positioned, operands: Sequence[Any], before: Entry, b: Tensor) -> Iterator[Guess]:
    """Embeddings (B, T, D) with the code of another position, or with none."""
    added = positioned.added
    if not isinstance(added, AddedPositions) or len(operands) < 2:
        return
    x, given = operands
    ours = before.inputs[1].value if len(before.inputs) > 1 and not isinstance(before.inputs[1], str) else given
    codes: dict[str, Tensor] = {}
    plain = torch.arange(x.size(1)).expand(x.shape[:2])
    tried = {"as A counts them": ours, "counted from 0, padding too": plain}
    tried |= {f"{abs(s)} too {'high' if s > 0 else 'low'}": ours + s for s in (1, -1, 2, -2)}
    for told, positions in tried.items():
        try:
            codes[told] = added.code(positions.clamp(min=0)).type_as(x)
        except IndexError:
            continue
    there = next((told for told, code in codes.items() if distance(b, x + code) <= AGREES), None)
    there = "has no positions" if distance(b, x) <= AGREES else f"has positions {there or 'otherwise'}"
    code = codes["as A counts them"]
    yield there, "adding the codes of A's positions", lambda y, z, *rest: z + code, True


def _sums(operands: Sequence[Any], b: Tensor) -> Iterator[Guess]:
    if len(operands) == 2 and distance(b, operands[1]) <= AGREES:
        yield "leaves the residual out", "adding what came in", lambda y, x, z: x + z, True


# ---- by values alone ---------------------------------------------------------------------------


def _by_values(a: Tensor, b: Tensor) -> Iterator[Guess]:
    if a.dtype == torch.bool or a.shape != b.shape:
        return
    finite = a.isfinite() & b.isfinite()
    if not finite.any():
        return
    yield from _ratios(a, b, finite)
    if bool(finite.all()):
        yield from _orders(a, b)
        yield from _offsets(a, b)
    for kind in (torch.bfloat16, torch.float16):
        if distance(b, a.to(kind).to(a.dtype)) < 1e-12:
            yield f"is rounded to {str(kind).removeprefix('torch.')}", "taking A's", lambda x, *given: a, False


def _ratios(a: Tensor, b: Tensor, finite: Tensor) -> Iterator[Guess]:
    squares = b[finite].square().sum()
    ratio = ((a[finite] * b[finite]).sum() / squares).item() if squares > 0 else 0.0
    if ratio and abs(ratio - 1) > 1e-6:
        yield f"is A's times {named(1 / ratio)}", f"multiplying by {named(ratio)}", lambda x, *given: x * ratio, True


def named(ratio: float) -> str:
    """A factor, as a root or one over a root where it is that."""
    if abs(ratio - round(ratio)) < 1e-9 or abs(1 / ratio - round(1 / ratio)) < 1e-9:
        return f"{ratio:.6g}"
    for told, square in (("√", ratio**2), ("1/√", ratio**-2)):
        if ratio > 0 and square < 1e6 and abs(square - round(square)) < 1e-6:
            return f"{ratio:.6g} ({told}{round(square)})"
    return f"{ratio:.6g}"


def _orders(a: Tensor, b: Tensor) -> Iterator[Guess]:
    """Heads, or the last axis, in another order."""
    for axis, what in ((1, "heads"), (a.dim() - 1, "last axis")):
        if (axis == 1 and a.dim() != 4) or a.dim() < 2:
            continue
        order = order_of(*(x.movedim(axis, 0).reshape(x.size(axis), -1) for x in (a, b)))
        if order is not None:
            reordered = partial(_selected, order=order, axis=axis)
            yield f"has its {what} in another order", f"reordering the {what}", reordered, False


def _selected(x: Tensor, *operands: Any, order: Tensor, axis: int) -> Tensor:
    return x.index_select(axis, order)


def _offsets(a: Tensor, b: Tensor) -> Iterator[Guess]:
    """The same vector missing everywhere."""
    axes = (0, 2) if a.dim() == 4 else tuple(range(a.dim() - 1))
    if not axes or math.prod(a.size(axis) for axis in axes) < 2:
        return
    offset = (a - b).mean(dim=axes, keepdim=True)
    yield "lacks a constant vector, as of a bias", "adding that vector", lambda x, *given: x + offset, False
