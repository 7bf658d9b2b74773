"""Plots of the benchmark pages, made of their own tables: a bar for each row of a column of speeds."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

COLUMN = "tokens/s"
NUMBER = re.compile(r"([\d,.]+)(?: \(([\d,.]+)–([\d,.]+)\))?")  # a median, and from where to where it went
OURS, THEIRS = "#0072B2", "#B0B0B0"
OWN = re.compile(r"pellucid|ours")


@dataclass(frozen=True)
class Bar:
    """A row of a table: its name, its number, and the range of that."""

    name: str
    value: float
    low: float
    high: float


def plotted(text: str, stem: str) -> tuple[str, dict[str, bytes]]:
    """A page with a plot under each table of speeds, and the plots by file name."""
    plots: dict[str, bytes] = {}
    lines: list[str] = []
    for block in re.split(r"(\n{2,})", text):
        lines.append(block)
        if bars := list(_bars(block)):
            name = f"{stem}-{len(plots) + 1}.svg"
            plots[name] = _drawn(bars)
            lines.append(f"\n\n![{COLUMN} of each row]({name})")
    return "".join(lines), plots


def _bars(block: str) -> Iterator[Bar]:
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in block.strip().splitlines()]
    if len(rows) < 4 or not block.lstrip().startswith("|") or COLUMN not in rows[0]:
        return
    at = rows[0].index(COLUMN)
    for row in rows[2:]:
        if len(row) > at and (found := NUMBER.match(row[at])):
            value, low, high = (float((number or found[1]).replace(",", "")) for number in found.groups())
            yield Bar(row[0].strip("*"), value, low, high)


def _drawn(bars: list[Bar]) -> bytes:
    with matplotlib.rc_context({"svg.hashsalt": "pellucid", "font.size": 9}):
        figure = Figure(figsize=(7.2, 0.5 + 0.27 * len(bars)), layout="constrained")
        axes = figure.subplots()
        names = [bar.name for bar in bars]
        colours = [OURS if OWN.search(bar.name) else THEIRS for bar in bars]
        reach = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
        axes.barh(names, [bar.value for bar in bars], xerr=reach, color=colours, ecolor="#555555", height=0.7)
        axes.invert_yaxis()
        axes.set_xlabel(COLUMN)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
