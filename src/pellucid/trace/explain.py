"""One number of a model, explained: operands, the largest terms, what is done with their sum, the line of source."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isclose, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pellucid.errors import UserError
from pellucid.trace.script import script
from pellucid.trace.working import Index, Operand, Step, at

if TYPE_CHECKING:
    from pellucid.trace.tape import Entry


@dataclass(frozen=True)
class Term:
    """One term of a sum: the addresses and values of its factors, and what they make."""

    factors: tuple[tuple[str, float], ...]
    value: float

    def __str__(self) -> str:
        made = " × ".join(f"{address} {value:.6g}" for address, value in self.factors)
        is_product = isclose(prod(value for _, value in self.factors), self.value, rel_tol=1e-9)
        return f"{self.value:+.6g}  {'=' if is_product else 'of'}  {made}"


@dataclass(frozen=True)
class Explanation:
    """How a number came about.

    Attributes:
        name: of the tensor; ``index`` of the number in it.
        formula: of the operation, in one line.
        inputs: the names of the tensors it was computed from.
        terms: the largest, by magnitude.
        count: how many terms there are; ``rest`` is the sum of those not listed, ``total`` of all.
        steps: what is done with the sum, each with the value after it.
        recomputed: the result; ``captured`` what the model had.
        edited: the edits that came between the two.
        source: file, line and text of the line that names the tensor.
        script: a program of its own that computes the number: PyTorch, and the numbers that went in.
    """

    name: str
    index: Index
    formula: str
    inputs: tuple[str, ...]
    terms: tuple[Term, ...]
    count: int
    total: float
    rest: float
    steps: tuple[Step, ...]
    recomputed: float
    captured: float
    edited: tuple[str, ...]
    source: tuple[str, int, str]
    script: str = field(repr=False)

    @property
    def error(self) -> float:
        """How far the recomputed number is from the captured one; 0 where both are the same infinity."""
        return 0.0 if self.recomputed == self.captured else abs(self.recomputed - self.captured)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        file, line, text = self.source
        return {
            "name": self.name,
            "index": list(self.index),
            "formula": self.formula,
            "inputs": list(self.inputs),
            "terms": [
                {"value": term.value, "factors": [{"address": a, "value": v} for a, v in term.factors]}
                for term in self.terms
            ],
            "count": self.count,
            "total": self.total,
            "rest": self.rest,
            "steps": [{"name": step.name, "value": step.value} for step in self.steps],
            "recomputed": self.recomputed,
            "captured": self.captured,
            "error": self.error,
            "edited": list(self.edited),
            "source": {"file": file, "line": line, "text": text},
            "script": self.script,
        }

    def __str__(self) -> str:
        file, line, text = self.source
        lines = [f"{at(self.name, self.index)} = {self.captured:.7g}", f"  {self.formula}"]
        lines += [f"    {term}" for term in self.terms]
        if more := self.count - len(self.terms):
            lines.append(f"    {self.rest:+.6g}  {more:,} other term{'s' if more > 1 else ''}")
        if self.count > 1:
            lines.append(f"    {self.total:.7g}  their sum")
        lines += [f"    {step.value:.7g}  {step.name}" for step in self.steps]
        lines.append(f"  recomputed {self.recomputed:.7g}, captured {self.captured:.7g}, apart {self.error:.1e}")
        if self.edited:
            lines.append(f"  edited in between by {', '.join(self.edited)}")
        if file:  # of a model that is not ours nobody knows the line
            lines.append(f"  {Path(file).name}:{line}  {text}")
        return "\n".join(lines)


def explained(
    entry: Entry, origin: Entry, operands: Sequence[Operand], captured: Tensor, index: Index, most: int
) -> Explanation:
    """The explanation of one number of an entry, which ``origin`` had computed.

    Raises:
        UserError: for a place that is not in the tensor.
    """
    place = _place(entry.name, tuple(captured.shape), index)
    working = origin.operation.explain(place, *operands)
    order = working.terms.abs().argsort(descending=True)
    largest, others = order[:most].tolist(), order[most:]
    terms = tuple(
        Term(tuple((f.address(i), f.values[i].item()) for f in working.factors), working.terms[i].item())
        for i in largest
    )
    file, line = origin.line
    formula = origin.operation.formula
    number = captured[place].item()
    title = f"{at(entry.name, place)}: {formula}"
    return Explanation(
        entry.name,
        place,
        formula if origin is entry else f"{origin.name}: {formula}",
        tuple(dict.fromkeys(operand.name for operand in operands)),
        terms,
        working.terms.numel(),
        working.terms.sum().item(),
        working.terms[others].sum().item(),
        working.steps,
        working.value,
        number,
        entry.edited,
        (file, line, linecache.getline(file, line).strip()),
        script(title, working, largest, number, entry.edited),
    )


def _place(name: str, shape: tuple[int, ...], index: Index) -> Index:
    if len(index) != len(shape) or any(not -size <= i < size for i, size in zip(index, shape, strict=False)):
        raise UserError(at(name, index), f"the tensor has the shape {list(shape)}", f"{len(shape)} numbers within it")
    return tuple(i % size for i, size in zip(index, shape, strict=True))
