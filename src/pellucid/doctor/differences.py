"""Whether the gradient is that of what the model computes: it is compared with differences of the outputs.

A stream that is detached, or passes through ``.data`` or ``no_grad``, still gives every parameter some gradient, by the
ways that are left. Only a difference shows that it is not the whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.health import blocks
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

STEPS = (1e-6, 1e-5, 1e-4, 1e-3)
"""Shares of its own size by which a parameter is moved, in double precision: small ones for what bends, large ones for
models that compute a part in float32, as norms of ``transformers`` do. A fault shows with all of them."""

NOTHING = 1e-12
NEGLIGIBLE = 1e-4
"""A share of what the table that matters most does to the outputs; of one that does less, rounding is seen."""

SURE = 5
"""How much further from the gradient than from each other differences must be."""

ROUTED = re.compile(r"expert|moe|router", re.IGNORECASE)
"""Where tokens go to experts, a small move can send one elsewhere: there is no derivative to compare with."""


def mismatch(subject: Subject) -> float | None:
    """How far the derivative of the outputs along a change of the embeddings is from what the gradient says of it.

    As a share of the larger one; ``None`` where it cannot be told.
    """
    moved = _first(subject)
    routed = subject.module is not None and any(ROUTED.search(name) for name, _ in subject.module.named_modules())
    if not moved or routed or subject.spec.example is not None:
        return None
    return subject.in_double(lambda: _mismatch(subject, moved))


def _first(subject: Subject) -> list[nn.Parameter]:
    """The trained tables of embeddings outside the layers; where there are none, the first trained matrix outside."""
    module = subject.module
    if module is None:
        return []
    inside = {id(p) for layer in blocks(module).values() for p in layer.parameters()}
    outside = [p for p in module.parameters() if p.requires_grad and id(p) not in inside and p.is_floating_point()]
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return [p for p in outside if id(p) in tables] or [p for p in outside if p.dim() >= 2][:1]


def _mismatch(subject: Subject, moved: list[nn.Parameter]) -> float | None:
    batch = subject.batch()
    draw = torch.Generator().manual_seed(subject.seed + 3)
    output = subject(batch, grads=True)
    weights = torch.randn(output.shape, generator=draw, dtype=torch.float64, device="cpu").to(output)
    if output.dtype != torch.float64 or not output.requires_grad:
        return None
    with torch.enable_grad():
        found = torch.autograd.grad((output * weights).sum(), moved, allow_unused=True)
    drawn = [torch.randn(p.shape, generator=draw, dtype=torch.float64, device="cpu") for p in moved]
    changes = [change.to(p) * _size(p) for change, p in zip(drawn, moved, strict=True)]
    told = [0.0 if g is None else float((g * change).sum()) for g, change in zip(found, changes, strict=True)]
    floor = max(NOTHING, NEGLIGIBLE * max(abs(one) for one in told))
    apart = [
        _apart(said, floor, lambda step, p=parameter, c=change: _difference(subject, batch, weights, p, c, step))  # type: ignore[misc]
        for parameter, change, said in zip(moved, changes, told, strict=True)
    ]
    return max((share for share in apart if share is not None), default=None)


def _apart(told: float, floor: float, difference: Callable[[float], float]) -> float | None:
    """The least distance of what a gradient says from a difference, over the steps.

    ``None`` where two steps in a row agree no better with each other than with the gradient: they show rounding.
    """
    if not math.isfinite(told):
        return None
    found: list[float] = []
    spread, nearest = math.inf, 1.0
    for step in STEPS:
        found.append(difference(step))
        largest = max(abs(told), abs(found[-1]))
        if largest < floor:
            continue
        nearest = min(nearest, abs(found[-1] - told) / largest)
        if nearest < tolerances.DERIVATIVE / 10:
            return nearest
        if len(found) > 1:
            spread = min(spread, abs(found[-1] - found[-2]) / largest)
    return nearest if SURE * spread < nearest else None


def _difference(
    subject: Subject, batch: Batch, weights: Tensor, parameter: nn.Parameter, change: Tensor, step: float
) -> float:
    """Of the weighted outputs, over twice the step, when a parameter moves along a change and against it."""
    sides, own = [], parameter.data
    try:
        for sign in (1, -1):
            parameter.data = own + sign * step * change
            sides.append(float((subject(batch) * weights).sum()))
    finally:
        parameter.data = own
    return (sides[0] - sides[1]) / (2 * step)


def _size(parameter: Tensor) -> float:
    return float(parameter.detach().square().mean().sqrt()) or 1.0
