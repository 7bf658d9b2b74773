"""Elementary functions of CPU tensors, called once by one thread before several call them.

PyTorch hands them to MKL, which looks for the kernel of a function when it is first called. Where two threads make
that call at once, one of them may get a kernel of low accuracy for its share of it, and never again: one call in
twenty on a Xeon with AMX, with errors to 2e-4 in half of the cosines of rotary positions. A run that is resumed is
then not equal in every bit, and a check may see a fault that is not there. MKL 2024.2 is the last that does so:
https://github.com/pytorch/pytorch/issues/188792.
"""

from __future__ import annotations

import torch

FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "sin", "tan", "tanh", "sqrt"),
    *("exp", "expm1", "log", "log10", "log1p", "log2", "erf", "erfc", "erfinv"),
)


def call_once() -> None:
    """Calls each function for float32 and float64; takes less than a millisecond."""
    for dtype in (torch.float32, torch.float64):
        half = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(half)
