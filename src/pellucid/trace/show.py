"""A tape to look at: a table for the terminal, one with small pictures for a notebook."""

from __future__ import annotations

import base64
import html as text
import io
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from torch import Tensor

if TYPE_CHECKING:
    from pellucid.trace.tape import Entry, Tape

ROWS = 60  # of a notebook: a thousand pictures help nobody
PIXELS = 64  # of a picture, at most, in each direction


def table(tape: Tape, pattern: str = "*") -> Table:
    """Name, shape, formula, inputs and a few numbers of each recorded tensor."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "shape", "formula", "of"):
        shown.add_column(heading, overflow="fold")
    for heading in ("least", "mean", "greatest", "rms"):
        shown.add_column(heading, justify="right")
    for name in tape:
        if fnmatchcase(name, pattern):
            shown.add_row(*_cells(tape, name))
    return shown


def _cells(tape: Tape, name: str) -> tuple[str, ...]:
    entry, found = tape.entry(name), tape.statistics(name)
    notes = [f"{count} {what}" for count, what in ((found.nan, "NaN"), (found.infinite, "infinite")) if count]
    formula = " ".join([entry.operation.formula, *(f"({note})" for note in notes)])
    numbers = (f"{value:.4g}" for value in (found.least, found.mean, found.greatest, found.rms))
    return name, " × ".join(map(str, entry.shape)), formula, ", ".join(_short(entry)), *numbers


def _short(entry: Entry) -> list[str]:
    """The inputs, without what they have in common with the name."""
    owner = entry.name.rpartition(".")[0] + "."
    return [name.removeprefix(owner) for name in entry.input_names]


def html(tape: Tape) -> str:
    """The table for a notebook, with a picture of the first row of the batch (and the first head)."""
    names = list(tape)[:ROWS]
    rows = "".join(
        f"<tr>{''.join(f'<td>{text.escape(cell)}</td>' for cell in _cells(tape, name))}"
        f'<td><img alt="{text.escape(name)}" src="data:image/png;base64,{picture(tape[name])}"></td></tr>'
        for name in names
    )
    headings = ("name", "shape", "formula", "of", "least", "mean", "greatest", "rms", "")
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    more = f"<p>and {len(tape) - ROWS} more</p>" if len(tape) > ROWS else ""
    return f"<p>{text.escape(repr(tape))}</p><table><tr>{head}</tr>{rows}</table>{more}"


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
