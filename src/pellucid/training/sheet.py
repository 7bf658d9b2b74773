"""Samples over time: ``samples.svg``, a table of what a model made of the same inputs after ever more steps."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from pellucid.models.files import write_whole
from pellucid.training.watch import SAMPLES, read_records

SAMPLES_SVG = "samples.svg"

COLUMNS, ROWS, LINES, LONGEST = 6, 12, 14, 1200  # steps, inputs, lines of a cell, characters of a cell
FONT, CELL, LINE, PADDING, HEADER = 12, 7.3, 16, 8, 30  # size, width of a character, heights and distances in pixels
CHARACTERS = 170  # in all columns together
INK, MUTED, RIGHT = "#333333", "#6B6B6B", "#0072B2"

_SHEET = f"""text {{ font: {FONT}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: {INK}; }}
.head {{ font-weight: bold; }} .input {{ fill: #000; }} .muted {{ fill: {MUTED}; }} .right {{ fill: {RIGHT}; }}"""


def draw_samples(folder: Path) -> Path | None:
    """Draws ``samples.svg``, how the answers to the same inputs changed; ``None``, and no picture, without samples.

    A row for each of the first inputs, a column for each of a few steps, closer together at the beginning, where more
    changes. An answer equal to its reference is ticked.
    """
    answers: dict[int, dict[str, Mapping[str, str]]] = {}
    for record in read_records(folder / SAMPLES):
        at = answers.setdefault(record["step"], {})
        at.update({sample["input"]: sample for sample in record["samples"]})
    steps = _spread(sorted(step for step in answers if answers[step]))
    inputs = list(dict.fromkeys(text for step in steps for text in answers[step]))
    if not inputs:
        (folder / SAMPLES_SVG).unlink(missing_ok=True)  # of a run that was replaced
        return None
    rows = [_row(text, [answers[step].get(text, {}) for step in steps]) for text in inputs[:ROWS]]
    head = ["input", *(f"step {step:,}" for step in steps), "reference"]
    if not any(row[-1].text for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    note = f"{len(inputs) - ROWS} more inputs in {SAMPLES}" if len(inputs) > ROWS else ""
    svg = _table(head, rows, f"Samples of {folder.resolve().name}", note)
    write_whole(folder / SAMPLES_SVG, lambda path: path.write_text(svg, encoding="utf-8"))
    return folder / SAMPLES_SVG


def _spread(steps: Sequence[int]) -> list[int]:
    """A few of the steps, the first and the last among them, evenly spaced on a logarithmic axis."""
    if len(steps) <= COLUMNS:
        return list(steps)
    wanted, chosen = np.geomspace(steps[0] + 1, steps[-1] + 1, COLUMNS), [steps[0], steps[-1]]
    for place in wanted[1:-1]:
        chosen.append(min((step for step in steps if step not in chosen), key=lambda step: abs(step + 1 - place)))
    return sorted(chosen)


class _Cell(NamedTuple):
    text: str
    kind: str  # a class of the style sheet


def _row(text: str, samples: Sequence[Mapping[str, str]]) -> list[_Cell]:
    reference = next((sample["reference"] for sample in samples if sample.get("reference")), "")
    row = [_Cell(text, "input")]
    for output in (sample.get("output", "") for sample in samples):
        right = bool(reference) and output.strip() == reference.strip()
        row.append(_Cell(f"✓ {output}", "right") if right else _Cell(output, "output"))
    return [*row, _Cell(reference, "muted")]


def _table(head: list[str], rows: list[list[_Cell]], title: str, note: str) -> str:
    """A table as SVG. Lines are broken here, since an SVG does not break them."""
    rows = [[_Cell(_printable(text), kind) for text, kind in row] for row in rows]
    widths = _widths(head, rows)
    left = [PADDING, *(PADDING + x for x in accumulate(width * CELL + 2 * PADDING for width in widths))]
    body = [_line(x, 20, name, "head") for x, name in zip(left, head, strict=False)]
    y = HEADER
    for row in rows:
        body.append(f'<path d="M0 {y}H{left[-1]:.0f}" stroke="#CCCCCC"/>')
        cells = [_wrap(text, width) for (text, _), width in zip(row, widths, strict=True)]
        for x, (_, kind), lines in zip(left, row, cells, strict=False):
            body += [_line(x, y + LINE + 2 + i * LINE, line, kind) for i, line in enumerate(lines)]
        y += max(map(len, cells)) * LINE + 12
    if note:
        body.append(_line(PADDING, y + LINE, note, "muted"))
        y += LINE + PADDING
    size = f'width="{left[-1]:.0f}" height="{y}" viewBox="0 0 {left[-1]:.0f} {y}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(_printable(title))}</title>",
            f"<style>{_SHEET}</style>",
            '<rect width="100%" height="100%" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def _line(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}" xml:space="preserve">{escape(text)}</text>'


def _widths(head: list[str], rows: list[list[_Cell]]) -> list[int]:
    """Characters of each column: what its longest line needs, and an equal share of what is left where that is more."""
    columns = zip(*rows, strict=True)
    lines = [
        [name, *(line for cell in column for line in cell.text.split("\n"))]
        for name, column in zip(head, columns, strict=True)
    ]
    needed = [max(map(_cells, column)) + 1 for column in lines]
    left, share, waiting = CHARACTERS, CHARACTERS, sorted(needed)
    for i, width in enumerate(waiting):
        share = left // (len(waiting) - i)
        left -= min(width, share)
    return [min(width, max(share, 12)) for width in needed]


def _printable(text: str) -> str:
    """Text that XML can hold: no control characters, tabs as spaces, an end to what is very long."""
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    text = text.replace("\r\n", "\n").expandtabs(4)
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]", "�", text)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most so many cells, broken at spaces where there are some."""
    lines = []
    for line in text.split("\n"):
        while _cells(line) > width:
            cut = max(1, bisect_right(list(accumulate(map(_cell, line))), width))
            space = line.rfind(" ", 1, cut + 1)
            at = space if line[: max(space, 0)].strip() else cut
            lines.append(line[:at])
            line = line[at:].removeprefix(" ")
        lines.append(line)
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"]


def _cells(text: str) -> int:
    return sum(map(_cell, text))


def _cell(sign: str) -> int:
    """How many columns of a fixed-width font a character takes."""
    if unicodedata.category(sign) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1
