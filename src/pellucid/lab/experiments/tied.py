"""Why one table for what is read and what is written: a word is learned twice as often."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.config.model import Tied
from pellucid.config.parts import Rotary
from pellucid.data.python_docs import load_python_docs
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, fit, loss_of, size_of
from pellucid.lab.makers import decoder
from pellucid.lab.reading import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VOCAB, LENGTH, WIDTH, ROWS, STEPS, PEAK, EVERY, JUDGED = 3000, 64, 64, 16, 600, 3e-3, 100, 64
TIED, APART = "one table", "two tables"
TABLES: dict[str, tuple[Tied, ...]] = {TIED: ("target", "output"), APART: ()}


def words(text: str) -> list[str]:
    """Words and marks."""
    return re.findall(r"\w+|[^\w\s]", text)


def numbers(texts: Sequence[str], known: Sequence[str]) -> Int[Tensor, " N"]:
    """Words as places among those that are known; 0 is any other."""
    place = {word: i for i, word in enumerate(known, 1)}
    return torch.tensor([place.get(word, 0) for text in texts for word in words(text)])


def windows(text: Int[Tensor, " N"], starts: Int[Tensor, " B"]) -> Rows:
    """From these places on, each next word being asked for."""
    rows = text[starts[:, None] + torch.arange(LENGTH + 1)]
    return Rows(rows[:, :-1], rows[:, 1:])


def measure(seed: int, say: Say) -> Measured:
    """The loss on texts that were held out, in the course of training, with one table and with two."""
    corpus = load_python_docs()
    known = [word for word, _ in Counter(words("\n".join(map(str, corpus.train)))).most_common(VOCAB - 1)]
    train, held = numbers([*map(str, corpus.train)], known), numbers([*map(str, corpus.validation)], known)
    judged = windows(held, torch.linspace(0, len(held) - LENGTH - 1, JUDGED).long())
    found: dict[str, dict[str, float]] = {}
    sizes: dict[str, int] = {}
    for who, tie in TABLES.items():
        model, course = decoder(VOCAB, width=WIDTH, positions=Rotary(), tie=tie), dict[str, float]()
        sizes[who] = size_of(model)
        for step, _ in fit(
            model, lambda: windows(train, torch.randint(len(train) - LENGTH, (ROWS,))), STEPS, peak=PEAK
        ):
            if step % EVERY == 0 or step == STEPS:
                course[str(step)] = _loss(model, judged)
        found[who] = course
        say(f"{who}, {sizes[who]:,} parameters: {course[str(STEPS)]:.3f} nats a word")
    return {"losses": found, "parameters": sizes}


@torch.no_grad()
def _loss(model: Any, rows: Rows) -> float:
    model.eval()
    return loss_of(model, rows).item()


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether one table is at least as good as two, of fewer parameters."""
    last = {who: [list(result["losses"][who].values())[-1] for result in results] for who in TABLES}
    size = {who: results[0]["parameters"][who] for who in TABLES}
    said = f"With one table for reading and writing a word costs {spread(last[TIED], '.3f')} nats, with {size[TIED]:,} "
    said += f"parameters; with two it costs {spread(last[APART], '.3f')}, with {size[APART]:,}."
    return Verdict(all(one <= two for one, two in zip(last[TIED], last[APART], strict=True)), said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The loss as training goes on."""
    axes = figure.subplots()
    for nth, who in enumerate(TABLES):
        of_seeds = [list(result["losses"][who].values()) for result in results]
        steps = [int(step) for step in results[0]["losses"][who]]
        curve(axes, steps, of_seeds, f"{who}, {results[0]['parameters'][who]:,} parameters", nth)
    axes.set_xlabel("training steps")
    axes.set_ylabel("nats a word, held out")
    axes.legend(loc="upper right")


EXPERIMENT = Experiment(
    name="tied",
    question="Why one table for reading and writing?",
    claim="The vectors by which words are read can also score what is written: with fewer parameters the loss is no "
    "worse.",
    source="Press & Wolf 2017, table 3; Vaswani et al. 2017, §3.4",
    setting=f"The documentation that comes with Python, its {VOCAB - 1:,} most frequent words; two layers of width "
    f"{WIDTH}, {STEPS} steps of {ROWS} × {LENGTH} words.",
    minutes=5,
    measure=measure,
    judge=judge,
    draw=draw,
)
