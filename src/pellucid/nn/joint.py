"""Several linear layers of one input as a single product.

A product three times as wide multiplies faster than three products, casts its input once, and gives its backward pass
one sum instead of three to add up. Each layer keeps its own parameters; what is joined lives for one step.

Shapes: ... any leading dimensions, D features in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def joint(x: Float[Tensor, "... D"], layers: Sequence[nn.Module]) -> list[Tensor]:
    """What each layer makes of ``x``; the plain twin is ``[layer(x) for layer in layers]``."""
    if not joins(layers):
        return [layer(x) for layer in layers]
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return list(torch.split(F.linear(x, weight, bias), [layer.out_features for layer in layers], dim=-1))


def joins(layers: Sequence[nn.Module]) -> TypeGuard[Sequence[nn.Linear]]:
    """Whether layers are better joined.

    Joining copies the weights, which pays when a step is learned from and would not when one token is decoded. A layer
    that is more than its weights stays apart: a subclass, one with hooks, one whose weights are split among processes.
    """
    plain = [layer for layer in layers if type(layer) is nn.Linear and type(layer.weight) is nn.Parameter]
    hooked = any(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
        or "forward" in vars(layer)
        for layer in layers
    )  # fmt: skip
    alike = len({layer.bias is None for layer in plain}) == 1
    return torch.is_grad_enabled() and len(plain) == len(layers) > 1 and alike and not hooked
