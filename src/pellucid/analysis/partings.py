"""How two passes part: every tensor that both have, and how far the one is from the other.

What :func:`pellucid.analysis.compare.diff` does thoroughly, in double precision and with a cause, here for passes that
have been run already, edited ones included, at a glance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.analysis.compare import ULPS
from pellucid.analysis.recordings import distance, paired

COARSEST = 0.1  # a share of scale: in half precision, roundings through a model come to some hundredths
Shape = tuple[int, ...]
Value = Callable[[str], Tensor]
"""A tensor of a pass by its name."""


@dataclass(frozen=True)
class Apart:
    """One tensor of both.

    Attributes:
        distance: the largest difference as a share of the largest number in either; of booleans the share that differs.
        parts: whether that is more than rounding explains.
    """

    name: str
    distance: float
    parts: bool


@dataclass(frozen=True)
class Partings:
    """What two passes have in common.

    Attributes:
        profile: every tensor that both have in one shape, in the order computed.
        first: the name of the first that parts beyond rounding; ``None`` where none does.
        unmatched: names that only one has, or in another shape, with what is the matter.
    """

    profile: tuple[Apart, ...]
    first: str | None
    unmatched: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def partings(a: Sequence[str], value_a: Value, b: Sequence[str], value_b: Value) -> Partings:
    """Compares two passes tensor by tensor.

    Args:
        a, b: the names of each, in the order computed.
        value_a, value_b: their tensors.
    """
    in_b, profile, unmatched = set(b), list[Apart](), list[str]()
    for name in a:
        if name not in in_b:
            unmatched.append(f"{name} only in A")
            continue
        ours, theirs = value_a(name), value_b(name)
        pair = paired(ours, theirs)
        if pair is None:
            unmatched.append(f"{name} {list(ours.shape)} in A, {list(theirs.shape)} in B")
            continue
        apart = distance(*pair)
        # Not `>`: what is no number parts.
        profile.append(Apart(name, apart, not apart <= _rounding(*pair)))
    in_a = set(a)
    unmatched += [f"{name} only in B" for name in b if name not in in_a]
    first = next((each.name for each in profile if each.parts), None)
    return Partings(tuple(profile), first, tuple(unmatched))


def _rounding(*tensors: Tensor) -> float:
    """What rounding may add up to through a model, as a share of scale; nothing for what is no real number."""
    precisions = [torch.finfo(x.dtype).eps for x in tensors if x.dtype.is_floating_point]
    return min(ULPS * max(precisions, default=0.0), COARSEST)
