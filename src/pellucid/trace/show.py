"""A tape to look at: a table for the terminal, one with small pictures for a notebook."""

from __future__ import annotations

import base64
import html as markup
import io
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

if TYPE_CHECKING:
    from pellucid.trace.tape import Entry, Tape

ROWS = 60  # of a notebook: a thousand pictures help nobody
PIXELS = 64  # of a picture, at most, in each direction


def table(tape: Tape, pattern: str = "*") -> Table:
    """Name, shape, a few numbers, formula and inputs of each recorded tensor; what has no room is cut on the right."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("name", no_wrap=True, min_width=44)
    shown.add_column("shape", no_wrap=True, min_width=14)
    for heading in ("least", "mean", "greatest", "rms"):
        shown.add_column(heading, justify="right", no_wrap=True, min_width=9)
    shown.add_column("formula", no_wrap=True, ratio=3)
    shown.add_column("of", no_wrap=True, ratio=2)
    for name in tape:
        if fnmatchcase(name, pattern):
            shown.add_row(*(Text(cell) for cell in _cells(tape, name)))  # no markup: names and indices have brackets
    return shown


def _cells(tape: Tape, name: str) -> tuple[str, ...]:
    entry, found = tape.entry(name), tape.statistics(name)
    notes = [f"{count} {what}" for count, what in ((found.nan, "NaN"), (found.infinite, "infinite")) if count]
    formula = " ".join([entry.operation.formula, *(f"({note})" for note in notes)])
    numbers = (f"{value:.4g}" for value in (found.least, found.mean, found.greatest, found.rms))
    return name, " × ".join(map(str, entry.shape)), *numbers, formula, ", ".join(_short(entry))


def _short(entry: Entry) -> list[str]:
    """The inputs, without the path that they have in common with the name."""

    own = entry.name.split(".")

    def short(name: str) -> str:
        parts = name.split(".")
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(own, parts, strict=False))
        return ".".join(parts[min(len(list(alike)), len(parts) - 1) :])

    return [short(name) for name in entry.input_names]


def html(tape: Tape) -> str:
    """The table for a notebook, with a picture of the first row of the batch (and the first head)."""
    names = list(tape)[:ROWS]
    rows = "".join(
        f"<tr>{''.join(f'<td>{markup.escape(cell)}</td>' for cell in _cells(tape, name))}"
        f'<td><img alt="{markup.escape(name)}" src="data:image/png;base64,{picture(tape[name])}"></td></tr>'
        for name in names
    )
    headings = ("name", "shape", "least", "mean", "greatest", "rms", "formula", "of", "")
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    more = f"<p>and {len(tape) - ROWS} more</p>" if len(tape) > ROWS else ""
    return f"<p>{markup.escape(repr(tape))}</p><table><tr>{head}</tr>{rows}</table>{more}"


def picture(tensor: Tensor) -> str:
    """A tensor as a small PNG in base64: one matrix of it, pooled to a few pixels; blue below zero, red above."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    numbers = tensor.detach().float().nan_to_num(0.0, 0.0, 0.0)
    while numbers.dim() > 2:
        numbers = numbers[0]
    matrix = numbers.view(1, -1) if numbers.dim() < 2 else numbers
    size = min(PIXELS, matrix.size(0)), min(PIXELS, matrix.size(1))
    pooled = torch.nn.functional.adaptive_avg_pool2d(matrix[None, None], size)[0, 0]
    most = pooled.abs().max().clamp(min=1e-12)
    colours = colormaps["RdBu_r"]((pooled / most / 2 + 0.5).numpy(force=True))
    file = io.BytesIO()
    imsave(file, colours, format="png")
    return base64.b64encode(file.getvalue()).decode()
