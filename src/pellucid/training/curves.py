"""Pictures of a run, made of what its folder tells: ``curves.svg`` and ``curves.png``, and with them ``samples.svg``.

The same files give the same pictures, byte for byte. Arrays hold one value for each logged step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pellucid.errors import CheckpointError
from pellucid.models.files import write_whole
from pellucid.training.sheet import draw_samples
from pellucid.training.watch import METRICS, read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, CURVES_PNG = "curves.svg", "curves.png"

WIDTH, LOSS_HEIGHT, PANEL_HEIGHT, DPI = 8.0, 3.6, 1.05, 150  # inches; pixels of the PNG per inch

# Blue and vermilion stay apart for every kind of colour blindness (Okabe & Ito 2008), and in grey by their weight.
TRAINING, VALIDATION, INK, FAINT = "#0072B2", "#D55E00", "#333333", "#E4E4E4"

PANELS = {
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "update_ratio": "update / weight",
}
"""The small panels below the loss, each drawn where the metrics have it."""

STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "pellucid",
}


def draw(folder: Path, *, log_steps: bool = False) -> list[Path]:
    """Draws what there is to draw of a run, finished or not, and returns the files written.

    Args:
        folder: of the run.
        log_steps: logarithmic axes of steps and loss, on which a power law is a straight line.

    Raises:
        CheckpointError: for a folder without ``metrics.jsonl``, or one that cannot be written.
    """
    if not (folder / METRICS).exists():
        raise CheckpointError(folder, f"no {METRICS}", "the folder of a run that has been trained")
    samples = draw_samples(folder)
    return [*draw_curves(folder, log_steps=log_steps), *([samples] if samples else [])]


def draw_curves(folder: Path, *, log_steps: bool = False) -> list[Path]:
    """Draws ``curves.svg`` and ``curves.png``; nothing where no step has been logged yet."""
    import matplotlib.style  # here, so that `import pellucid` does not wait for it

    course = Course.of(read_records(folder / METRICS))
    if not course.steps.size:
        return []
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own settings are
        figure = _figure(course, folder.resolve().name, log_steps)
        about_svg, about_png = {"Date": None, "Creator": "pellucid"}, {"Software": "pellucid"}
        write_whole(folder / CURVES, lambda path: figure.savefig(path, metadata=about_svg))
        figure.set_layout_engine("none")  # everything has its place by now
        write_whole(folder / CURVES_PNG, lambda path: figure.savefig(path, metadata=about_png, dpi=DPI))
    return [folder / CURVES, folder / CURVES_PNG]


class Course(NamedTuple):
    """The course of a run.

    Attributes:
        steps: of the lines about training (N).
        figures: by name, as many (N); NaN where a line has none. ``loss`` is the plain one, as validation tells it,
            and what was minimised in lines of an earlier version, which tell no other.
        evaluated: the steps after which there was an evaluation (M).
        validation: the loss on the validation data, in nats per label (M).
        best: the index into these two of the weights that were kept; ``None`` without an evaluation.
    """

    steps: np.ndarray
    figures: Mapping[str, np.ndarray]
    evaluated: np.ndarray
    validation: np.ndarray
    best: int | None

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Course:
        """Reads the lines of ``metrics.jsonl``."""
        trained = [record for record in records if "loss" in record]
        judged = [record for record in records if "loss" in record.get("validation", {})]
        names = ["tokens", *(name for name in PANELS if any(name in record for record in trained))]
        figures = {name: np.array([record.get(name, np.nan) for record in trained], dtype=float) for name in names}
        figures["loss"] = np.array([record.get("nats", record["loss"]) for record in trained], dtype=float)
        validation = np.array([record["validation"]["loss"] for record in judged], dtype=float)
        marked = [i for i, record in enumerate(judged) if record.get("best")]
        best = marked[-1] if marked else None
        return cls(_steps(trained), figures, _steps(judged), validation, best)

    @property
    def tokens_per_step(self) -> float:
        """The mean over the logged steps; NaN where they do not say."""
        tokens = self.figures["tokens"]
        return float(tokens[np.isfinite(tokens)].mean()) if np.isfinite(tokens).any() else float("nan")


def _steps(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([record["step"] for record in records], dtype=float)


def _figure(course: Course, title: str, log_steps: bool) -> Figure:
    from matplotlib.figure import Figure

    panels = [name for name in PANELS if name in course.figures]
    heights = [LOSS_HEIGHT, *[PANEL_HEIGHT] * len(panels)]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained", facecolor="white")
    loss, *others = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_loss(loss, course, log_steps)
    loss.set_title(title.replace("$", r"\$"), loc="left", fontweight="bold", fontsize=11)
    for axes, name in zip(others, panels, strict=True):
        _draw_panel(axes, course, name)
    last = others[-1] if others else loss
    last.set_xlabel("step")
    if log_steps:
        last.set_xscale("log")
    else:
        last.set_xlim(0, max(course.steps[-1], 1) * 1.01)
    last.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    _add_tokens(loss, course.tokens_per_step)
    figure.align_ylabels()
    return figure


def _draw_loss(axes: Axes, course: Course, log_steps: bool) -> None:
    training = course.figures["loss"]
    axes.plot(*_thinned(course.steps, training), color=TRAINING, linewidth=0.6, alpha=0.35)
    middle = _running_median(course.steps, training)
    label = f"training; at the end {middle[1][-1]:.4g} (running median)" if middle[1].size else "training"
    axes.plot(*middle, color=TRAINING, linewidth=1.6, label=label)
    if course.best is not None:
        step, loss = course.evaluated[course.best], course.validation[course.best]
        label = f"validation; best {loss:.4g} after step {step:,.0f} (ringed)"
        axes.plot(course.evaluated, course.validation, "o-", color=VALIDATION, linewidth=1.4, markersize=3, label=label)
        axes.plot(step, loss, "o", markersize=10, markerfacecolor="none", markeredgecolor=VALIDATION, clip_on=False)
    axes.set_ylabel("loss (nats per label)")
    axes.legend(loc="upper right")
    _choose_height(axes, course, middle, log_steps)


def _choose_height(axes: Axes, course: Course, middle: tuple[np.ndarray, np.ndarray], log_steps: bool) -> None:
    """Spends the height on what follows the first steps, where the loss only falls to that of guessing by frequency.

    A loss that falls more than tenfold after them is drawn on a logarithmic axis instead.
    """
    steps, medians = middle
    later = medians[steps >= steps[0] + 0.03 * (steps[-1] - steps[0])] if steps.size else medians
    seen = np.concatenate([later, course.validation[np.isfinite(course.validation)]])
    if not seen.size or seen.max() <= seen.min():
        return
    low, high = seen.min(), seen.max()
    if low > 0 and (log_steps or high > 10 * low):
        _set_logarithmic(axes, max(high, medians[0]) / low)
        return
    room = high - low
    top, bottom = high + 0.35 * room, min(low, np.nanquantile(course.figures["loss"], 0.002)) - 0.05 * room
    axes.set_ylim(bottom, top)  # with room for the legend
    if medians[0] > top:
        comes_in = steps[np.argmax(medians <= top)]
        axes.annotate(
            f"↑ from {medians[0]:.4g}",
            (comes_in, 1),
            (6, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            verticalalignment="top",
            color=TRAINING,
        )


def _draw_panel(axes: Axes, course: Course, name: str) -> None:
    values = course.figures[name]
    if name == "learning_rate":
        axes.plot(*_thinned(course.steps, values), color=INK, linewidth=1.2)
        axes.set_ylim(bottom=0)
    else:
        middle = _running_median(course.steps, values)
        axes.plot(*_thinned(course.steps, values), color=INK, linewidth=0.6, alpha=0.35)
        axes.plot(*middle, color=INK, linewidth=1.2)
        seen = values[np.isfinite(values)]
        if seen.size and 0 < 5 * seen.min() < seen.max():
            _set_logarithmic(axes, seen.max() / seen.min())
    axes.yaxis.set_major_formatter(_plain)
    axes.set_ylabel(PANELS[name].replace(" ", "\n", 1), fontsize=8)
    axes.tick_params(labelsize=8)


def _set_logarithmic(axes: Axes, ratio: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 50 else (1,)))
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: float) -> str:
    return f"{value:g}"


def _add_tokens(axes: Axes, per_step: float) -> None:
    """A second axis above, on which the steps are tokens, on average."""
    from matplotlib.ticker import EngFormatter

    if not per_step > 0:
        return
    functions = (lambda step: np.multiply(step, per_step), lambda tokens: np.divide(tokens, per_step))
    above = axes.secondary_xaxis("top", functions=functions)
    above.xaxis.set_major_formatter(EngFormatter(sep=" "))
    above.set_xlabel("tokens read", fontsize=8)
    above.tick_params(labelsize=8)


def _running_median(x: np.ndarray, y: np.ndarray, points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """The median of a twentieth of all values around each of some points; of fewer where there are not as many yet."""
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if not x.size:
        return x, y
    spread = np.concatenate([np.linspace(0, x.size - 1, points), np.geomspace(1, x.size, points) - 1])
    centres = np.unique(spread.round().astype(int))
    halves = np.minimum(centres, x.size // 40)
    return x[centres], np.array([np.median(y[i - h : i + h + 1]) for i, h in zip(centres, halves, strict=True)])


def _thinned(x: np.ndarray, y: np.ndarray, bins: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """The beginning, then the lowest and the highest of every bin: to the eye the same curve, with no spike lost."""
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if x.size <= 2 * bins:
        return x, y
    parts = np.array_split(np.arange(x.size), bins)
    extremes = (int(part[pick(y[part])]) for part in parts for pick in (np.argmin, np.argmax))
    kept = sorted({*range(200), *extremes})
    return x[kept], y[kept]
