"""Why more than one layer: heads that look up what came next the last time form all at once, and one layer has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.config.parts import Rotary
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import UNASKED, Rows, fit
from pellucid.lab.makers import decoder
from pellucid.lab.reading import reached, spread
from pellucid.lab.tasks import repeats
from pellucid.trace import trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (2, 1)
VOCAB, WIDTH, HEADS, ROWS, STEPS, PEAK, EVERY, JUDGED = 32, 64, 2, 32, 1200, 3e-3, 25, 64
BASE = 100.0  # of the rotary positions: all turn within a row, so that neighbours are told apart soon
SHORTEST, LONGEST, LENGTH = 8, 16, 12
"""Lengths of what is repeated, in training and when judged; at one length alone, the distance would give it away."""
FORMED, TOGETHER = 0.5, 0.15
"""The weight from which on a head counts as formed, and which share of all steps may lie between it and the loss."""


def drawn() -> Rows:
    """Repeats whose length nobody can know beforehand; asked for is what can be known, the second copy."""
    length = int(torch.randint(SHORTEST, LONGEST + 1, ()))
    tokens, labels = repeats(ROWS, length, VOCAB)
    return Rows(tokens, torch.cat([torch.full_like(labels[:, :length], UNASKED), labels[:, length:]], dim=1))


def looked_at(model: nn.Module) -> tuple[float, list[list[float]]]:
    """The loss on the second copy in nats per token, and of every head of every layer its prefix-matching score."""
    rows = repeats(JUDGED, LENGTH, VOCAB)
    model.eval()
    twice = torch.cat([rows.tokens, rows.labels[:, -1:]], dim=1)
    tape = trace(model, twice, watch=["logits", "*.self_attention.weights"])
    loss = F.cross_entropy(tape["logits"][:, LENGTH:-1].flatten(0, 1), rows.labels[:, LENGTH:].flatten()).item()
    weights = [tape[name] for name in sorted(tape) if name.endswith(".weights")]
    return loss, [matched(layer, twice) for layer in weights]


def matched(weights: Float[Tensor, "B H T T"], tokens: Int[Tensor, "B T"]) -> list[float]:
    """Of each head the mean weight, in the second copy, on whatever came after the same token before.

    "Prefix matching" (Olsson et al. 2022): the weights on the successors of all earlier occurrences are summed.
    """
    same = tokens[:, :, None] == tokens[:, None]  # whose query and key are one token
    successor = same.tril(-1).roll(1, dims=2)
    return (weights * successor[:, None]).sum(-1)[:, :, LENGTH:].mean((0, 2)).tolist()


def measure(seed: int, say: Say) -> Measured:
    """The loss on the second copy and the scores of all heads in the course of training, by the number of layers."""
    found: dict[str, dict[str, list[float]]] = {}
    heads: dict[str, list[list[float]]] = {}
    steps: list[int] = []
    for depth in DEPTHS:
        model = decoder(VOCAB, width=WIDTH, layers=depth, heads=HEADS, positions=Rotary(base=BASE))
        course = {0: looked_at(model)}
        for step, _ in fit(model, drawn, STEPS, peak=PEAK):
            if step % EVERY == 0 or step == STEPS:
                course[step] = looked_at(model)
        best = [max(map(max, scores)) for _, scores in course.values()]
        steps, losses = list(course), [loss for loss, _ in course.values()]
        found[str(depth)] = {"nats": losses, "best": best}
        heads[str(depth)] = course[steps[-1]][1]
        say(f"layers: {depth}, loss {losses[-1]:.2f}, the best head's score {best[-1]:.2f}")
    return {"steps": steps, "course": found, "heads at the end": heads, "chance": math.log(VOCAB)}


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether the head and the fall of the loss come together with two layers, and neither with one."""
    deep, flat = (str(depth) for depth in DEPTHS)
    steps, chance = results[0]["steps"], results[0]["chance"]
    ends = {who: [result["course"][who]["nats"][-1] for result in results] for who in (deep, flat)}
    most = {who: [max(result["course"][who]["best"]) for result in results] for who in (deep, flat)}
    pairs: list[tuple[int, int]] = []
    for result in results:
        formed = reached(steps, result["course"][deep]["best"], FORMED)
        fallen = reached(steps, [-loss for loss in result["course"][deep]["nats"]], -chance / 2)
        if formed is not None and fallen is not None:
            pairs.append((formed, fallen))
    if len(pairs) == len(results):
        said = f"With {deep} layers a head's weight on what came next before reaches {FORMED:g} after "
        said += f"{spread([formed for formed, _ in pairs], '.0f')} steps, the loss on the second copy is halved after "
        said += f"{spread([fallen for _, fallen in pairs], '.0f')} and ends at {spread(ends[deep])} nats a token. "
    else:
        said = f"With {deep} layers head and fall of the loss come with {len(pairs)} of {len(results)} seeds within "
        said += f"{steps[-1]} steps; the best weight is {spread(most[deep])}, the last loss {spread(ends[deep])} nats. "
    said += f"With one layer no head gets beyond {max(most[flat]):.2f}, and the loss ends at {spread(ends[flat])}, "
    said += f"where guessing gives {chance:.2f}."
    together = len(pairs) == len(results) and all(abs(c - b) <= TOGETHER * steps[-1] for b, c in pairs)
    alone = max(most[flat]) < FORMED and min(ends[flat]) > chance / 2
    return Verdict(together and alone, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The loss on the second copy and the best head's score against steps."""
    left, right = figure.subplots(1, 2)
    for nth, depth in enumerate(DEPTHS):
        name = "1 layer" if depth == 1 else f"{depth} layers"
        of_seeds = [result["course"][str(depth)] for result in results]
        for axes, what in ((left, "nats"), (right, "best")):
            curve(axes, results[0]["steps"], [course[what] for course in of_seeds], name, nth, markersize=2)
    left.axhline(results[0]["chance"], color="#999999", linewidth=0.8, linestyle=":")
    left.annotate("guessing", (0.98, results[0]["chance"]), xytext=(0, 2), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right", fontsize=8, color="#666666")  # fmt: skip
    left.set_ylabel("loss on the second copy, nats per token")
    left.set_ylim(bottom=0)
    right.set_ylabel("best head's weight on the token after the copy")
    right.set_ylim(-0.03, 1.03)
    right.legend(loc="center right")
    for axes in (left, right):
        axes.set_xlabel("training steps")


EXPERIMENT = Experiment(
    name="induction",
    question="Why more than one layer?",
    claim="With two layers a head forms, suddenly, that looks at what came after the same token before, and at that "
    "moment the model learns from its context; one layer cannot have such a head.",
    source="Olsson et al. 2022, In-context Learning and Induction Heads; Elhage et al. 2021",
    setting=f"{SHORTEST} to {LONGEST} random tokens of {VOCAB}, and the same once more, which is asked for; "
    f"{DEPTHS[0]} and {DEPTHS[1]} layers of width {WIDTH} with {HEADS} heads and rotary positions, {STEPS} steps of "
    f"{ROWS} rows at a rate of {PEAK:g}. The length differs: were it always the same, one layer could look so far "
    "back. The score of a head is its mean weight, in the second copy, on what came after the same token before.",
    minutes=4,
    measure=measure,
    judge=judge,
    draw=draw,
)
