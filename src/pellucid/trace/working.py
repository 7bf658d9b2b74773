"""How one number comes about: operands, factors, terms that are added up, steps that follow.

Numbers are explained in double precision, so that what is left over is the rounding of the model itself. Each part also
says itself in a line of PyTorch, in which ``y`` is the number so far: :mod:`pellucid.trace.script` puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Index = tuple[int, ...]


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
        symbol: what it is called in code.
        where: all of them together stand, such as ``blocks.0.self_attention.q[0, 3, 5, :]``; else one by one.
    """

    address: Callable[[int], str]
    values: Tensor
    symbol: str = "x"
    where: str = ""


@dataclass(frozen=True)
class Step:
    """What is done with a number.

    Attributes:
        name: of what is done; ``value``, the number after it.
        code: does it, in lines that set ``y``, or a name of its own for steps that follow; empty where no line can say.
    """

    name: str
    value: float
    code: str = ""


Steps = Callable[[float], Sequence[Step]]
"""What follows a sum, from its value."""


@dataclass(frozen=True)
class Working:
    """How one number comes about: terms that are added up, then what is done with the sum.

    Attributes:
        factors: what the terms are made of, one number of each for every term.
        terms: (N,), what is added up: the products of the factors, or what a step of the formula makes of them.
        steps: what follows the sum, in order.
        value: the result.
        code: makes ``y``, the sum, of ``vectors``, which the steps may use too.
    """

    factors: tuple[Factor, ...]
    terms: Tensor
    steps: tuple[Step, ...]
    value: float
    code: str
    vectors: tuple[Factor, ...]


def at(name: str, index: Sequence[object]) -> str:
    """The address of a number."""
    return f"{name}[{', '.join(map(str, index))}]"


def along(name: str, values: Tensor, place: Callable[[int], Index], symbol: str = "x") -> Factor:
    """Numbers of one tensor along whole axes of it, the one of term ``j`` standing at ``place(j)``."""
    ends = zip(place(0), place(values.numel() - 1), strict=True)
    where = at(name, [":" if first != last else first for first, last in ends])
    return Factor(lambda term: at(name, place(term)), values.double(), symbol, where)


def row(operand: Operand, place: Sequence[int], symbol: str = "x") -> Factor:
    """The numbers of a tensor along its last axis."""
    return along(operand.name, operand.value[tuple(place)], lambda term: (*place, term), symbol)


def single(operand: Operand, index: Index, symbol: str = "x") -> Factor:
    """One number of a tensor, for a sum of one term."""
    return along(operand.name, operand.value[index].reshape(1), lambda _: index, symbol)


def product(*factors: Factor, steps: Steps = lambda total: ()) -> Working:
    """A sum of products, and what is done with it."""
    terms = torch.stack([factor.values for factor in factors]).prod(dim=0)
    code = " * ".join(factor.symbol for factor in factors)
    many = f"({code}).sum()" if len(factors) > 1 else f"{code}.sum()"
    return worked(factors, terms, steps, f"y = {code if terms.numel() == 1 else many}")


def picked(numbers: Factor, place: int, steps: Steps) -> Working:
    """One number of several, and what is done with it, for which the others are wanted too."""
    own = Factor(lambda _: numbers.address(place), numbers.values[place].reshape(1))
    return worked((own,), own.values, steps, f"y = {numbers.symbol}[{place}]", (numbers,))


def worked(
    factors: tuple[Factor, ...], terms: Tensor, steps: Steps, code: str, vectors: tuple[Factor, ...] | None = None
) -> Working:
    """A sum of terms, and what is done with it: the value is that of the last step."""
    total = terms.sum().item()
    after = tuple(steps(total))
    value = after[-1].value if after else total
    return Working(factors, terms, after, value, code, factors if vectors is None else vectors)


def scored(total: float, scale: float, softcap: float | None, bias: float | None, hidden: float | None) -> list[Step]:
    """What attention does with q · k: scale, softcap, bias, and ``hidden``, the score where nobody may look."""
    steps = [Step(f"× scale {scale:.6g}", total * scale, f"y = y * {literal(scale)}")]
    if softcap is not None:
        squashed, cap = softcap * math.tanh(steps[-1].value / softcap), literal(softcap)
        steps.append(Step(f"squashed to ±{softcap:.6g}", squashed, f"y = {cap} * torch.tanh(y / {cap})"))
    if bias is not None:
        biased = steps[-1].value + bias
        steps.append(Step(f"+ bias {bias:.6g}", biased, added(bias)))
    if hidden is not None:
        steps.append(Step("hidden by the mask", hidden, f"y = {literal(hidden)}"))
    return steps


def wide(x: Tensor) -> Tensor:
    """The same numbers in single precision at least: in half of it a square overflows from 256 on."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- as Python says it -------------------------------------------------------------------------


def literal(number: float) -> str:
    """A number with nine digits, which tell every float32 from the next."""
    return f"{number:.9g}".replace("inf", "torch.inf").replace("nan", "torch.nan")


def added(number: float) -> str:
    """The line that adds a number to ``y``."""
    return f"y = y {'-' if number < 0 else '+'} {literal(abs(number))}"


def applied(function: Callable[..., Any]) -> str:
    """The line that takes a function of PyTorch of ``y``; empty for one that is not PyTorch's."""
    given = ""
    if isinstance(function, partial) and not function.args:
        given = "".join(f", {name}={value!r}" for name, value in function.keywords.items())
        function = function.func
    name = getattr(function, "__name__", "")
    for home, module in (("torch", torch), ("torch.nn.functional", torch.nn.functional)):
        if getattr(module, name, None) is function:
            return f"y = {home}.{name}(y{given})"
    return ""
