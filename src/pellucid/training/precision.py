"""In what precision matrix products are taken, and which is the fastest on this machine.

``float32`` and ``bfloat16`` say what the products compute in; in both, weights and norms are float32, and softmax and
loss add up in it.
``float32-medium`` is float32 through another library (``nn/medium.py``), which is taken where a measurement shows that
it is as exact.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch

from pellucid.config.optimisation import Precision
from pellucid.nn.medium import EXACT, medium_error, medium_products

MARGIN = 1.25  # how many times faster another precision must be to be taken
LARGEST = 1024  # rows of the products by which precisions are compared
SLOW = 0.1  # seconds; a product that takes longer tells enough, and no larger one is tried


@contextmanager
def products(device: torch.device, precision: str) -> Iterator[None]:
    """Matrix products in a precision, for models on a device."""
    medium = medium_products() if precision == "float32-medium" else nullcontext()
    with medium, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


@cache
def fastest(device_type: str) -> tuple[Precision, str]:
    """The precision to train in on this machine, and why; measured once in about a second."""
    device = torch.device(device_type)
    if device_type != "cpu":
        return (
            ("bfloat16", "this device has units for it") if _has_bfloat16(device) else ("float32", "no bfloat16 here")
        )
    kinds: tuple[Precision, ...] = ("float32", "float32-medium", "bfloat16")
    speeds = {precision: _speed(device, precision) for precision in kinds}
    if medium_error() > EXACT:
        del speeds["float32-medium"]
    told = ", ".join(f"{name} {speed / 1e9:,.0f}" for name, speed in speeds.items())
    best = max(speeds, key=lambda name: speeds[name])
    choice = best if speeds[best] > MARGIN * speeds["float32"] else "float32"
    return choice, f"products of up to {LARGEST}³ in GFLOP/s: {told}"


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def doubts(precision: str, device: torch.device) -> list[str]:
    """What is to be said where a run trains in ``float32-medium``, which is float32 only where it was chosen."""
    if precision != "float32-medium" or (device.type == "cpu" and medium_error() <= EXACT):
        return []
    return [
        "float32-medium is less exact here than float32: training.precision=float32 trains in that; "
        "a run that goes on reads it from its config.toml"
    ]


@cache
def slowness(precision: str, device_type: str) -> str:
    """How much slower bfloat16 is than float32, on processors without instructions for it; empty where it is not."""
    if precision != "bfloat16" or device_type != "cpu":
        return ""
    device = torch.device(device_type)
    times = _speed(device, "float32") / _speed(device, "bfloat16")
    return f"products in bfloat16 are {times:.0f} times as slow here as in float32" if times > MARGIN else ""


def _speed(device: torch.device, precision: str) -> float:
    """FLOP/s of a product in a precision: the best of five, which other programs disturb least."""
    size, seconds = product_seconds(device, precision, LARGEST)
    return 2 * size**3 / min(seconds)


@torch.no_grad()
def product_seconds(device: torch.device, precision: str, largest: int) -> tuple[int, list[float]]:
    """How long products of square matrices take: their size, and the seconds of five, after one that warms up.

    They are as large as asked for, on a CPU smaller where that takes long: a processor that has no instructions for
    bfloat16 multiplies it fifty times slower than float32, and is timed once.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    size = 256 if device.type == "cpu" else largest
    while True:
        a, b = _factors(size, dtype, device)
        _seconds(a, b, precision)
        if (once := _seconds(a, b, precision)) > SLOW and device.type == "cpu":
            return size, [once]
        if size >= largest:
            return size, [once, *(_seconds(a, b, precision) for _ in range(4))]
        size *= 2


def _factors(size: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    return a, b


def _seconds(a: torch.Tensor, b: torch.Tensor, precision: str) -> float:
    began = time.perf_counter()
    with products(a.device, precision):
        a @ b
    if a.device.type != "cpu":
        torch.accelerator.synchronize(a.device)
    return time.perf_counter() - began
