"""A weight matrix made ready for fast products: in which type, and by which kernel, is measured.

The plain twin is ``torch.nn.functional.linear``. What comes in and goes out is float32; in between

- ``float32`` is exact;
- ``bfloat16`` rounds inputs and weights to 8 bits of mantissa, and reads half of the bytes;
- ``int8`` rounds each row of the weights and each row of the inputs to 255 steps of their own (Dettmers et al. 2022,
  §2.1), and reads a quarter. Sums of integers are exact, so that a row's product does not depend on its neighbours.

Shapes: N rows, K features in, O features out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import UserError

Weights = Literal["float32", "bfloat16", "int8"]
"""The type that weights are read in."""


def known(weights: str) -> Weights:
    """A type by its name.

    Raises:
        UserError: for one that is not known.
    """
    for name in get_args(Weights):
        if name == weights:
            return name  # type: ignore[no-any-return]
    raise UserError("weights", f'found "{weights}"', "float32, bfloat16 or int8")


@dataclass(frozen=True)
class Way:
    """A kernel: ``pack`` lays out a weight (O, K) for it, ``multiply`` gives x Wᵀ + bias for x (N, K)."""

    name: str
    pack: Callable[[Tensor], Any]
    multiply: Callable[[Tensor, Any, Tensor | None], Tensor]


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _turned(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def _packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def _half(multiply: Callable[[Tensor, Any, Tensor | None], Tensor]) -> Callable[[Tensor, Any, Tensor | None], Tensor]:
    def rounded(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        y = multiply(x.bfloat16(), weight, None).float()
        return y if bias is None else y.add_(bias)

    return rounded


STEPS = 127


def steps_of(x: Float[Tensor, "N K"]) -> Float[Tensor, "N 1"]:
    """The size of a step for each row: its largest entry is 127 of them."""
    return x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-30).div_(STEPS)


@dataclass(frozen=True)
class Rounded:
    """A weight in whole steps, one size of step for each row, packed for a kernel."""

    weight: Tensor
    steps: Float[Tensor, " O"]
    zeros: Tensor


def _whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    steps = steps_of(weight)
    return (weight / steps).round_().to(torch.int8), steps[:, 0].contiguous()


def _round_plain(weight: Tensor) -> Rounded:
    whole, steps = _whole(weight)
    return Rounded(whole.t(), steps, torch.empty(0))


def _round_packed(weight: Tensor) -> Rounded:
    whole, steps = _whole(weight)
    packed = torch.ops.onednn.qlinear_prepack(whole, None)
    return Rounded(packed, steps, torch.zeros(len(steps), dtype=torch.int32))


def _scaled(y: Tensor, steps: Tensor, bias: Tensor | None) -> Tensor:
    return y.mul_(steps) if bias is None else torch.addcmul(bias, y, steps)


def _whole_plain(x: Tensor, weight: Rounded, bias: Tensor | None) -> Tensor:
    steps = steps_of(x)
    sums = torch._int_mm((x / steps).round_().to(torch.int8), weight.weight)
    return _scaled(sums * weight.steps, steps, bias)


def _whole_packed(x: Tensor, weight: Rounded, bias: Tensor | None) -> Tensor:
    steps = steps_of(x)
    # The kernel wants inputs from 0 to 255, and takes what that adds away again.
    whole = (x / steps).round_().add_(128).to(torch.uint8)
    sums = torch.ops.onednn.qlinear_pointwise.default(
        whole, 1.0, 128, weight.weight, weight.steps, weight.zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return _scaled(sums, steps, bias)


DENSE = Way("dense", lambda weight: weight, _dense)
TURNED = Way("turned", lambda weight: weight.t().contiguous(), _turned)
PACKED = Way("packed", _pack, _packed)
HALF = Way("dense", lambda weight: weight.bfloat16(), _half(_dense))
HALF_PACKED = Way("packed", lambda weight: _pack(weight.bfloat16()), _half(_packed))
WHOLE = Way("plain", _round_plain, _whole_plain)
WHOLE_PACKED = Way("packed", _round_packed, _whole_packed)


def ways_for(weights: Weights, device: torch.device) -> tuple[Way, ...]:
    """The kernels that this machine has, the plainest first.

    Raises:
        UserError: for int8 where there is no kernel for it.
    """
    onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()
    match weights:
        case "float32":
            return (DENSE, TURNED, PACKED) if onednn else (DENSE,)
        case "bfloat16":
            return (HALF, HALF_PACKED) if onednn else (HALF,)
        case "int8":
            if device.type != "cpu":
                raise UserError("weights", f"int8 on {device.type}", "float32 or bfloat16 there")
            return (WHOLE, WHOLE_PACKED) if onednn else (WHOLE,)


class Product:
    """x Wᵀ + bias, by the kernel that is fastest for as many rows.

    Args:
        weight: (O, K). bias: (O,).
        chosen: up to how many rows which kernel, rising.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, chosen: Sequence[tuple[float, Way]]) -> None:
        packs = {way: way.pack(weight) for way in {way: None for _, way in chosen}}
        self.chosen = [(rows, way.multiply, packs[way]) for rows, way in chosen]
        self.bias = bias

    def __call__(self, x: Float[Tensor, "N K"]) -> Float[Tensor, "N O"]:
        rows = x.size(0)
        for most, multiply, packed in self.chosen:
            if rows <= most:
                return multiply(x, packed, self.bias)
        raise AssertionError("the last kernel takes any number of rows")


ROWS = (1, 4, 32, 128)
"""Numbers of rows that kernels are measured at; each choice holds up to the geometric mean with the next."""


class Products:
    """Makes products of one type; measures once for every shape.

    Args:
        weights: the type that weights are read in.
        device: where they are.
    """

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.weights, self.ways = weights, ways_for(weights, device)
        self.choices: dict[tuple[int, int], list[tuple[float, Way]]] = {}

    def of(self, weight: Float[Tensor, "O K"], bias: Tensor | None) -> Product:
        """A product by a weight."""
        weight = weight.detach().float()
        shape = (weight.size(0), weight.size(1))
        if shape not in self.choices:
            self.choices[shape] = self._choose(weight)
        return Product(weight, None if bias is None else bias.detach().float(), self.choices[shape])

    def _choose(self, weight: Tensor) -> list[tuple[float, Way]]:
        if len(self.ways) == 1:
            return [(math.inf, self.ways[0])]
        packs = [way.pack(weight) for way in self.ways]
        chosen: list[tuple[float, Way]] = []
        for rows, after in zip(ROWS, (*ROWS[1:], math.inf), strict=True):
            x = torch.ones(rows, weight.size(1), device=weight.device)
            times = [
                _seconds(way, x, pack, large=weight.numel() > SMALL) for way, pack in zip(self.ways, packs, strict=True)
            ]
            chosen.append((math.sqrt(rows * after), self.ways[times.index(min(times))]))
        return chosen


CACHE = 16_000_000
"""Numbers that are read before each run: more than a cache holds, so that weights come from memory, as in a step."""

SMALL = 1_000_000
"""Weights of so few numbers stay in a cache."""


def _seconds(way: Way, x: Tensor, packed: Any, *, large: bool) -> float:
    """The least of a few runs, after one that warms up."""
    way.multiply(x, packed, None)
    times, others = [], torch.empty(CACHE if large else 0, device=x.device).zero_()
    for _ in range(4):
        others.sum()
        began = time.perf_counter()
        way.multiply(x, packed, None)
        times.append(time.perf_counter() - began)
    return min(times)
