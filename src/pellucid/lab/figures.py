"""Figures of experiments, in one style: ``figure.svg`` and ``figure.png``. The same results give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.lab.experiment import Experiment, Measured
from pellucid.models.files import write_whole
from pellucid.training.curves import DPI, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG, PNG = "figure.svg", "figure.png"
SIZE = 7.2, 3.8  # inches

# Told apart by every kind of eye (Okabe & Ito 2008), the most different first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


def draw(experiment: Experiment, results: Sequence[Measured], folder: Path) -> None:
    """Draws an experiment's figure into its folder."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
        experiment.draw(figure, results)
        write_whole(folder / SVG, lambda path: figure.savefig(path, metadata={"Date": None, "Creator": "pellucid"}))
        figure.set_layout_engine("none")
        write_whole(folder / PNG, lambda path: figure.savefig(path, metadata={"Software": "pellucid"}, dpi=DPI))


def curve(
    axes: Axes, xs: Iterable[float], of_seeds: Sequence[Sequence[float]], name: str, nth: int, **how: Any
) -> None:
    """The mean over seeds as a line, in a band from the least to the greatest."""
    x, y = np.array(list(xs)), np.array(of_seeds, dtype=float)
    axes.plot(x, y.mean(0), color=COLOURS[nth % len(COLOURS)], label=name, **{"marker": "o", "markersize": 3, **how})
    axes.fill_between(x, y.min(0), y.max(0), color=COLOURS[nth % len(COLOURS)], alpha=0.15, linewidth=0)


def bars(axes: Axes, names: Sequence[str], of_seeds: Sequence[Sequence[float]]) -> None:
    """A bar for each name, as high as the mean over seeds, and a dot for every seed."""
    for nth, (name, values) in enumerate(zip(names, of_seeds, strict=True)):
        axes.bar(name, float(np.mean(values)), color=COLOURS[nth % len(COLOURS)], alpha=0.75, width=0.6)
        axes.plot([name] * len(values), values, "o", color="#333333", markersize=3.5)
