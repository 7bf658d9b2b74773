"""In what precision matrix products are taken, and which is the fastest on this machine.

``float32`` and ``bfloat16`` say what the products compute in; weights, norms, softmax and loss are float32 in both.
``float32-medium`` is float32 through another library: on processors without bfloat16 matrix units
``torch.set_float32_matmul_precision("medium")`` hands products to oneDNN, which on some of them is twice as fast and
as exact, and on others computes in bfloat16. Only a measurement tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from pellucid.config.optimisation import Precision

MARGIN = 1.25  # how many times faster another precision must be to be taken
EXACT = 1e-5  # relative error of a product that still counts as float32; bfloat16 makes about 3e-3


@contextmanager
def products(device: torch.device, precision: str) -> Iterator[None]:
    """Matrix products in a precision, for models on a device."""
    before = torch.get_float32_matmul_precision()
    try:
        if precision == "float32-medium":
            torch.set_float32_matmul_precision("medium")
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def fastest(device_type: str) -> tuple[Precision, str]:
    """The precision to train in on this machine, and why; measured once in about a second."""
    device = torch.device(device_type)
    if device_type != "cpu":
        return (
            ("bfloat16", "this device has units for it") if _has_bfloat16(device) else ("float32", "no bfloat16 here")
        )
    kinds: tuple[Precision, ...] = ("float32", "float32-medium", "bfloat16")
    speeds = {precision: _speed(precision) for precision in kinds}
    if medium_error() > EXACT:
        del speeds["float32-medium"]
    told = ", ".join(f"{name} {speed / 1e9:,.0f}" for name, speed in speeds.items())
    best = max(speeds, key=lambda name: speeds[name])
    choice = best if speeds[best] > MARGIN * speeds["float32"] else "float32"
    return choice, f"products of 1024³ in GFLOP/s: {told}"


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


@torch.no_grad()
def medium_error() -> float:
    """Root mean square error of a ``float32-medium`` product, relative to the truth."""
    a, b = _factors(256, torch.float64)
    with products(torch.device("cpu"), "float32-medium"):
        found = (a.float() @ b.float()).double()
    truth = a.float().double() @ b.float().double()
    return ((found - truth).norm() / truth.norm()).item()


@torch.no_grad()
def _speed(precision: str) -> float:
    """FLOP/s of a product in a precision: the best of five, which other programs disturb least."""
    size = 1024
    a, b = _factors(size, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    with products(torch.device("cpu"), precision):
        return 2 * size**3 / min(_seconds(lambda: a @ b) for _ in range(6))


def _factors(size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(dtype) for _ in range(2))
    return a, b


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
