"""How far a rule reaches: a word is turned round at the lengths that were trained, and beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from pellucid.config.parts import Rotary, Sinusoidal
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, fit, right, size_of
from pellucid.lab.makers import decoder, recurrent_of_size
from pellucid.lab.reading import spread
from pellucid.lab.tasks import turned_round

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORTEST, LONGEST = 2, 12  # that are trained
LENGTHS = (4, 8, 12, 14, 16, 20)
VOCAB, WIDTH, ROWS, STEPS, PEAK, JUDGED = 16, 64, 64, 1200, 3e-3, 128
ROTARY, SINUSOIDS, LSTM, LOOKING = "Transformer, rotary", "Transformer, sinusoids", "LSTM", "LSTM with attention"
WHO = (ROTARY, SINUSOIDS, LSTM, LOOKING)
KNOWS = 0.99


def make(who: str) -> nn.Module:
    """Models of one size."""
    transformer = decoder(VOCAB, width=WIDTH, positions=Sinusoidal() if who == SINUSOIDS else Rotary())
    if who in (ROTARY, SINUSOIDS):
        return transformer
    return recurrent_of_size(size_of(transformer), VOCAB, "LSTM", looks_back=who == LOOKING)


def lesson() -> Rows:
    """Words of one of the lengths that are trained."""
    return turned_round(ROWS, int(torch.randint(SHORTEST, LONGEST + 1, ())), VOCAB)


def measure(seed: int, say: Say) -> Measured:
    """The share of tokens that are right, by model and length."""
    found: dict[str, list[float]] = {}
    for who in WHO:
        model = make(who)
        for _ in fit(model, lesson, STEPS, peak=PEAK):
            pass
        found[who] = [right(model, turned_round(JUDGED, length, VOCAB)) for length in LENGTHS]
        say(f"{who}: " + ", ".join(f"{share:.0%} of {n}" for n, share in zip(LENGTHS, found[who], strict=True)))
    return {"lengths": list(LENGTHS), "right": found}


def judge(results: Sequence[Measured]) -> Verdict:
    """Who is right at lengths that were trained, and who still is beyond them."""
    inside, beyond = LENGTHS.index(LONGEST), len(LENGTHS) - 1
    at = {
        place: {who: spread([100 * result["right"][who][place] for result in results], ".0f") for who in WHO}
        for place in (inside, beyond)
    }
    said = (
        f"At {LONGEST} tokens, the longest that were trained, the Transformer is right in {at[inside][ROTARY]} % with "
    )
    said += f"rotary positions, in {at[inside][SINUSOIDS]} % with sinusoids; the LSTM in {at[inside][LSTM]} %, with "
    said += f"attention in {at[inside][LOOKING]} %. At {LENGTHS[beyond]} they are in {at[beyond][ROTARY]}, "
    said += f"{at[beyond][SINUSOIDS]}, {at[beyond][LSTM]} and {at[beyond][LOOKING]} %."
    trained = range(inside + 1)
    knows = any(
        all(result["right"][who][place] >= KNOWS for result in results for place in trained)
        for who in (ROTARY, SINUSOIDS)
    )
    fails = all(max(result["right"][who][beyond] for who in WHO) < KNOWS for result in results)
    return Verdict(knows and fails, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Right answers against the length, and where training ended."""
    axes = figure.subplots()
    for nth, who in enumerate(WHO):
        of_seeds = [[100 * share for share in result["right"][who]] for result in results]
        curve(axes, results[0]["lengths"], of_seeds, who, nth)
    axes.axvline(LONGEST, color="#555555", linewidth=1, linestyle=":")
    axes.annotate("trained up to here", (LONGEST, 8), xytext=(-4, 0), textcoords="offset points", ha="right")
    axes.set_xlabel("length of the word")
    axes.set_ylabel("tokens right, %")
    axes.set_ylim(-3, 103)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.12))


EXPERIMENT = Experiment(
    name="reversal",
    question="Does it learn the rule?",
    claim="A Transformer turns a word round at every length it was trained on; that the same holds for longer ones it "
    "does not learn from that.",
    source="Kreutzer et al. 2019 (JoeyNMT's task); Anil et al. 2022, on lengths beyond training",
    setting=f"Random words of {SHORTEST} to {LONGEST} out of {VOCAB - 1} tokens are written backwards; two layers of "
    f"width {WIDTH} and LSTMs of as many parameters, {STEPS} steps of {ROWS} words.",
    minutes=6,
    measure=measure,
    judge=judge,
    draw=draw,
)
