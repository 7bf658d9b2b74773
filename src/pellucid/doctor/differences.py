"""Whether the gradient is that of what the model computes: it is compared with differences of the outputs.

A stream that is detached, or passes through ``.data`` or ``no_grad``, still gives every parameter some gradient, by the
ways that are left. Only a difference shows that it is not the whole.
"""

from __future__ import annotations

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
    weights = torch.randn(output.shape, generator=draw, dtype=torch.float64).to(output)
    if output.dtype != torch.float64 or not output.requires_grad:
        return None
    with torch.enable_grad():
        found = torch.autograd.grad((output * weights).sum(), moved, allow_unused=True)
    worst = None
    for parameter, gradient in zip(moved, found, strict=True):
        change = torch.randn(parameter.shape, generator=draw, dtype=torch.float64).to(parameter) * _size(parameter)
        told = 0.0 if gradient is None else float((gradient * change).sum())
        apart = _apart(told, lambda step, p=parameter, c=change: _difference(subject, batch, weights, p, c, step))  # type: ignore[misc]
        if apart is not None:
            worst = apart if worst is None else max(worst, apart)
    return worst


def _apart(told: float, difference: Callable[[float], float]) -> float | None:
    """The least distance of what a gradient says from a difference, over the steps."""
    nearest = None
    for step in STEPS:
        found = difference(step)
        largest = max(abs(told), abs(found))
        share = None if largest < NOTHING else abs(found - told) / largest
        if share is not None:
            nearest = share if nearest is None else min(nearest, share)
        if nearest is not None and nearest < tolerances.DERIVATIVE / 10:
            break
    return nearest


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
