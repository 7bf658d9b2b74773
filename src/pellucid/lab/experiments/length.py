"""What length costs: attention's part of a token grows with the length of its text, all else stays as it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean, median
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.analysis.flops import flops_of
from pellucid.analysis.work import work_on
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import COLOURS, curve
from pellucid.lab.makers import decoder
from pellucid.lab.reading import crossing, spread
from pellucid.models.decoder import Decoder
from pellucid.nn.kernels import Tap
from pellucid.nn.masks import Mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
TOKENS, VOCAB, WIDTH, HEADS, LAYERS, ROUNDS = 4096, 64, 128, 2, 2, 8
NEAR, STEADY = 0.25, 1.5
"""How far from a constant and a linear part a time may be, and the factor within which the rest is constant."""


def values_alone(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, *, scale: float, softcap: float | None, dropout: float, tap: Tap
) -> Tensor:
    """No scores and no mixture: each position keeps its own value, so that all but attention itself is computed."""
    return tap("context", v, q, k, v, mask)


def seconds(model: nn.Module, tokens: Tensor) -> float:
    """Of one pass forwards; of the processor, so that what else the machine does counts less."""
    began = time.process_time()
    with torch.no_grad():
        model(tokens)
    return time.process_time() - began


def counted(model: Decoder, length: int) -> dict[str, float]:
    """Operations per token: of the weights, of attention over all positions, and over those alone that may be seen."""
    flops = flops_of(model.config, work_on(model.config, length=length))
    attention = flops.per_token(flops.attention)
    return {"rest": flops.per_token(flops.weights), "full": attention,
            "seen": attention - flops.per_token(flops.hidden)}  # fmt: skip


def measure(seed: int, say: Say) -> Measured:
    """Microseconds per token with attention and without, by length, the two taking turns, and what arithmetic says."""
    whole, bare = (decoder(VOCAB, width=WIDTH, heads=HEADS, layers=LAYERS).eval() for _ in range(2))
    for block in bare.blocks:
        block.self_attention.kernel = values_alone  # type: ignore[union-attr]
    found: dict[str, list[float]] = {"whole": [], "rest": []}
    operations: dict[str, list[float]] = {"rest": [], "full": [], "seen": []}
    for length in LENGTHS:
        tokens = torch.randint(VOCAB, (max(1, TOKENS // length), length))
        rounds = [(seconds(whole, tokens), seconds(bare, tokens)) for _ in range(ROUNDS)]
        times = zip(*(rounds[1:] or rounds), strict=True)  # the first one warms up
        for who, taken in zip(("whole", "rest"), times, strict=True):
            found[who].append(1e6 * median(taken) / tokens.numel())
        for what, number in counted(whole, length).items():
            operations[what].append(number)
        say(f"{length} tokens: {found['whole'][-1]:.1f} µs a token, {found['rest'][-1]:.1f} without attention")
    return {"lengths": list(LENGTHS), "microseconds": found, "operations": operations, "width": WIDTH}


def attention_of(result: Measured) -> list[float]:
    """Microseconds of attention per token; not below a hundredth of the rest, where noise drowns it."""
    both = zip(result["microseconds"]["whole"], result["microseconds"]["rest"], strict=True)
    return [max(whole - rest, rest / 100) for whole, rest in both]


def line(result: Measured) -> tuple[float, float, float]:
    """A constant and so much per token of the text, the nearest to the times of all lengths, and how far they are."""
    lengths, times = np.array(result["lengths"], dtype=float), np.array(result["microseconds"]["whole"])
    sides = np.stack([1 / times, lengths / times], axis=1)  # apart by shares, so that the short ones count as well
    (constant, slope), *_ = np.linalg.lstsq(sides, np.ones_like(times), rcond=None)
    return float(constant), float(slope), float(np.abs(sides @ [constant, slope] - 1).max())


def judge(results: Sequence[Measured]) -> Verdict:
    """How the parts grow, and where attention costs as much as everything else."""
    lengths, counts = results[0]["lengths"], results[0]["operations"]
    rest, lines = [result["microseconds"]["rest"] for result in results], [line(result) for result in results]
    steady, off = [max(each) / min(each) for each in rest], [far for _, _, far in lines]
    share = [
        spread([100 * attention_of(result)[i] / result["microseconds"]["whole"][i] for result in results], ".0f")
        for i in (0, -1)
    ]
    met = [crossing(lengths, attention_of(r), r["microseconds"]["rest"]) for r in results]
    places = [place for place in met if place is not None]
    full, seen = (lengths[-1] * counts["rest"][-1] / counts[what][-1] for what in ("full", "seen"))
    said = f"A token costs {spread([constant for constant, _, _ in lines], '.0f')} µs and "
    said += f"{spread([1e3 * slope for _, slope, _ in lines], '.0f')} more for every 1000 tokens of its text, which is "
    said += (
        f"true of all lengths to within {100 * max(off):.0f} %. Attention's share of the time goes from {share[0]} % "
    )
    said += f"at {lengths[0]} tokens to {share[1]} % at {lengths[-1]}. It costs as much as everything else "
    said += (
        f"at {spread(places, '.0f')} tokens" if len(places) == len(met) else "not within these lengths with every seed"
    )
    said += (
        f"; by arithmetic at {full:.0f}, {full / results[0]['width']:.1f} times the width, or at {seen:.0f} where what "
    )
    said += f"the mask hides is skipped. Everything else differs by a factor of {spread(steady)} between lengths."
    fits = max(off) <= NEAR and max(steady) <= STEADY and min(slope for _, slope, _ in lines) > 0
    said += "" if fits else " A constant and a linear part that is not with every seed."
    return Verdict(fits and len(places) == len(met), said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Microseconds per token against length: measured, and computed at the speed that the rest is computed with."""
    axes = figure.subplots()
    lengths, operations = results[0]["lengths"], results[0]["operations"]
    parts = [
        ("all", [result["microseconds"]["whole"] for result in results]),
        ("attention", [attention_of(result) for result in results]),
        ("everything else", [result["microseconds"]["rest"] for result in results]),
    ]
    for nth, (name, of_seeds) in enumerate(parts):
        curve(axes, lengths, of_seeds, name, nth, linestyle="none", markersize=5)
    pace = mean(mean(result["microseconds"]["rest"]) for result in results) / mean(operations["rest"])
    whole = [rest + full for rest, full in zip(operations["rest"], operations["full"], strict=True)]
    for nth, computed in enumerate((whole, operations["full"], operations["rest"])):
        axes.plot(lengths, [pace * number for number in computed], color=COLOURS[nth], linewidth=1)
    seen = [pace * number for number in operations["seen"]]
    axes.plot(lengths, seen, color=COLOURS[1], linewidth=1, linestyle="--", label="attention, what is hidden left out")
    axes.plot([], [], color="#555555", linewidth=1, label="lines: by arithmetic")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("tokens of the text")
    axes.set_ylabel("forward pass, µs per token")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


EXPERIMENT = Experiment(
    name="length",
    question="What does length cost?",
    claim="What attention costs a token grows linearly with the length, and all else stays the same: a token costs a "
    "constant plus a part for every other token, a text the square of its length.",
    source="Vaswani et al. 2017, table 1 (n² · d per layer); the arithmetic: Kaplan et al. 2020, §2.1",
    setting=f"A pass forwards over {TOKENS} tokens in rows of {LENGTHS[0]} to {LENGTHS[-1]}, by {LAYERS} causal layers "
    f"of width {WIDTH} with {HEADS} heads and by the same without scores and mixture; the difference is attention. "
    "Time of the processor, medians, interleaved. Operations are counted by pellucid.analysis.flops.",
    minutes=1,
    measure=measure,
    judge=judge,
    draw=draw,
)
