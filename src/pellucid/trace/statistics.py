"""A tensor in a few numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """What is asked first of a tensor; of its finite numbers, where there are others.

    Attributes:
        least, greatest, mean: of the finite numbers.
        rms: the root of the mean square.
        nan, infinite: how many are neither.
        entropy: the mean over the rows, in nats, where the rows are distributions; ``None`` elsewhere.
    """

    least: float
    greatest: float
    mean: float
    rms: float
    nan: int
    infinite: int
    entropy: float | None = None

    @classmethod
    def of(cls, tensor: Tensor, *, distribution: bool = False) -> Statistics:
        """Of a tensor of any shape and type; in double precision where there is one."""
        with torch.no_grad():
            numbers = tensor.detach().float()
            finite = numbers[numbers.isfinite()]
            nan, infinite = int(numbers.isnan().sum()), int(numbers.isinf().sum())
            if finite.numel() == 0:
                return cls(*(float("nan"),) * 4, nan, infinite)
            return cls(
                finite.min().item(),
                finite.max().item(),
                finite.mean(dtype=torch.float64).item(),
                finite.square().mean(dtype=torch.float64).sqrt().item(),
                nan,
                infinite,
                torch.special.entr(numbers).sum(dim=-1).mean().item() if distribution else None,
            )

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)
