"""What a tapped tensor was computed by: all of it again, plainly, and any one number down to its products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.trace.working import Factor, Index, Operand, Working, along, at, product, single, worked


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
            *before, row = index
        else:
            batch, head, position, coordinate = index
            before, row = [batch, position], head * self.head_dim + coordinate
        factors = (self._inputs(before, operands[0]), self._weights(row))
        bias = self.layer.bias
        if bias is None:
            return product(*factors)
        name, value = at(f"{self.name}.bias", [row]), bias[row].item()
        return product(*factors, steps=lambda total: [(f"+ {name} = {value:.6g}", total + value)])

    def _inputs(self, before: list[int], x: Operand) -> Factor:
        if not self.of_heads:
            return along(x.name, x.value[tuple(before)], lambda term: (*before, term))
        batch, position = before
        width = x.value.size(-1)
        values = x.value[batch, :, position].flatten()
        return along(x.name, values, lambda term: (batch, term // width, position, term % width))

    def _weights(self, row: int) -> Factor:
        return along(f"{self.name}.weight", matrix(self.layer)[row], lambda term: (row, term))


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
        row = int(operands[0].value[tuple(place)])
        entry = along(f"{self.name}.weight", self.table.weight[row, column].reshape(1), lambda _: (row, column))
        if self.scale == 1.0:
            return product(entry)
        return product(entry, steps=lambda total: [(f"× scale {self.scale:.6g}", total * self.scale)])


@dataclass(frozen=True)
class Elementwise:
    """A function of each number by itself.

    Attributes:
        transposed: whether the last two axes change places.
    """

    function: Callable[[Tensor], Tensor]
    formula: str
    transposed: bool = False

    def compute(self, *operands: Tensor) -> Tensor:
        return self.function(operands[0].mT if self.transposed else operands[0])

    def explain(self, index: Index, *operands: Operand) -> Working:
        place = (*index[:-2], index[-1], index[-2]) if self.transposed else index
        factor = single(operands[0], place)
        return product(factor, steps=lambda total: [(self.formula, self.function(factor.values).item())])


@dataclass(frozen=True)
class Gated:
    """activation(gate) · pre (Shazeer 2020)."""

    activation: Callable[[Tensor], Tensor]
    formula: str = "activation(gate) · pre"

    def compute(self, *operands: Tensor) -> Tensor:
        gate, pre = operands
        return self.activation(gate) * pre

    def explain(self, index: Index, *operands: Operand) -> Working:
        gate, pre = (single(operand, index) for operand in operands)
        opened = self.activation(gate.values)
        return worked(
            (gate, pre),
            gate.values,
            lambda total: [("activation(gate)", opened.item()), ("× pre", (opened * pre.values).item())],
        )


@dataclass(frozen=True)
class Norm:
    """(x - mean) / √(variance + ε) · gain + bias; without ``centred`` the mean stays, and the square is of x itself.

    Attributes:
        gain: (D,). bias: (D,), or ``None``.
        name: of the module that has them.
    """

    gain: Tensor
    bias: Tensor | None
    epsilon: float
    centred: bool
    name: str

    @property
    def formula(self) -> str:
        plain = "(x - mean) / √(variance + ε) · gain" if self.centred else "x / √(mean(x²) + ε) · gain"
        return plain if self.bias is None else f"{plain} + bias"

    def compute(self, *operands: Tensor) -> Tensor:
        x = operands[0].to(self.gain.dtype)
        x = x - x.mean(dim=-1, keepdim=True) if self.centred else x
        y = x * (x.square().mean(dim=-1, keepdim=True) + self.epsilon).rsqrt() * self.gain
        return (y if self.bias is None else y + self.bias).type_as(operands[0])

    def explain(self, index: Index, *operands: Operand) -> Working:
        *place, column = index
        row = operands[0].value[tuple(place)].double()
        mean = row.mean() if self.centred else row.new_zeros(())
        variance = (row - mean).square().mean()
        standard = (row[column] - mean) / (variance + self.epsilon).sqrt()
        gained = standard * self.gain[column].double()
        steps = [("mean", mean), ("x - mean", row[column] - mean)] if self.centred else []
        steps += [
            ("variance" if self.centred else "mean of squares", variance),
            ("÷ √(… + ε)", standard),
            (f"× {at(f'{self.name}.weight', [column])} = {self.gain[column].item():.6g}", gained),
        ]
        if self.bias is not None:
            bias = self.bias[column].double()
            steps.append((f"+ {at(f'{self.name}.bias', [column])} = {bias.item():.6g}", gained + bias))
        numbers = [(name, value.item()) for name, value in steps]
        return worked((single(operands[0], index),), row[column].reshape(1), lambda total: numbers)


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
        rows = [tuple(place) for place in places.tolist()]
        chosen = tuple(places.T)
        numbers = along(operands[0].name, x.detach()[chosen], lambda term: rows[term])
        weights = Factor(lambda _: "weight", slope[chosen].double())
        constant = float(value) - (numbers.values * weights.values).sum().item()
        steps = [("+ bias", float(value))] if abs(constant) > 1e-6 * (1 + abs(float(value))) else []
        return product(numbers, weights, steps=lambda total: steps)


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
        return product(along(self.name, self.vector[column].reshape(1), lambda _: (column,)))


@dataclass(frozen=True)
class UnitLength:
    """x / |x|."""

    formula: str = "x / |x|"

    def compute(self, *operands: Tensor) -> Tensor:
        return F.normalize(operands[0], dim=-1)

    def explain(self, index: Index, *operands: Operand) -> Working:
        length = operands[0].value[index[:-1]].double().norm().item()
        return product(single(operands[0], index), steps=lambda total: [(f"÷ |x| = {length:.6g}", total / length)])
