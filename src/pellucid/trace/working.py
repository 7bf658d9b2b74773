"""How one number comes about: operands, factors, terms that are added up, steps that follow.

Numbers are explained in double precision, so that what is left over is the rounding of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Index = tuple[int, ...]
Steps = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Operand:
    """What went into an operation.

    Attributes:
        name: of the tensor, or of what else it is.
        value: the tensor, or an object that is none, such as a mask.
    """

    name: str
    value: Any


@dataclass(frozen=True)
class Factor:
    """One factor of every term of a sum.

    Attributes:
        address: where the factor of a term stands, such as ``blocks.0.self_attention.q[0, 3, 5, 7]``.
        values: (N,), one for each term.
    """

    address: Callable[[int], str]
    values: Tensor


@dataclass(frozen=True)
class Working:
    """How one number comes about: terms that are added up, then what is done with the sum.

    Attributes:
        factors: what the terms are made of, one number of each for every term.
        terms: (N,), what is added up: the products of the factors, or what a step of the formula makes of them.
        steps: name and value of what follows the sum, in order.
        value: the result.
    """

    factors: tuple[Factor, ...]
    terms: Tensor
    steps: Steps
    value: float


def at(name: str, index: Sequence[int]) -> str:
    """The address of a number."""
    return f"{name}[{', '.join(map(str, index))}]"


def along(name: str, values: Tensor, place: Callable[[int], Index]) -> Factor:
    """Numbers of one tensor, the one of term ``j`` standing at ``place(j)``."""
    return Factor(lambda term: at(name, place(term)), values.double())


def single(operand: Operand, index: Index) -> Factor:
    """One number of a tensor, for a sum of one term."""
    return along(operand.name, operand.value[index].reshape(1), lambda _: index)


def product(*factors: Factor, steps: Callable[[float], Steps] = lambda total: ()) -> Working:
    """A sum of products, and what is done with it."""
    return worked(factors, torch.stack([factor.values for factor in factors]).prod(dim=0), steps)


def worked(factors: tuple[Factor, ...], terms: Tensor, steps: Callable[[float], Steps] = lambda total: ()) -> Working:
    """A sum of terms, and what is done with it: the value is that of the last step."""
    total = terms.sum().item()
    after = tuple(steps(total))
    return Working(factors, terms, after, after[-1][1] if after else total)
