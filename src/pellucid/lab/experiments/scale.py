"""Why products are divided by √d_k: without it wide heads begin with a softmax that has made up its mind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from pellucid.config.model import XavierInit
from pellucid.config.parts import Attention, Rotary
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import course_of
from pellucid.lab.makers import decoder
from pellucid.lab.reading import reached, spread
from pellucid.lab.tasks import copied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (1, 4, 16, 64, 256, 1024)
KEYS, QUERIES = 64, 512
VOCAB, LENGTH, WIDTH, ROWS, STEPS, PEAK, EVERY, JUDGED = 32, 16, 256, 32, 200, 1e-3, 10, 64
SCALED, PLAIN = "divided by √d_k", "not divided"
WAYS = {SCALED: None, PLAIN: 1.0}
KNOWS = 0.99


def measure(seed: int, say: Say) -> Measured:
    """Softmax of random queries and keys by their size; and two models trained, with and without the division."""
    weight: dict[str, list[float]] = {way: [] for way in WAYS}
    gradient: dict[str, list[float]] = {way: [] for way in WAYS}
    for size in SIZES:
        for way, scale in WAYS.items():
            largest, slope = saturation(size, size**-0.5 if scale is None else scale)
            weight[way].append(largest)
            gradient[way].append(slope)
    say(f"heads of {SIZES[-1]}: the largest weight is {weight[SCALED][-1]:.2f}, and {weight[PLAIN][-1]:.2f} undivided")
    courses: dict[str, list[float]] = {}
    steps: list[int] = []
    for way, scale in WAYS.items():
        torch.manual_seed(seed)
        attention = Attention(num_heads=1, scale=scale)
        model = decoder(VOCAB, width=WIDTH, init=XavierInit(), attention=attention, positions=Rotary())
        task = partial(copied, length=LENGTH, vocab=VOCAB)
        course = course_of(model, partial(task, ROWS), partial(task, JUDGED), STEPS, peak=PEAK, every=EVERY)
        steps, courses[way] = list(course), list(course.values())
        say(f"{way}: {courses[way][-1]:.1%} right after {steps[-1]} steps")
    return {"sizes": list(SIZES), "weight": weight, "gradient": gradient, "steps": steps, "right": courses}


def saturation(size: int, scale: float) -> tuple[float, float]:
    """The mean of each query's largest weight, and of how far all weights move with a small change of the scores.

    Queries and keys are independent numbers of variance 1, so that a product has variance d_k. The latter is the norm
    of softmax's Jacobian, diag(w) - w wᵀ, which is what a gradient is multiplied by on its way back.
    """
    weights = (torch.randn(QUERIES, size) @ torch.randn(KEYS, size).T * scale).softmax(-1)
    jacobians = torch.diag_embed(weights) - weights[:, :, None] * weights[:, None]
    return float(weights.max(-1).values.mean()), float(jacobians.norm(dim=(1, 2)).mean())


def learned(result: Measured, way: str) -> float:
    """After how many steps nearly everything is right; infinite for never."""
    return reached(result["steps"], result["right"][way], KNOWS) or math.inf


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether gradients vanish without the division, and learning suffers, with every seed."""
    last = results[0]["sizes"][-1]
    largest = {way: spread([result["weight"][way][-1] for result in results]) for way in WAYS}
    small = [result["gradient"][PLAIN][-1] / max(result["gradient"][PLAIN]) for result in results]
    said = f"With heads of {last} a query's largest of {KEYS} weights is {largest[PLAIN]} on average, and "
    said += f"{largest[SCALED]} where products are divided; the gradient is {spread(small)} of its greatest. "
    share = {way: spread([100 * result["right"][way][-1] for result in results], ".1f") for way in WAYS}
    said += f"After {results[0]['steps'][-1]} steps a model with heads of {WIDTH} copies {share[SCALED]} % right, "
    said += f"undivided {share[PLAIN]} %."
    steps = [(learned(result, SCALED), learned(result, PLAIN)) for result in results]
    return Verdict(max(small) < 0.5 and all(ours < theirs for ours, theirs in steps), said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The largest weight against d_k, and the course of both trainings."""
    left, right_ = figure.subplots(1, 2)
    for nth, way in enumerate(WAYS):
        curve(left, results[0]["sizes"], [result["weight"][way] for result in results], way, nth)
        of_seeds = [[100 * share for share in result["right"][way]] for result in results]
        curve(right_, results[0]["steps"], of_seeds, way, nth)
    left.set_xscale("log", base=2)
    left.set_xlabel("d_k, at the beginning")
    left.set_ylabel(f"a query's largest weight, of {KEYS} keys")
    left.set_ylim(0, 1.03)
    right_.set_xlabel("training steps")
    right_.set_ylabel("copied right, %")
    right_.set_ylim(-3, 103)
    left.legend(loc="upper left")


EXPERIMENT = Experiment(
    name="scale",
    question="Why are products divided by √d_k?",
    claim="For large d_k products grow large, which pushes the softmax to where its gradients are small.",
    source="Vaswani et al. 2017, §3.2.1 and footnote 4",
    setting=f"Softmax over {KEYS} keys of random queries and keys of size {SIZES[0]} to {SIZES[-1]}; and two layers "
    f"with one head of {WIDTH} each, Xavier weights, that copy {LENGTH} tokens: {STEPS} steps of {ROWS} rows.",
    minutes=4,
    measure=measure,
    judge=judge,
    draw=draw,
)
