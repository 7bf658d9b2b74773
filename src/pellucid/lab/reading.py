"""What is read off the results of several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The mean of what the seeds gave, and from where to where it goes."""
    middle = format(mean(values), form)
    low, high = format(min(values), form), format(max(values), form)
    return middle if low == high else f"{middle} ({low} to {high})"


def reached(steps: Sequence[int], values: Sequence[float], least: float) -> int | None:
    """The first step at which a value is at least so much; ``None`` for never."""
    return next((step for step, value in zip(steps, values, strict=True) if value >= least), None)


def crossing(lengths: Sequence[float], ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The length from which on ours is more than theirs, between the measured ones in logarithms; ``None`` for none."""
    ahead = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    for i in range(len(ahead) - 1, 0, -1):
        if ahead[i] > 0 >= ahead[i - 1]:
            part = -ahead[i - 1] / (ahead[i] - ahead[i - 1])
            return float(lengths[i - 1] * (lengths[i] / lengths[i - 1]) ** part)
    return None
