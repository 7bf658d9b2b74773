"""A norm taken apart at one place: what came in, its mean and variance, what went out (Ba et al. 2016, eq. 3 and 4).

Computed in double precision, so that what stands beside the model's own numbers is apart from them by their rounding.

Shapes: D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.trace.operations import Norm


@dataclass(frozen=True, eq=False)
class Normed:
    """One vector on its way through a norm.

    Attributes:
        before: what came in.
        mean: what is taken away; ``None`` where a norm does not centre (RMSNorm).
        variance: the mean square of what is left.
        deviation: √(variance + ε), by which it is divided.
        standard: what comes of that.
        gain, bias: what each feature is multiplied by, and what is added; ``None`` where nothing is.
        after: standard · gain + bias.
    """

    before: Float[Tensor, " D"]
    mean: float | None
    variance: float
    epsilon: float
    deviation: float
    standard: Float[Tensor, " D"]
    gain: Float[Tensor, " D"]
    bias: Float[Tensor, " D"] | None
    after: Float[Tensor, " D"]

    @property
    def rms(self) -> tuple[float, float]:
        """The root of the mean square before and after."""
        return self.before.square().mean().sqrt().item(), self.after.square().mean().sqrt().item()


@torch.no_grad()
def normed(norm: Norm, x: Float[Tensor, " D"]) -> Normed:
    """A norm, step by step, on one vector."""
    x, gain = x.detach().double(), norm.gain.detach().double()
    bias = None if norm.bias is None else norm.bias.detach().double()
    mean = x.mean().item() if norm.centred else None
    left = x if mean is None else x - mean
    variance = left.square().mean().item()
    deviation = (variance + norm.epsilon) ** 0.5
    standard = left / deviation
    after = standard * gain if bias is None else standard * gain + bias
    return Normed(x, mean, variance, norm.epsilon, deviation, standard, gain, bias, after)
