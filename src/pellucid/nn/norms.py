"""Normalisation over the features of each position. Shapes: D features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.trace import Norm, Operation, Tapped


class LayerNorm(Tapped):
    """(x - mean) / √(variance + ε) · gain + bias (Ba et al. 2016)."""

    def __init__(self, features: int, epsilon: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        full = x.to(self.weight.dtype)  # under autocast a half-precision product may come in; norms are taken in full
        out = F.layer_norm(full, self.weight.shape, self.weight, self.bias, self.epsilon)
        return self.tap("out", out.type_as(x), x)

    def operation(self, name: str) -> Operation:
        return Norm(self.weight, self.bias, self.epsilon, centred=True, name=self._path.removesuffix("."))


class RMSNorm(Tapped):
    """x / √(mean(x²) + ε) · gain (Zhang & Sennrich 2019); ``plus_one`` stores the gain minus one."""

    def __init__(self, features: int, epsilon: float = 1e-6, plus_one: bool = False) -> None:
        super().__init__()
        self.epsilon, self.plus_one = epsilon, plus_one
        self.weight = nn.Parameter(torch.zeros(features) if plus_one else torch.ones(features))

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        gain = self.gain
        out = F.rms_norm(x.to(gain.dtype), gain.shape, gain, self.epsilon)
        return self.tap("out", out.type_as(x), x)

    @property
    def gain(self) -> Float[Tensor, " D"]:
        """What the features are multiplied by."""
        return 1 + self.weight.float() if self.plus_one else self.weight  # one more, rounded, would lose the gain

    def operation(self, name: str) -> Operation:
        path = self._path.removesuffix(".")
        return Norm(self.gain, None, self.epsilon, centred=False, name=path, plus_one=self.plus_one)
