"""A weight matrix made ready for fast products: in which type, and by which kernel, is measured.

The plain twin is ``torch.nn.functional.linear``. What comes in and goes out is float32; in between

- ``float32`` is exact;
- ``bfloat16`` rounds inputs and weights to 8 bits of mantissa, and reads half of the bytes; where the processor has no
  instructions for it, what was rounded is multiplied as float32;
- ``float16`` rounds the weights alone, to 11 bits of mantissa, reads half of the bytes and multiplies float32: nearly
  exact, on any processor with AVX2, and slower than ``bfloat16`` where many rows wait for their sums;
- ``int8`` rounds each row of the weights and each row of the inputs to 255 steps of their own (Dettmers et al. 2022,
  §2.1), and reads a quarter. Sums of integers are exact, so that a row's product does not depend on its neighbours.

Shapes: N rows, K features in, O features out.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from pellucid.errors import UserError

Weights = Literal["float32", "float16", "bfloat16", "int8"]
"""The type that weights are read in."""


def known(weights: str, *also: str) -> Weights:
    """A type by its name.

    Args:
        also: what else may be named where it is asked for; told with the types.

    Raises:
        UserError: for one that is not known.
    """
    for name in get_args(Weights):
        if name == weights:
            return name
    *names, last = (str(name) for name in (*get_args(Weights), *also))
    raise UserError("weights", f'found "{weights}"', f"{', '.join(names)} or {last}")


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


def _in_bfloat16(
    multiply: Callable[[Tensor, Any, Tensor | None], Tensor],
) -> Callable[[Tensor, Any, Tensor | None], Tensor]:
    def rounded(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        y = multiply(x.bfloat16(), weight, None).float()
        return y if bias is None else y.add_(bias)

    return rounded


def _widened(way: Way) -> Way:
    """A way of float32 for what is rounded to bfloat16."""
    return Way(
        way.name,
        lambda weight: way.pack(weight.bfloat16().float()),
        lambda x, weight, bias: way.multiply(x.bfloat16().float(), weight, bias),
    )


LARGEST_FLOAT16 = torch.finfo(torch.float16).max


def _within_float16(weight: Tensor) -> Tensor:
    return weight.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16)


def _of_float16(way: Way) -> Way:
    """A way of float32 for weights that are rounded to float16; what is beyond its range becomes its largest number."""
    return Way(way.name, lambda weight: way.pack(_within_float16(weight).half().float()), way.multiply)


def _pack_float16(weight: Tensor) -> Any:
    return torch.ops.quantized.linear_prepack_fp16.default(_within_float16(weight), None)


def _multiply_float16(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    with torch._C.DisableTorchFunction():  # as in _sums_fbgemm
        y = torch.ops.quantized.linear_dynamic_fp16.default(x, weight)
    return y if bias is None else y.add_(bias)


STEPS = 127
_STEPS = torch.tensor(float(STEPS))  # a tensor: a number over a tensor takes two operations

FEW = 64
"""Rows that stay in a cache while their largest entries are found."""

TINY = 1e-30
"""What the largest entry of a row, which may be zero, is taken for where it is smaller."""


def largest(x: Float[Tensor, "N K"]) -> Float[Tensor, "N 1"]:
    """Of each row, without its sign."""
    if x.size(0) <= FEW:
        return x.abs().amax(dim=-1, keepdim=True)
    most = x.amax(dim=-1, keepdim=True)  # reading twice is cheaper than to write once
    return torch.maximum(most, x.amin(dim=-1, keepdim=True).neg_())


def in_steps(x: Float[Tensor, "N K"], most: Float[Tensor, "N 1"]) -> Float[Tensor, "N K"]:
    """Rows in whole steps, of which each row's largest entry is 127."""
    if len(x) == 1:  # Python divides sooner than two operations; a quotient of doubles, rounded, is that of floats
        return (x * (STEPS / max(most.item(), TINY))).round_()
    return (x * torch.div(_STEPS, most.clamp_min(TINY))).round_()


@dataclass(frozen=True)
class Rounded:
    """A weight in whole steps, packed for a kernel.

    Attributes:
        scale: of each row of the weight, what a sum of products of steps is worth where the input's largest is 1.
    """

    packed: Any
    scale: Float[Tensor, " O"]


def _whole(
    name: str,
    pack: Callable[[Int8[Tensor, "O K"], Tensor], Any],
    sums: Callable[[Float[Tensor, "N K"], Rounded], Float[Tensor, "N O"]],
) -> Way:
    """A way of int8: ``sums`` gives sums of products of whole steps, times ``scale``."""

    def rounded(weight: Tensor) -> Rounded:
        most = largest(weight)
        scale = (most[:, 0] / STEPS**2).contiguous()
        steps = in_steps(weight, most).char().contiguous()  # some checkpoints hold weights turned, which is slower read
        return Rounded(pack(steps, scale), scale)

    def multiply(x: Tensor, weight: Rounded, bias: Tensor | None) -> Tensor:
        most = largest(x)
        y = sums(in_steps(x, most), weight)
        return y.mul_(most) if bias is None else torch.addcmul(bias, y, most)

    return Way(name, rounded, multiply)


def _sums_plain(steps: Tensor, weight: Rounded) -> Tensor:
    return torch._int_mm(steps.char(), weight.packed) * weight.scale


def _sums_onednn(steps: Tensor, weight: Rounded) -> Tensor:
    packed, zeros = weight.packed
    # Fast are inputs from 0 to 255 alone, of which the kernel takes 128 away again; signed bytes are sooner made.
    shifted = steps.char().view(torch.uint8).bitwise_xor_(128)
    return torch.ops.onednn.qlinear_pointwise.default(
        shifted, 1.0, 128, packed, weight.scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _sums_fbgemm(steps: Tensor, weight: Rounded) -> Tensor:
    # Whether a packed weight, which is no tensor, has a say in operations takes as long to find out as a small product.
    with torch._C.DisableTorchFunction():
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default(steps, 1.0, 128, weight.packed)


def _pack_onednn(steps: Int8[Tensor, "O K"], scale: Tensor) -> Any:
    return torch.ops.onednn.qlinear_prepack(steps, None), torch.zeros(len(scale), dtype=torch.int32)


def _pack_fbgemm(steps: Int8[Tensor, "O K"], scale: Tensor) -> Any:
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this kind of tensor will be gone in some torch: then the kernel is, too
        weight = torch._make_per_channel_quantized_tensor(steps, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack.default(weight, None)


DENSE = Way("dense", lambda weight: weight, _dense)
TURNED = Way("turned", lambda weight: weight.t().contiguous(), _turned)
PACKED = Way("packed", _pack, _packed)
BFLOAT16 = Way("dense", lambda weight: weight.bfloat16().contiguous(), _in_bfloat16(_dense))
BFLOAT16_PACKED = Way("packed", lambda weight: _pack(weight.bfloat16()), _in_bfloat16(_packed))
BFLOAT16_WIDENED = tuple(_widened(way) for way in (DENSE, TURNED, PACKED))
FLOAT16, FLOAT16_PACKED = _of_float16(DENSE), _of_float16(PACKED)
FLOAT16_FBGEMM = Way("fbgemm", _pack_float16, _multiply_float16)
INT8 = _whole("plain", lambda steps, scale: steps.t(), _sums_plain)
INT8_ONEDNN = _whole("onednn", _pack_onednn, _sums_onednn)
INT8_FBGEMM = _whole("fbgemm", _pack_fbgemm, _sums_fbgemm)


@cache
def _works(way: Way) -> bool:
    """Whether this machine has a kernel, which adds without loss.

    For bfloat16 some processors have none; others add two products of bytes in 16 bits, where the largest do not fit.
    """
    x = torch.ones(2, 128)
    x[1] = -1
    try:
        return bool(way.multiply(x, way.pack(torch.ones(16, 128)), None).abs().sub(128).abs().max() < 1e-3)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def ways_for(weights: Weights, device: torch.device) -> tuple[Way, ...]:
    """The kernels that this machine has, the plainest first.

    Raises:
        UserError: for int8 or float16 where there is no kernel for it.
    """
    onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()
    match weights:
        case "float32":
            return (DENSE, TURNED, PACKED) if onednn else (DENSE,)
        case "bfloat16":
            if not onednn:
                return (BFLOAT16,)
            return (BFLOAT16, BFLOAT16_PACKED) if _works(BFLOAT16_PACKED) else BFLOAT16_WIDENED
        case _ if device.type != "cpu":
            raise UserError("weights", f"{weights} on {device.type}", "float32 or bfloat16 there")
        case "float16":
            plain = FLOAT16_PACKED if onednn else FLOAT16
            return (plain, FLOAT16_FBGEMM) if _works(FLOAT16_FBGEMM) else (plain,)
        case "int8":
            return (INT8, *(way for way in (INT8_ONEDNN, INT8_FBGEMM) if _works(way)))


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
        missing = usual(rows) - rows
        for most, multiply, packed in self.chosen:
            if rows <= most:
                if missing == 0:
                    return multiply(x, packed, self.bias)
                return multiply(F.pad(x, (0, 0, 0, missing)), packed, self.bias)[:rows]
        raise AssertionError("the last kernel takes any number of rows")


def usual(rows: int) -> int:
    """The next of eight numbers of rows in each octave above 16, of sixteen above 256.

    oneDNN writes a program for every shape that it meets, which takes as long as a small product, and keeps a thousand
    of them: some 300 MB, where the lengths of prompts are as they come.
    """
    step = 1 << max(0, (rows - 1).bit_length() - (4 if rows <= 256 else 5))
    return -(-rows // step) * step


ROWS = (1, 4, 8, 32, 128, 1024)
"""Numbers of rows that kernels are measured at; each choice holds up to the geometric mean with the next."""

MOST = 5_000_000_000
"""Multiplications of a product that is not too long to be measured."""


class Products:
    """Makes products of one type; measures once for every shape.

    Args:
        weights: the type that weights are read in.
        device: where they are.
        read: how many numbers a step reads in all: what a cache does not hold comes from memory, and is measured so.
    """

    def __init__(self, weights: Weights, device: torch.device, read: int = 0) -> None:
        self.weights, self.ways = weights, ways_for(weights, device)
        self.from_memory = read * WIDTHS[weights] > CACHE
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
        copies = self._copies(weight)
        packs = [[way.pack(weight.clone() if copies > 1 else weight) for _ in range(copies)] for way in self.ways]
        one = [packed[:1] for packed in packs]
        chosen: list[tuple[float, Way]] = []
        measured = [rows for rows in ROWS if rows * weight.numel() <= MOST] or [1]
        for rows, after in zip(measured, (*measured[1:], math.inf), strict=True):
            x = torch.ones(rows, weight.size(1), device=weight.device)
            times = _seconds(self.ways, x, packs if rows <= BOUND else one)
            chosen.append((math.sqrt(rows * after), self.ways[times.index(min(times))]))
        return chosen

    def _copies(self, weight: Tensor) -> int:
        """As many as a cache does not hold, where weights come from memory in a step; else one, which stays there."""
        return min(COPIES, -(-CACHE // (weight.numel() * WIDTHS[self.weights]))) if self.from_memory else 1


WIDTHS: Mapping[Weights, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""Bytes of a number."""

CACHE, COPIES = 32 << 20, 16
"""Bytes that the cores of a small machine hold between them; copies that are made at most."""

BOUND = 32
"""Rows up to which a product waits for its weight rather than for its sums."""

RUNS, ENOUGH = 6, 0.03
"""So many runs of a kernel, or seconds that the runs of all take, tell which is the fastest."""


def _seconds(ways: Sequence[Way], x: Tensor, packs: Sequence[Sequence[Any]]) -> list[float]:
    """Of each the least of a few runs over all its weights, after one that warms up.

    They take turns, so that what disturbs one of them disturbs all.
    """
    runs: list[list[float]] = [[_run(way, x, packs[i]) for i, way in enumerate(ways)]]
    while len(runs) <= RUNS and sum(map(sum, runs[1:])) < ENOUGH:
        runs.append([_run(way, x, packs[i]) for i, way in enumerate(ways)])
    return [min(times) for times in zip(*runs[1:], strict=True)]


def _run(way: Way, x: Tensor, packs: Sequence[Any]) -> float:
    began = time.perf_counter()
    for packed in packs:
        way.multiply(x, packed, None)
    return time.perf_counter() - began
