"""Why attention, and no recurrent network: all positions of a step are computed at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import nn

from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, loss_of, size_of
from pellucid.lab.makers import decoder, recurrent_of_size
from pellucid.lab.reading import crossing, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = (16, 64, 256, 1024, 2048, 4096)
VOCAB, WIDTH, LAYERS, ROUNDS = 64, 256, 2, 5
TRANSFORMER, LSTM = "Transformer", "LSTM"
WHO = (TRANSFORMER, LSTM)


def measure(seed: int, say: Say) -> Measured:
    """Milliseconds of a training step of one row, by its length; the models take turns."""
    transformer = decoder(VOCAB, width=WIDTH, layers=LAYERS)
    models = {TRANSFORMER: transformer, LSTM: recurrent_of_size(size_of(transformer), VOCAB, LSTM, layers=LAYERS)}  # type: ignore[arg-type]
    found: dict[str, list[float]] = {who: [] for who in WHO}
    for length in LENGTHS:
        tokens = torch.randint(VOCAB, (1, length))
        times: dict[str, list[float]] = {who: [] for who in WHO}
        for _ in range(ROUNDS):
            for who, model in models.items():
                times[who].append(1e3 * seconds(model, Rows(tokens, tokens.roll(-1, 1))))
        for who in WHO:
            found[who].append(median(times[who][1:] or times[who]))  # the first one warms up
        say(f"{length} tokens: " + ", ".join(f"{who} {found[who][-1]:.0f} ms" for who in WHO))
    sizes = {who: size_of(model) for who, model in models.items()}
    return {"lengths": list(LENGTHS), "milliseconds": found, "parameters": sizes}


def seconds(model: nn.Module, rows: Rows) -> float:
    """Of one pass forwards and one backwards."""
    began = time.perf_counter()
    loss_of(model, rows).backward()
    took = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return took


def judge(results: Sequence[Measured]) -> Verdict:
    """How much faster the Transformer is at best, and where the two change places.

    It is faster at one length with every seed, and less so, with every seed, at the longest.
    """
    lengths = results[0]["lengths"]
    times = [[r["milliseconds"][who] for who in WHO] for r in results]
    ratios = [[theirs / ours for ours, theirs in zip(*both, strict=True)] for both in times]
    best, last = [max(each) for each in ratios], [each[-1] for each in ratios]
    at = sorted({lengths[each.index(max(each))] for each in ratios})
    said = f"At best, in rows of {' or '.join(map(str, at))} tokens, the Transformer is {spread(best, '.1f')} times as "
    said += "fast as the LSTM. "
    met = [crossing(lengths, *both) for both in times]
    places = [place for place in met if place is not None]
    said += f"At {lengths[-1]}, where the square of the length counts, it is {spread(last, '.1f')} times as fast."
    if places:
        among = "" if len(places) == len(met) else f" ({len(places)} of {len(met)} seeds)"
        said += f" It becomes the slower one at {spread(places, '.0f')} tokens{among}."
    faster = any(min(at_length) > 1 for at_length in zip(*ratios, strict=True))
    return Verdict(faster and all(end < most for end, most in zip(last, best, strict=True)), said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Milliseconds of a step against the length of its rows."""
    axes = figure.subplots()
    for nth, who in enumerate(WHO):
        curve(axes, results[0]["lengths"], [result["milliseconds"][who] for result in results], who, nth)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens of the row")
    axes.set_ylabel("training step, ms")
    axes.legend()


EXPERIMENT = Experiment(
    name="steps",
    question="What does a step cost, of attention and of recurrence?",
    claim="A recurrent network computes one position after the other, attention all at once: a row takes it less time, "
    "until it is so long that the square of its length counts.",
    source="Vaswani et al. 2017, §4 and table 1",
    setting=f"A pass forwards and one backwards of one row of {LENGTHS[0]} to {LENGTHS[-1]} tokens, by {LAYERS} layers "
    f"of width {WIDTH} and by an LSTM of as many layers and parameters (PyTorch's own); medians, interleaved. A batch "
    "of many rows hides the difference: then a recurrent network has them to compute at once.",
    minutes=3,
    measure=measure,
    judge=judge,
    draw=draw,
)
