"""Wakes what starts at zero: a branch that multiplies by zeros mixes nothing, and nothing that mixes nothing can leak.

Zero-initialised outputs (GPT-2's residual projections in some codes, ReZero, adapters, learned positions) are healthy,
and hide every fault behind them. They get small numbers for the length of the examination.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

STD = 0.02


@contextmanager
def awake(model: nn.Module | None, seed: int) -> Iterator[int]:
    """Parameters that are zero throughout are drawn from N(0, 0.02²) within the block, and as they were after it.

    Rows of padding stay zero. Yields how many were woken.
    """
    asleep = [] if model is None else [p for p in model.parameters() if p.numel() and _zero(p)]
    zeros = [parameter.detach().clone() for parameter in asleep]  # 0.0 and -0.0, which are not the same bits
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in asleep:
            parameter.copy_(torch.randn(parameter.shape, generator=draw, device="cpu").to(parameter) * STD)
        if model is not None:
            woken = set(map(id, asleep))
            for module in model.modules():
                if isinstance(module, nn.Embedding) and module.padding_idx is not None and id(module.weight) in woken:
                    module.weight[module.padding_idx] = 0
    try:
        yield len(asleep)
    finally:
        with torch.no_grad():
            for parameter, own in zip(asleep, zeros, strict=True):
                parameter.copy_(own)


def _zero(parameter: torch.Tensor) -> bool:
    return parameter.device.type != "meta" and parameter.is_floating_point() and not bool(parameter.any())
