"""The influence map drawn: in characters, and as SVG that needs nothing from outside.

(T, T): row, the output that moves; column, the token that was replaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Map = Sequence[Sequence[float]]

SHADES = "·░▒▓█"
FAINTEST = -6.0
"""Power of ten of the share that is drawn as faintly as anything can be."""
CELL, MARGIN = 18, 46


def strength(value: float) -> float:
    """From 0, nothing moved, to 1, as much as the largest output: on a scale of powers of ten."""
    if not value > 0:
        return 0.0
    return min(1.0, max(0.05, 1 - math.log10(min(value, 1.0)) / FAINTEST))


def characters(influence: Map) -> list[str]:
    """A line for each row, a character for each column; a dot where nothing moved."""
    return ["".join(SHADES[math.ceil(strength(value) * (len(SHADES) - 1))] for value in row) for row in influence]


def svg(influence: Map, *, forbidden: bool = False) -> str:
    """A square for each pair.

    Args:
        forbidden: whether what stands right of the diagonal is a fault, and drawn in red.
    """
    size = MARGIN + CELL * len(influence)
    cells = [
        _cell(row, column, value, forbidden and column > row)
        for row, values in enumerate(influence)
        for column, value in enumerate(values)
    ]
    text = 'font-family="sans-serif" font-size="11" fill="currentColor"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}" '
            'role="img" aria-label="influence map">',
            f'<text x="{MARGIN}" y="14" {text}>token replaced →</text>',
            f'<text x="14" y="{MARGIN}" {text} transform="rotate(90 14 {MARGIN})">output that moves →</text>',
            *(_number(place, text) for place in range(0, len(influence), 5)),
            *cells,
            "</svg>",
        ]
    )


def _number(place: int, text: str) -> str:
    at = MARGIN + CELL * place
    across = f'<text x="{at + 3}" y="{MARGIN - 6}" {text}>{place}</text>'
    return across + f'<text x="{MARGIN - 16}" y="{at + 13}" {text}>{place}</text>'


def _cell(row: int, column: int, value: float, bad: bool) -> str:
    x, y, opacity = MARGIN + CELL * column, MARGIN + CELL * row, strength(value)
    colour = "#c62828" if bad else "#1565c0"
    hint = f"<title>token {column} moves output {row} by {value:.2g}</title>"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{colour}" fill-opacity="{opacity:.2f}" '
        f'stroke="#9e9e9e" stroke-width="0.3">{hint}</rect>'
    )
