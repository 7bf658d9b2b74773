"""Whether the gradient is that of what the model computes: it is compared with differences of the outputs.

A stream that is detached, or passes through ``.data`` or ``no_grad``, still gives every parameter some gradient, by the
ways that are left. Only a difference shows that it is not the whole.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from pellucid.doctor.health import blocks
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

STEPS = (1e-6, 1e-5, 1e-4, 1e-3)
"""Shares of its own size by which a parameter is moved, in double precision: small ones for what bends, large ones for
models that compute a part in float32, as norms of ``transformers`` do. A fault shows with all of them."""

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
    changes = [torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p) * _size(p) for p in moved]
    expected = sum(float((g * d).sum()) for g, d in zip(found, changes, strict=True) if g is not None)
    differences = [_difference(subject, batch, weights, moved, changes, step) for step in STEPS]
    largest = max(abs(expected), *map(abs, differences))
    return None if largest < 1e-12 else min(abs(difference - expected) for difference in differences) / largest


def _difference(
    subject: Subject, batch: Batch, weights: Tensor, moved: list[nn.Parameter], changes: list[Tensor], step: float
) -> float:
    """Of the weighted outputs, over twice the step, when parameters move along their changes and against them."""
    sides, own = [], [p.data for p in moved]
    try:
        for sign in (1, -1):
            for parameter, data, change in zip(moved, own, changes, strict=True):
                parameter.data = data + sign * step * change
            sides.append(float((subject(batch) * weights).sum()))
    finally:
        for parameter, data in zip(moved, own, strict=True):
            parameter.data = data
    return (sides[0] - sides[1]) / (2 * step)


def _size(parameter: Tensor) -> float:
    return float(parameter.detach().square().mean().sqrt()) or 1.0
