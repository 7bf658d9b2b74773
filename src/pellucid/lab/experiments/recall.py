"""Why attention, and no recurrent network: what stood far back is looked up, not carried along."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from pellucid.config.parts import Rotary
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import fit, right, size_of
from pellucid.lab.makers import decoder, recurrent_of_size
from pellucid.lab.reading import spread
from pellucid.lab.tasks import copied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = (4, 8, 16, 32)
VOCAB, WIDTH, ROWS, STEPS, PEAK, JUDGED = 32, 64, 32, 500, 3e-3, 128
TRANSFORMER, LSTM, GRU, LOOKING = "Transformer", "LSTM", "GRU", "LSTM with attention"
WHO = (TRANSFORMER, LSTM, GRU, LOOKING)
KNOWS, FORGETS = 0.99, 0.60


def make(who: str) -> nn.Module:
    """Models of one size: the recurrent ones are a little larger than the Transformer, never smaller."""
    transformer = decoder(VOCAB, width=WIDTH, positions=Rotary())
    if who == TRANSFORMER:
        return transformer
    cell = GRU if who == GRU else LSTM
    return recurrent_of_size(size_of(transformer), VOCAB, cell, looks_back=who == LOOKING)  # type: ignore[arg-type]


def measure(seed: int, say: Say) -> Measured:
    """The share of the copied tokens that are right, by model and length; a model is trained for each length."""
    found: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for who in WHO:
        found[who] = []
        for length in LENGTHS:
            model = make(who)
            sizes[who] = size_of(model)
            for _ in fit(model, partial(copied, ROWS, length, VOCAB), STEPS, peak=PEAK):
                pass
            found[who].append(right(model, copied(JUDGED, length, VOCAB)))
            say(f"{who}, {length + 1} tokens back: {found[who][-1]:.1%} right")
    return {"lengths": list(LENGTHS), "right": found, "parameters": sizes}


def judge(results: Sequence[Measured]) -> Verdict:
    """From which distance on the LSTM forgets what the Transformer knows."""
    lengths = results[0]["lengths"]
    there = [
        i
        for i in range(len(lengths))
        if all(r["right"][TRANSFORMER][i] >= KNOWS and r["right"][LSTM][i] < FORGETS for r in results)
    ]
    at = there[0] if there else len(lengths) - 1
    share = {who: spread([100 * r["right"][who][at] for r in results], ".1f") for who in WHO}
    said = f"{lengths[at] + 1} tokens back the Transformer is right in {share[TRANSFORMER]} %, the LSTM of as many "
    said += f"parameters in {share[LSTM]} %, the GRU in {share[GRU]} %; the LSTM with attention in {share[LOOKING]} %."
    return Verdict(bool(there), said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The share of right tokens against the distance."""
    axes = figure.subplots()
    for nth, who in enumerate(WHO):
        of_seeds = [[100 * share for share in result["right"][who]] for result in results]
        curve(axes, [length + 1 for length in results[0]["lengths"]], of_seeds, who, nth)
    axes.set_xlabel("tokens back")
    axes.set_ylabel("right, %")
    axes.set_ylim(-3, 103)
    axes.legend(loc="center right")


EXPERIMENT = Experiment(
    name="recall",
    question="Why attention, and no recurrent network?",
    claim="A recurrent network must carry all that it has read in one state, and loses what stood far back; attention "
    "looks it up, however far it is.",
    source="Bahdanau et al. 2015, §1; Vaswani et al. 2017, §4 (lengths of paths); the task: Graves et al. 2014, §4.1",
    setting=f"Random tokens are to be copied. Two layers of width {WIDTH} against recurrent networks of as many "
    f"parameters, one for each length; {STEPS} steps of {ROWS} rows at a rate of {PEAK:g}, the same loop for all.",
    minutes=12,
    measure=measure,
    judge=judge,
    draw=draw,
)
