"""How far apart two outputs are, and when that is a fault.

Shapes: B batch, T positions, V outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.doctor import tolerances


@dataclass(frozen=True)
class Gap:
    """The largest difference of two outputs.

    Attributes:
        share: of the largest finite output of a channel that is not constant, or of a constant channel's own size where
            that is larger; infinite where one is NaN and the other is not.
        row, position: where it is.
    """

    share: float
    row: int = 0
    position: int = 0

    def __bool__(self) -> bool:
        return self.share > 0


def gap(found: Tensor, expected: Tensor) -> Gap:
    """Compares two outputs (B, T, …) of one shape. NaN in the same place in both is no difference."""
    if found.numel() == 0:
        return Gap(0.0)
    difference, measure = _apart(found, expected)
    flat = difference.reshape(difference.size(0), difference.size(1) if difference.dim() > 1 else 1, -1).amax(-1)
    at = int(flat.argmax())
    largest = float(flat.max())
    return Gap(largest / measure if largest else 0.0, at // flat.size(1), at % flat.size(1))


def moved(found: Tensor, expected: Tensor) -> Tensor:
    """(B, T): by how much each position differs, as a share of the largest output."""
    difference, measure = _apart(found, expected)
    return difference.reshape(*difference.shape[:2], -1).amax(-1).double() / measure


def _apart(found: Tensor, expected: Tensor) -> tuple[Tensor, float]:
    """Absolute differences, infinite where one is NaN and the other is not; and of what they are to be a share.

    Vocabularies are large, and most outputs are the same to the last bit: no pass over them is made in vain.
    """
    a, b = found.detach(), expected.detach()
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    if torch.equal(a, b):
        return torch.zeros(a.shape, dtype=wide, device=a.device), 1.0
    a, b = a.to(wide), b.to(wide)
    difference = (a - b).abs()
    if not bool(difference.amax().isfinite()):
        both = a.isnan() & b.isnan() | (a == b)
        difference = torch.where(both, 0.0, difference).nan_to_num(nan=torch.inf, posinf=torch.inf)
    sizes, measure = _sizes(b)
    if bool((sizes > measure).any()):  # what a constant channel differs by is a share of its own size
        difference = difference * (measure / sizes.clamp_min(measure))
    return difference, measure


def _sizes(x: Tensor) -> tuple[Tensor, float]:
    """The largest finite absolute value of each channel, and of all.

    The second without channels that are constant: beside -1e9, written into the logit of the padding, whatever the
    others do would be nothing. With them where all are constant.
    """
    rows = x.reshape(-1, x.size(-1))
    low, high = rows.aminmax(dim=0)
    if not bool((low.isfinite() & high.isfinite()).all()):
        low, high = rows.nan_to_num(0.0, 0.0, 0.0).aminmax(dim=0)
    sizes = torch.maximum(low.abs(), high.abs())
    telling = sizes[high - low > tolerances.CONSTANT * sizes]
    return sizes, max(float((telling if telling.numel() else sizes).max()), 1e-30)


def in_half(output: Tensor) -> bool:
    """Whether it was computed in half precision, also if it was cast since."""
    halves = (torch.bfloat16, torch.float16)
    return output.dtype in halves or any(torch.equal(output, output.to(half).to(output.dtype)) for half in halves)


def verdict(single: float, double: float | None, *, exact: bool, half: bool = False) -> bool | None:
    """Whether two outputs agree: True, False, or ``None`` where it cannot be told.

    Args:
        single: their gap in float32.
        double: their gap in float64; ``None`` if the model does not run in it.
        exact: whether both had the same shapes, so that the same bits are expected.
        half: whether they were computed in half precision, and nothing is known of it in another.
    """
    if single <= (0.0 if exact else tolerances.SHAPE_PASS):
        return True
    if double is None:
        shape = tolerances.HALF_FAIL if half else tolerances.SHAPE_FAIL
        grey = tolerances.EXACT_NOISE if exact else shape
        return None if single <= grey else False
    # Noise shrinks a billion times in double precision, less where a part computes in float32; a fault does not shrink.
    if double <= single * tolerances.SHRUNK and double <= tolerances.SHAPE_PASS:
        return True
    return False if double >= single * tolerances.STAYED else None
