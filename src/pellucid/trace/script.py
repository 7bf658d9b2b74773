"""One number as a program of its own: the numbers that went in, and what is done with them in plain PyTorch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill

from torch import Tensor

from pellucid.trace.working import Factor, Working, added, literal

MOST = 4096
"""Numbers of one vector that are written down; of a longer one, the largest terms and the sum of the others are."""

COLUMNS = 120


def script(title: str, working: Working, largest: Sequence[int], captured: float, edited: Sequence[str]) -> str:
    """A program that prints the number.

    Args:
        title: what it is.
        largest: the places of the terms that stand for all of them where there are too many.
        captured: what the model had; ``edited``, the edits that made it so.
    """
    long = {vector.symbol for vector in working.vectors if vector.values.numel() > MOST}
    lines = [f"# {title}", "import torch", ""]
    for vector in working.vectors:
        if vector.symbol in long:
            lines.append(f"# left out: {vector.symbol}, the {vector.values.numel():,} numbers of {_where(vector)}")
        else:
            lines += [f"# {_where(vector)}", _assigned(vector.symbol, vector.values)]
    if long & _words(working.code):
        listed = working.terms[list(largest)]
        lines += ["# the largest terms that they give", _assigned("terms", listed), "y = terms.sum()"]
        if more := working.terms.numel() - len(largest):
            others = (working.terms.sum() - listed.sum()).item()
            lines.append(f"{added(others)}  # {more:,} other term{'s' if more > 1 else ''}")
    else:
        lines.append(working.code)
    for step in working.steps:
        result = step.code.rpartition("\n")[2].partition(" = ")[0] or "y"
        if not step.code or long & _words(step.code):
            lines.append(f"{result} = {literal(step.value)}  # {step.name}: taken over, not computed here")
        else:
            lines.append(step.code if result == step.name else f"{step.code}  # {step.name}")
    had = f"the model had {captured:.9g}"
    if edited:
        had = f"{had}: it was edited in between by {', '.join(edited)}"
    return "\n".join([*lines, f"print(float(y))  # {had}", ""])


def _words(code: str) -> set[str]:
    return set(re.findall(r"\w+", code))


def _where(vector: Factor) -> str:
    return vector.where or ", ".join(dict.fromkeys(map(vector.address, range(vector.values.numel()))))


def _assigned(symbol: str, values: Tensor) -> str:
    numbers = ", ".join(map(literal, values.tolist()))
    line = f"{symbol} = torch.tensor([{numbers}], dtype=torch.float64)"
    if len(line) <= COLUMNS:
        return line
    wrapped = fill(numbers, COLUMNS, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return f"{symbol} = torch.tensor([\n{wrapped}\n], dtype=torch.float64)"
