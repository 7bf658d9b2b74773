"""The same reader of images, at the size of MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from pellucid.lab import digits
from pellucid.lab.experiment import Experiment, Kept, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, fit, right
from pellucid.lab.reading import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, PATCH = 28, 7  # 1,000 steps with squares of four pixels a side take three times as long, for 90 % instead of 95
ROWS, STEPS, PEAK, WARMUP, SMOOTHING, EVERY, AT_ONCE = 64, 5000, 2e-3, 200, 0.1, 1000, 1000
ENOUGH = 0.97


def measure(seed: int, say: Say, folder: Path) -> Kept:
    """The share of test images that are read right, by step; keeps the model."""
    train, test = digits.load_mnist(folder)
    model, course = digits.reader(side=SIDE, patch=PATCH), dict[str, float]()
    for step, _ in fit(model, lambda: train.some(ROWS), STEPS, peak=PEAK, warmup=WARMUP, smoothing=SMOOTHING):
        if step % EVERY == 0 or step == STEPS:
            course[str(step)] = _share(model, test)
            say(f"step {step} of {STEPS}: {course[str(step)]:.2%} of {len(test.labels):,} test images")
    measured = {"right": course, "test": len(test.labels)}
    return Kept(measured, lambda place: digits.save(place, model, test.images[seed % len(test.labels)]))


def _share(model: nn.Module, test: digits.Digits) -> float:
    found = 0.0
    for start in range(0, len(test.labels), AT_ONCE):
        images, labels = (part[start : start + AT_ONCE] for part in test)
        found += right(model, Rows(images, labels)) * len(labels)
    return found / len(test.labels)


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether nearly all test images are read right."""
    last = [list(result["right"].values())[-1] for result in results]
    shares = spread([100 * share for share in last], ".2f")
    said = f"Of {results[0]['test']:,} test images {shares} % are read right after {STEPS:,} steps."
    return Verdict(min(last) >= ENOUGH, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Right answers as training goes on."""
    axes = figure.subplots()
    of_seeds = [[100 * share for share in result["right"].values()] for result in results]
    curve(axes, [int(step) for step in results[0]["right"]], of_seeds, "test images", 0)
    axes.set_xlabel("training steps")
    axes.set_ylabel("test images read right, %")


EXPERIMENT = Experiment(
    name="mnist",
    question="Can it read larger images?",
    claim="Nothing changes with the size of the image but how many pixels a square has.",
    source="Dosovitskiy et al. 2021 (ViT), §3.1; the images: LeCun et al. 1998 (MNIST)",
    setting=f"Digits of {SIDE} × {SIDE} pixels in {(SIDE // PATCH) ** 2} patches, three layers of width 64; {STEPS} "
    f"steps of {ROWS} images, a little turned and moved, at a rate of {PEAK:g}; tested on the 10,000 that the set "
    "leaves out.",
    minutes=12,
    measure=measure,
    judge=judge,
    draw=draw,
    data="mnist",
)
