"""Why many heads: one looks at one place, and what it gathers from two is mixed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pellucid.config.parts import Rotary
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import course_of, size_of
from pellucid.lab.makers import decoder
from pellucid.lab.reading import reached, spread
from pellucid.lab.tasks import from_places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = (1, 2, 4, 8)
VOCAB, BACK = 8, (3, 7)
LENGTH, WIDTH, ROWS, STEPS, PEAK, EVERY, JUDGED = 32, 64, 64, 600, 3e-3, 25, 128
KNOWS = 0.99


def measure(seed: int, say: Say) -> Measured:
    """The share of right answers in the course of training, by the number of heads of the one layer."""
    task = partial(from_places, length=LENGTH, vocab=VOCAB, back=BACK)
    found: dict[str, list[float]] = {}
    steps: list[int] = []
    sizes: list[int] = []
    for heads in HEADS:
        model = decoder(VOCAB ** len(BACK), width=WIDTH, layers=1, heads=heads, positions=Rotary())
        sizes.append(size_of(model))
        course = course_of(model, partial(task, ROWS), partial(task, JUDGED), STEPS, peak=PEAK, every=EVERY)
        steps, found[str(heads)] = list(course), list(course.values())
        say(f"{heads} head{'s' * (heads > 1)} of {WIDTH // heads}: {found[str(heads)][-1]:.1%} right")
    return {"steps": steps, "right": found, "parameters": sizes}


def learned(result: Measured, heads: int) -> int:
    """After how many steps nearly all answers are right; one more than there were for never."""
    return reached(result["steps"], result["right"][str(heads)], KNOWS) or result["steps"][-1] + 1


def judge(results: Sequence[Measured]) -> Verdict:
    """How much longer a single head takes than several, with every seed."""
    steps = {heads: [learned(result, heads) for result in results] for heads in HEADS}
    best = min(HEADS[1:], key=lambda heads: max(steps[heads]))
    middle = results[0]["steps"].index(min(steps[best])) if min(steps[best]) in results[0]["steps"] else -1
    then = spread([100 * result["right"]["1"][middle] for result in results], ".0f")
    last = results[0]["steps"][-1]
    said = f"{KNOWS:.0%} are right after {spread(steps[best], '.0f')} steps with {best} heads of {WIDTH // best}"
    never = sum(step > last for step in steps[1])
    said += f", and after {spread(steps[1], '.0f')} with one of {WIDTH}"
    said += f" (never within {last} with {never} of {len(results)} seeds)" if never else ""
    said += f", which mixes the two places and is right in {then} % when the others know."
    said += " Weights that differ let it tell them apart in the end." if not never else ""
    return Verdict(all(one >= 1.5 * many for one, many in zip(steps[1], steps[best], strict=True)), said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The share of right answers against steps."""
    axes = figure.subplots()
    for nth, heads in enumerate(HEADS):
        of_seeds = [[100 * share for share in result["right"][str(heads)]] for result in results]
        name = "1 head" if heads == 1 else f"{heads} heads"
        curve(axes, results[0]["steps"], of_seeds, f"{name} of {WIDTH // heads}", nth)
    axes.set_xlabel("training steps")
    axes.set_ylabel("right, %")
    axes.set_ylim(-3, 103)
    axes.legend(loc="center right")


EXPERIMENT = Experiment(
    name="heads",
    question="Why many heads?",
    claim="Several heads attend to several places at once; with a single one, averaging inhibits this.",
    source="Vaswani et al. 2017, §3.2.2 and table 3 (A)",
    setting=f"One layer of width {WIDTH} is to name the tokens {', '.join(map(str, BACK))} places back, with "
    f"{', '.join(map(str, HEADS))} heads and the same number of parameters; {STEPS} steps of {ROWS} rows of {LENGTH}.",
    minutes=5,
    measure=measure,
    judge=judge,
    draw=draw,
)
