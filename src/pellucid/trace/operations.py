"""What a tapped tensor was computed by: all of it again, plainly, and any one number down to its products."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.trace.working import (
    Factor,
    Index,
    Operand,
    Step,
    Working,
    added,
    along,
    applied,
    at,
    literal,
    picked,
    product,
    row,
    single,
    wide,
    worked,
)


@runtime_checkable
class Operation(Protocol):
    """What makes a tensor out of others."""

    @property
    def formula(self) -> str:
        """In one line."""

    def compute(self, *operands: Any) -> Tensor:
        """The whole tensor again."""

    def explain(self, index: Index, *operands: Operand) -> Working:
        """One number of it."""


# ---- the operations that any network has -------------------------------------------------------


@dataclass(frozen=True)
class Same:
    """The same tensor under a second name."""

    formula: str = "the same"

    def compute(self, *operands: Tensor) -> Tensor:
        return operands[0]

    def explain(self, index: Index, *operands: Operand) -> Working:
        return product(single(operands[0], index))


@dataclass(frozen=True)
class Given:
    """What came from outside, or from a module that does not say how it computes it."""

    formula: str = "given"

    def compute(self, *operands: Tensor) -> Tensor:
        return operands[0]

    def explain(self, index: Index, *operands: Operand) -> Working:
        return product(single(operands[0], index))


@dataclass(frozen=True)
class Recorded:
    """What a tape from disk says of an operation, without the model that could do it again."""

    name: str
    formula: str

    def compute(self, *operands: Any) -> Tensor:
        raise UserError(self.name, "cannot be computed again from a tape on disk", "a trace of the model itself")

    def explain(self, index: Index, *operands: Operand) -> Working:
        raise UserError(self.name, "cannot be explained from a tape on disk", "a trace of the model itself")


@dataclass(frozen=True)
class Sum:
    """Tensors of one shape added up."""

    formula: str = "a + b"

    def compute(self, *operands: Tensor) -> Tensor:
        return functools.reduce(torch.add, operands)

    def explain(self, index: Index, *operands: Operand) -> Working:
        values = torch.stack([operand.value[index].double() for operand in operands])
        return product(Factor(lambda term: at(operands[term].name, index), values))


@dataclass(frozen=True)
class Linear:
    """x Wᵀ + b, where x or the result may be cut into heads.

    Attributes:
        layer: has ``weight`` (M, N) and ``bias``.
        name: of the layer.
        head_dim: K, where the result (B, T, H·K) stands as heads (B, H, T, K); ``None`` where it does not.
        of_heads: whether x stands as heads.
    """

    layer: nn.Linear
    name: str
    head_dim: int | None = None
    of_heads: bool = False

    @property
    def formula(self) -> str:
        return "Σ x · W" if self.layer.bias is None else "Σ x · W + b"

    def compute(self, *operands: Tensor) -> Tensor:
        x = operands[0].transpose(1, 2).flatten(2) if self.of_heads else operands[0]
        y = x @ matrix(self.layer).mT if self.layer.bias is None else x @ matrix(self.layer).mT + self.layer.bias
        return y if self.head_dim is None else y.view(*y.shape[:2], -1, self.head_dim).transpose(1, 2)

    def explain(self, index: Index, *operands: Operand) -> Working:
        if self.head_dim is None:
            *before, unit = index
        else:
            batch, head, position, coordinate = index
            before, unit = [batch, position], head * self.head_dim + coordinate
        weights = row(Operand(f"{self.name}.weight", matrix(self.layer)), (unit,), "weight")
        factors = (self._inputs(before, operands[0]), weights)
        bias = self.layer.bias
        if bias is None:
            return product(*factors)
        name, value = at(f"{self.name}.bias", [unit]), bias[unit].item()
        told = f"+ {name} = {value:.6g}"
        return product(*factors, steps=lambda total: [Step(told, total + value, added(value))])

    def _inputs(self, before: list[int], x: Operand) -> Factor:
        if not self.of_heads:
            return row(x, before)
        batch, position = before
        width = x.value.size(-1)
        values = x.value[batch, :, position].flatten()
        return along(x.name, values, lambda term: (batch, term // width, position, term % width))


def matrix(layer: nn.Linear) -> Tensor:
    """The one matrix that a linear layer multiplies by: with a low-rank term beside it, their sum."""
    merged = getattr(layer, "merged", None)
    return layer.weight if merged is None else merged()


@dataclass(frozen=True)
class Lookup:
    """A row of a table for each id, times a factor."""

    table: nn.Embedding
    name: str
    scale: float = 1.0

    @property
    def formula(self) -> str:
        return "table[id]" if self.scale == 1.0 else "table[id] · scale"

    def compute(self, *operands: Tensor) -> Tensor:
        return self.table.weight[operands[0]] * self.scale

    def explain(self, index: Index, *operands: Operand) -> Working:
        *place, column = index
        token = int(operands[0].value[tuple(place)])
        entry = single(Operand(f"{self.name}.weight", self.table.weight), (token, column))
        if self.scale == 1.0:
            return product(entry)
        scaled, code = f"× scale {self.scale:.6g}", f"y = y * {literal(self.scale)}"
        return product(entry, steps=lambda total: [Step(scaled, total * self.scale, code)])


@dataclass(frozen=True)
class Elementwise:
    """A function of each number by itself.

    Attributes:
        code: the line that takes it of ``y``; left out where it is a function of PyTorch.
        transposed: whether the last two axes change places.
    """

    function: Callable[[Tensor], Tensor]
    formula: str
    code: str = ""
    transposed: bool = False

    def compute(self, *operands: Tensor) -> Tensor:
        return self.function(operands[0].mT if self.transposed else operands[0])

    def explain(self, index: Index, *operands: Operand) -> Working:
        place = (*index[:-2], index[-1], index[-2]) if self.transposed else index
        factor = single(operands[0], place)
        after = Step(self.formula, self.function(factor.values).item(), self.code or applied(self.function))
        return product(factor, steps=lambda total: [after])


@dataclass(frozen=True)
class Gated:
    """activation(gate) · pre (Shazeer 2020)."""

    activation: Callable[[Tensor], Tensor]
    formula: str = "activation(gate) · pre"

    def compute(self, *operands: Tensor) -> Tensor:
        gate, pre = operands
        return self.activation(gate) * pre

    def explain(self, index: Index, *operands: Operand) -> Working:
        gate, pre = single(operands[0], index, "gate"), single(operands[1], index, "pre")
        opened = self.activation(gate.values)
        steps = (
            Step("activation(gate)", opened.item(), applied(self.activation)),
            Step("× pre", (opened * pre.values).item(), "y = y * pre"),
        )
        return worked((gate, pre), gate.values, lambda total: steps, "y = gate")


@dataclass(frozen=True)
class Norm:
    """(x - mean) / √(variance + ε) · gain + bias; without ``centred`` the mean stays, and the square is of x itself.

    Attributes:
        gain: (D,). bias: (D,), or ``None``.
        name: of the module that has them.
        plus_one: whether its weight is the gain less one.
    """

    gain: Tensor
    bias: Tensor | None
    epsilon: float
    centred: bool
    name: str
    plus_one: bool = False

    @property
    def formula(self) -> str:
        plain = "(x - mean) / √(variance + ε) · gain" if self.centred else "x / √(mean(x²) + ε) · gain"
        return plain if self.bias is None else f"{plain} + bias"

    def compute(self, *operands: Tensor) -> Tensor:
        x = wide(operands[0].to(self.gain.dtype))
        x = x - x.mean(dim=-1, keepdim=True) if self.centred else x
        y = x * (x.square().mean(dim=-1, keepdim=True) + self.epsilon).rsqrt() * self.gain
        return (y if self.bias is None else y + self.bias).type_as(operands[0])

    def explain(self, index: Index, *operands: Operand) -> Working:
        *place, column = index
        numbers = row(operands[0], place)
        x, own = numbers.values, numbers.values[column].item()
        steps = []
        if self.centred:
            mean = x.mean().item()
            x, own = x - mean, own - mean
            steps += [Step("mean", mean, "mean = x.mean()"), Step("x - mean", own, "y = y - mean")]
        variance, gain = x.square().mean().item(), self.gain[column].item()
        spread, centred = ("variance", "(x - mean)") if self.centred else ("mean of squares", "x")
        standard = own / math.sqrt(variance + self.epsilon)
        gained, address = standard * gain, at(f"{self.name}.weight", [column])
        address = f"(1 + {address})" if self.plus_one else address
        steps += [
            Step(spread, variance, f"variance = {centred}.square().mean()"),
            Step("÷ √(… + ε)", standard, f"y = y / (variance + {literal(self.epsilon)}) ** 0.5"),
            Step(f"× {address} = {gain:.6g}", gained, f"y = y * {literal(gain)}"),
        ]
        if self.bias is not None:
            bias, address = self.bias[column].item(), at(f"{self.name}.bias", [column])
            steps.append(Step(f"+ {address} = {bias:.6g}", gained + bias, added(bias)))
        return picked(numbers, column, lambda total: steps)


@dataclass(frozen=True)
class Rearranged:
    """The same numbers in another order, of which each is found by letting their places be rearranged."""

    function: Callable[[Tensor], Tensor]
    formula: str = "rearranged"

    def compute(self, *operands: Tensor) -> Tensor:
        return self.function(operands[0])

    def explain(self, index: Index, *operands: Operand) -> Working:
        shape = operands[0].value.shape
        places = torch.arange(shape.numel(), dtype=torch.float64).view(shape)
        place = int(self.function(places)[index])
        return product(single(operands[0], tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape))))


@dataclass(frozen=True)
class LinearIn:
    """A function that is linear in its operand, near where it stands: each term is a derivative times a number.

    For means, selections and convolutions, whose weights need not be written down a second time.
    """

    function: Callable[[Tensor], Tensor]
    formula: str

    def compute(self, *operands: Tensor) -> Tensor:
        return self.function(operands[0])

    def explain(self, index: Index, *operands: Operand) -> Working:
        with torch.inference_mode(False), torch.enable_grad():
            x = operands[0].value.detach().clone().requires_grad_()
            value = self.function(x)[index]
            (slope,) = torch.autograd.grad(value, x)
        places = slope.nonzero()
        rows = places.tolist()
        chosen = tuple(places.T)
        name = operands[0].name
        ends = [(min(axis), max(axis)) for axis in zip(*rows, strict=True)]
        within = [first if first == last else f"{first}:{last + 1}" for first, last in ends]
        numbers = Factor(lambda term: at(name, rows[term]), x.detach()[chosen].double(), where=at(name, within))
        weights = Factor(lambda _: "weight", slope[chosen].double(), "weight")
        constant = float(value) - (numbers.values * weights.values).sum().item()
        bias = Step("+ bias", float(value), added(constant))
        return product(numbers, weights, steps=lambda total: [bias] if abs(constant) > 1e-6 * (1 + abs(total)) else [])


@dataclass(frozen=True)
class Prepended:
    """One vector before all others."""

    vector: Tensor
    name: str
    formula: str = "[vector, x₀, x₁, …]"

    def compute(self, *operands: Tensor) -> Tensor:
        x = operands[0]
        return torch.cat([self.vector.expand(x.size(0), 1, -1), x], dim=1)

    def explain(self, index: Index, *operands: Operand) -> Working:
        batch, position, column = index
        if position:
            return product(single(operands[0], (batch, position - 1, column)))
        return product(single(Operand(self.name, self.vector), (column,)))


@dataclass(frozen=True)
class UnitLength:
    """x / |x|."""

    formula: str = "x / |x|"

    def compute(self, *operands: Tensor) -> Tensor:
        return F.normalize(operands[0], dim=-1)

    def explain(self, index: Index, *operands: Operand) -> Working:
        numbers = row(operands[0], index[:-1])
        length = max(numbers.values.norm().item(), 1e-12)  # of zeros, as F.normalize does it
        divided, code = f"÷ |x| = {length:.6g}", "y = y / x.norm().clamp(min=1e-12)"
        return picked(numbers, index[-1], lambda total: [Step(divided, total / length, code)])


@dataclass(frozen=True)
class Softmax:
    """exp(score) / Σ exp(scores of the row); zeros for a query that sees nothing."""

    formula: str = "exp(score) / Σ exp(scores)"

    def compute(self, *operands: Tensor) -> Tensor:
        scores = operands[0]
        blind = scores.amax(dim=-1, keepdim=True) == -torch.inf
        if not blind.any():
            return scores.softmax(dim=-1)
        return scores.masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)

    def explain(self, index: Index, *operands: Operand) -> Working:
        *before, key = index
        scores = row(operands[0], before, "scores")
        largest = scores.values.max()
        if largest == -torch.inf:
            blind = Step("sees nothing", 0.0, "y = 0")
            return worked((scores,), torch.zeros_like(scores.values), lambda total: [blind], "y = scores.exp().sum()")
        terms = (scores.values - largest).exp()
        own = terms[key].item()
        name = f"exp(score - largest) of {at(operands[0].name, index)}"
        return worked(
            (scores,),
            terms,
            lambda total: [
                Step(name, own, f"own = (scores[{key}] - scores.max()).exp()"),
                Step("÷ the sum", own / total, "y = own / y"),
            ],
            "y = (scores - scores.max()).exp().sum()",
        )
