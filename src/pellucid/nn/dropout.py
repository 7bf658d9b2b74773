"""Dropout that costs little on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

STEPS = 1 << 16  # a probability is rounded to a multiple of 1/STEPS


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zeroes each element with the given probability and scales the others by 1/(1 - probability) (Srivastava et al.
    2014); returns ``x`` as it is when not training.

    PyTorch draws a 64-bit random number per element on a CPU, which takes an eighth of a training step; there we draw
    16 bits (benchmarks/results/dropout.md). ``F.dropout`` is the plain twin and serves every other device.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    dropped: Tensor = _Dropout.apply(x, probability)  # type: ignore[no-untyped-call]
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        threshold = round(probability * STEPS)
        ctx.scale = STEPS / (STEPS - threshold) if threshold < STEPS else 0.0
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        keep = draws[: x.numel()].view(x.shape)
        torch.ge(keep, threshold - STEPS // 2, out=keep)  # 0 and 1 in 16 bits: products with booleans are slow
        ctx.save_for_backward(keep)
        return (x * keep).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (gradient * keep).mul_(ctx.scale), None
