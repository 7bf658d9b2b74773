"""Products of float32 through another library, and how exact those are on this machine.

On processors without units for bfloat16 matrices ``torch.set_float32_matmul_precision("medium")`` hands products to
oneDNN, which on some of them is twice as fast as PyTorch's own and as exact, and on others computes in bfloat16. Only a
measurement tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

EXACT = 1e-5
"""Relative error of a product that still counts as float32; bfloat16 makes about 3e-3."""


@contextmanager
def medium_products() -> Iterator[None]:
    """Products of float32 as "medium" has them; as before afterwards."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def exact_products() -> Iterator[None]:
    """The same where those are as exact as float32 is; elsewhere nothing changes."""
    if medium_error() > EXACT:
        yield
        return
    with medium_products():
        yield


@cache
@torch.no_grad()
def medium_error() -> float:
    """Root mean square error of a "medium" product on a CPU, relative to the truth."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    with medium_products():
        found = (a @ b).double()
    truth = a.double() @ b.double()
    return ((found - truth).norm() / truth.norm()).item()
