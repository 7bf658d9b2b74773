"""The learning rate as a function of the step, counted from 1."""

from __future__ import annotations

import math
from collections.abc import Callable

from pellucid.config.optimisation import Constant, Cosine, InverseSquareRoot, Linear, Schedule, WarmupStableDecay

Rate = Callable[[int], float]


def learning_rate(schedule: Schedule, *, steps: int, d_model: int) -> Rate:
    """The rate of each of ``steps`` steps."""
    match schedule:
        case InverseSquareRoot(warmup_steps=warmup):
            # Eq. 3 of the paper, d_model^-0.5 · min(step^-0.5, step · warmup^-1.5), written from its peak.
            top = schedule.peak or (d_model * warmup) ** -0.5
            return lambda step: top * min(step / warmup, math.sqrt(warmup / step))
        case Cosine(peak=peak, warmup_steps=warmup, final=final):
            return _warmed(
                warmup, steps, lambda done: peak * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2), peak
            )
        case Linear(peak=peak, warmup_steps=warmup, final=final):
            return _warmed(warmup, steps, lambda done: peak * (1 - done * (1 - final)), peak)
        case WarmupStableDecay(peak=peak, warmup_steps=warmup, decay=decay, final=final):
            return _warmed(
                warmup, steps, lambda done: peak * (1 - (1 - final) * math.sqrt(max(0.0, 1 - (1 - done) / decay))), peak
            )
        case Constant(peak=peak, warmup_steps=warmup):
            return _warmed(warmup, steps, lambda done: peak, peak)


def _warmed(warmup: int, steps: int, after: Callable[[float], float], peak: float) -> Rate:
    """A straight line up to the peak, then ``after`` of the share of the remaining steps that is done."""
    rest = max(steps - warmup, 1)
    return lambda step: peak * step / warmup if step <= warmup else after(min((step - warmup) / rest, 1.0))
