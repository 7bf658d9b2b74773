"""Products of float32 through another library, and how exact those are on this machine.

On processors without units for bfloat16 matrices ``torch.set_float32_matmul_precision("medium")`` hands products to
oneDNN, which on some of them is twice as fast as PyTorch's own and as exact, and on others computes in bfloat16. Only a
measurement tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch

EXACT = 1e-5
"""Relative error of a product that still counts as float32; bfloat16 makes about 3e-3."""


class _Users:
    """Whoever wants "medium": the setting is the process's, so of several threads the last restores it."""

    def __init__(self) -> None:
        self.lock, self.count, self.before = Lock(), 0, "highest"

    def enter(self) -> None:
        with self.lock:
            if self.count == 0:
                self.before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("medium")
            self.count += 1

    def leave(self) -> None:
        with self.lock:
            self.count -= 1
            if self.count == 0:
                torch.set_float32_matmul_precision(self.before)


_users = _Users()


@contextmanager
def medium_products() -> Iterator[None]:
    """Products of float32 as "medium" has them; as before when all who wanted them have left."""
    _users.enter()
    try:
        yield
    finally:
        _users.leave()


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
