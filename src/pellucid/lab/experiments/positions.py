"""Why positions, and which: in the training length, and in texts longer than those trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pellucid.config import parts
from pellucid.config.model import NormalInit, Tokens
from pellucid.data.python_docs import load_python_docs
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import UNASKED, Rows, fit, loss_of
from pellucid.lab.makers import decoder
from pellucid.lab.reading import spread
from pellucid.models.build import build

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTH, TIMES, WIDTH, LAYERS = 32, (1, 2, 4), 64, 2
ROWS, STEPS, PEAK, JUDGED, ASKED = 16, 900, 3e-3, 256, 16
VOCAB = 128  # bytes; what is beyond ASCII becomes the last
NONE, LEARNED, SINUSOIDAL, ROTARY, ALIBI, BIAS = "none", "learned", "sinusoidal", "rotary", "ALiBi", "T5's bias"
WHO = (NONE, LEARNED, SINUSOIDAL, ROTARY, ALIBI, BIAS)
HOLDING, FALLING = (ALIBI, BIAS), (LEARNED, SINUSOIDAL)


def make(who: str) -> nn.Module:
    """The same decoder with other positions; tokens are scaled (§3.4 of the paper), or sinusoids would drown them."""
    kinds: dict[str, parts.Positions] = {
        NONE: parts.NoPositions(),
        LEARNED: parts.Learned(max_length=max(TIMES) * LENGTH),
        SINUSOIDAL: parts.Sinusoidal(),
        ROTARY: parts.Rotary(),
        ALIBI: parts.ALiBi(),
        BIAS: parts.RelativeBias(buckets=16, max_distance=32),
    }
    config = decoder(VOCAB, width=WIDTH, layers=LAYERS, positions=kinds[who]).config
    return build(replace(config, front=Tokens(vocab_size=VOCAB, scaled=True), init=NormalInit(deviation=WIDTH**-0.5)))


def characters(texts: Sequence[Any]) -> Int[Tensor, " N"]:
    """All texts as one row of bytes."""
    return torch.tensor(list("\n\n".join(texts).encode())).clamp(max=VOCAB - 1)


def drawn(text: Int[Tensor, " N"]) -> Rows:
    """Windows of the training length from anywhere in a text."""
    windows = text[torch.randint(len(text) - LENGTH, (ROWS, 1)) + torch.arange(LENGTH + 1)]
    return Rows(windows[:, :-1], windows[:, 1:])


def ending(text: Int[Tensor, " N"], length: int) -> Rows:
    """Windows of a length, all with the same ends: the same characters are asked for, after more or less text."""
    ends = torch.linspace(max(TIMES) * LENGTH, len(text) - 1, JUDGED).long()
    windows = text[ends[:, None] + torch.arange(-length, 1)]
    labels = windows[:, 1:].clone()
    labels[:, :-ASKED] = UNASKED
    return Rows(windows[:, :-1], labels)


def measure(seed: int, say: Say) -> Measured:
    """Nats per character of held-out text, by kind of positions and length of the window."""
    corpus = load_python_docs()
    text, held_out = characters(corpus.train), characters(corpus.validation)
    lengths = [times * LENGTH for times in TIMES]
    found: dict[str, list[float]] = {}
    for who in WHO:
        model = make(who)
        for _ in fit(model, partial(drawn, text), STEPS, peak=PEAK):
            pass
        model.eval()
        with torch.no_grad():
            found[who] = [loss_of(model, ending(held_out, length)).item() for length in lengths]
        say(f"{who}: " + ", ".join(f"{loss:.2f} at {length}" for length, loss in zip(lengths, found[who], strict=True)))
    return {"lengths": lengths, "nats": found}


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether all positions help in the training length, and which of them still help in the longest windows.

    What falls apart is worse there than a model that knows no positions at all; what holds is better.
    """
    lengths = results[0]["lengths"]
    gains = {
        who: [[n - x for n, x in zip(r["nats"][NONE], r["nats"][who], strict=True)] for r in results] for who in WHO
    }
    losses = {who: [r["nats"][who] for r in results] for who in WHO}
    known = [who for who in WHO if who != NONE]
    needed = all(gain[0] > 0 for who in known for gain in gains[who])
    hold = [who for who in known if all(gain[-1] > 0 for gain in gains[who])]
    fall = [who for who in known if all(gain[-1] < 0 for gain in gains[who])]

    def listed(at: int) -> str:
        return ", ".join(f"{who} {spread([loss[at] for loss in losses[who]])}" for who in WHO)

    said = f"The loss in nats in windows of {lengths[0]} characters, as trained on: {listed(0)}. "
    said += f"Without positions it is {'the worst' if needed else 'not the worst with every seed'}. "
    said += f"In windows of {lengths[-1]}: {listed(-1)}. With every seed there "
    said += f"{' and '.join(hold) or 'no positions'} do better than none, {', '.join(fall) or 'no positions'} worse."
    return Verdict(needed and set(HOLDING) <= set(hold) and set(FALLING) <= set(fall), said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The loss against the length of the window."""
    axes = figure.subplots()
    lengths = results[0]["lengths"]
    for nth, who in enumerate(WHO):
        curve(axes, lengths, [result["nats"][who] for result in results], who, nth)
    axes.axvline(lengths[0], color="#999999", linewidth=0.8, linestyle=":")
    axes.annotate("trained on", (lengths[0], 0.98), xytext=(4, 0), xycoords=("data", "axes fraction"),
                  textcoords="offset points", va="top", fontsize=8, color="#666666")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("characters of the window")
    axes.set_ylabel("loss, nats per character")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


EXPERIMENT = Experiment(
    name="positions",
    question="Why positions, and which?",
    claim="Without positions a model is worse; in texts longer than those trained on, biases on the scores that go by "
    "the distance still help, where learned and sinusoidal positions fall apart and do worse than none.",
    source="Vaswani et al. 2017, §3.5; Press et al. 2022; Raffel et al. 2020, §2.1",
    setting=f"The language reference of Python by characters: {LAYERS} layers of width {WIDTH}, trained on windows of "
    f"{LENGTH}, in {STEPS} steps of {ROWS} rows at a rate of {PEAK:g}. Asked for are the same {ASKED} characters at "
    f"the end of held-out windows of {', '.join(str(times * LENGTH) for times in TIMES)}. Learned positions beyond "
    f"{LENGTH} are there, but were never trained; T5's bias takes all distances from about 30 on for one.",
    minutes=9,
    measure=measure,
    judge=judge,
    draw=draw,
)
