"""Whether layers that are computed anew for the backward pass give what they gave in the forward pass.

Checkpointing keeps the inputs of a layer and computes it a second time. If that draws other random numbers, dropout
falls elsewhere, and the gradient is that of another function.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import gradients_by_name
from pellucid.trace.calls import tensors_in

SAME = 1e-4
LARGEST = 20_000_000
"""Models of more parameters are not copied to try them with checkpointing."""


def differs(subject: Subject, batch: Batch) -> str:
    """The first module that gives something else in the backward pass of a step in training mode; else nothing.

    A model of ``transformers`` that does not recompute is also tried with checkpointing, on a copy.
    """
    first, recomputed = _differs(subject, batch)
    module = subject.module
    if recomputed or not getattr(module, "supports_gradient_checkpointing", False):
        return first
    assert module is not None
    if sum(p.numel() for p in module.parameters()) > LARGEST:
        return ""
    try:
        other: Any = copy.deepcopy(module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other.gradient_checkpointing_enable()
        return _differs(Subject(other, subject.spec, seed=subject.seed), batch)[0]
    except Exception:  # a model that cannot be copied, or does not train so
        return ""


def _differs(subject: Subject, batch: Batch) -> tuple[str, bool]:
    """The first such module, and whether any was computed anew."""
    module = subject.module
    assert module is not None
    names = {part: name for name, part in module.named_modules()}
    before: defaultdict[nn.Module, list[float]] = defaultdict(list)
    anew: list[tuple[nn.Module, float]] = []
    backward = False

    def note(part: nn.Module, _: Any, result: Any) -> None:
        value = sum(
            float(x.detach().double().abs().sum()) for x in tensors_in(result).values() if x.is_floating_point()
        )
        if backward:
            anew.append((part, value))
        else:
            before[part].append(value)

    handles = [part.register_forward_hook(note) for part in module.modules()]
    try:
        with subject.mode(True), torch.enable_grad():
            value = _value(subject, batch)
            backward = True
            gradients_by_name(module, value)
    finally:
        for handle in handles:
            handle.remove()
    other = [p for p, v in anew if before[p] and all(abs(v - w) > SAME * max(abs(w), 1e-30) for w in before[p])]
    leaves = [part for part in other if not any(True for _ in part.children())]
    return (names[(leaves or other)[0]] if other else ""), bool(anew)


def _value(subject: Subject, batch: Batch) -> Tensor:
    """One number of the outputs in training mode."""
    outputs = subject(batch, train=True, grads=True)
    draw = torch.Generator().manual_seed(subject.seed)
    return (outputs * torch.randn(outputs.shape, generator=draw, device="cpu").to(outputs)).mean()
