"""An image as a sequence: an encoder reads patches as it reads words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pellucid.config.parts import NoPositions
from pellucid.lab import digits
from pellucid.lab.experiment import Experiment, Kept, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, fit, right
from pellucid.lab.reading import spread
from pellucid.models.encoder import Encoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, STEPS, PEAK, WARMUP, SMOOTHING, EVERY = 64, 3000, 3e-3, 200, 0.1, 500
WITH, WITHOUT = "with positions", "without"
ENOUGH = 0.97


def measure(seed: int, say: Say) -> Kept:
    """The share of test images that are read right, by step, with and without positions; keeps the one with."""
    train, test = digits.load()
    found: dict[str, dict[str, float]] = {}
    kept: list[Encoder] = []
    for who, positions in ((WITH, None), (WITHOUT, NoPositions())):
        model, course = digits.reader(positions=positions), {}
        for step, _ in fit(model, lambda: train.some(ROWS), STEPS, peak=PEAK, warmup=WARMUP, smoothing=SMOOTHING):
            if step % EVERY == 0 or step == STEPS:
                course[str(step)] = right(model, Rows(*test))
        found[who] = course
        kept.append(model)
        say(f"{who}: {course[str(STEPS)]:.2%} of {len(test.labels)} test images")
    measured = {"right": found, "test": len(test.labels)}
    return Kept(measured, lambda folder: digits.save(folder, kept[0], test.images[seed % len(test.labels)]))


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether an encoder of patches reads digits, and whether it needs to know where they are."""
    last = {who: [list(result["right"][who].values())[-1] for result in results] for who in (WITH, WITHOUT)}
    shares = {who: spread([100 * share for share in last[who]], ".1f") for who in last}
    said = (
        f"of {results[0]['test']} test images {shares[WITH]} % are read right; without positions {shares[WITHOUT]} %."
    )
    shows = min(last[WITH]) >= ENOUGH and max(last[WITHOUT]) < min(last[WITH])
    return Verdict(shows, said[0].upper() + said[1:])


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Right answers as training goes on."""
    axes = figure.subplots()
    for nth, who in enumerate((WITH, WITHOUT)):
        of_seeds = [[100 * share for share in result["right"][who].values()] for result in results]
        curve(axes, [int(step) for step in results[0]["right"][who]], of_seeds, who, nth)
    axes.set_xlabel("training steps")
    axes.set_ylabel("test images read right, %")
    axes.legend(loc="lower right")


EXPERIMENT = Experiment(
    name="images",
    question="Can it read images?",
    claim="An image cut into squares is a sequence: an encoder reads it with nothing changed but its first layer. The "
    "order of the squares is all that says where they were.",
    source="Dosovitskiy et al. 2021 (ViT), §3.1; the images: Alpaydin & Kaynak 1998, as in scikit-learn",
    setting=f"Digits of 8 × 8 pixels in 16 patches, three layers of width 64; {STEPS} steps of {ROWS} images, a little "
    f"turned and moved, at a rate of {PEAK:g}; tested on the quarter that scikit-learn's split leaves out.",
    minutes=13,
    measure=measure,
    judge=judge,
    draw=draw,
)
