"""Why the mask: without it a decoder reads off what it is to foresee, and has learned nothing when it must write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from pellucid.config.parts import Rotary
from pellucid.data.python_docs import load_python_docs
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, fit, loss_of
from pellucid.lab.makers import decoder
from pellucid.lab.reading import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTH, WIDTH, LAYERS, ROWS, STEPS, PEAK, EVERY = 64, 64, 2, 16, 500, 3e-3, 50
VOCAB = 80  # the most frequent characters, and one for all others
JUDGED, APART, WRITTEN = 32, 4, 60
MASKED, OPEN = "with the mask", "without it"
WHO = (MASKED, OPEN)
NOTHING, USELESS = 0.25, 0.25
"""Nats per character that count as nearly nothing: the last of a window is not seen even without a mask. And what
counts as useless: this share of what the masked model gains over the frequencies of characters."""


def alphabet(text: str) -> str:
    """The most frequent characters; what is none of them is written as the last."""
    common = [character for character, _ in Counter(text).most_common(VOCAB - 1)]
    return "".join(sorted(common)) + "\N{WHITE SQUARE}"


def numbers(text: str, characters: str) -> Int[Tensor, " N"]:
    """A text as places in the alphabet."""
    place = {character: i for i, character in enumerate(characters)}
    return torch.tensor([place.get(character, len(characters) - 1) for character in text])


def windows(text: Int[Tensor, " N"], starts: Int[Tensor, " B"]) -> Rows:
    """From these places on, each next character being asked for."""
    rows = text[starts[:, None] + torch.arange(LENGTH + 1)]
    return Rows(rows[:, :-1], rows[:, 1:])


def drawn(text: Int[Tensor, " N"]) -> Rows:
    """Windows from anywhere."""
    return windows(text, torch.randint(len(text) - LENGTH, (ROWS,)))


@torch.no_grad()
def losses(model: nn.Module, rows: Rows) -> tuple[float, float]:
    """Nats per character at the same places: all of the window being there, and only what stands before."""
    model.eval()
    lengths = range(APART, LENGTH + 1, APART)
    whole = model(rows.tokens)[:, [length - 1 for length in lengths]]
    alone = torch.stack([model(rows.tokens[:, :length])[:, -1] for length in lengths], dim=1)
    asked = rows.labels[:, [length - 1 for length in lengths]].flatten()
    return F.cross_entropy(whole.flatten(0, 1), asked).item(), F.cross_entropy(alone.flatten(0, 1), asked).item()


@torch.no_grad()
def written(model: nn.Module, start: Int[Tensor, " N"], characters: str) -> str:
    """What a model writes after a start, the likeliest character each time."""
    model.eval()
    text = start
    for _ in range(WRITTEN):
        text = torch.cat([text, model(text[None, -LENGTH:])[0, -1:].argmax(-1)])
    return "".join(characters[i] for i in text[len(start) :].tolist())


def measure(seed: int, say: Say) -> Measured:
    """Both losses on held-out text in the course of training, and what is written in the end."""
    corpus = load_python_docs()
    before = "\n\n".join(map(str, corpus.train))
    characters = alphabet(before)
    text, held_out = numbers(before, characters), numbers("\n\n".join(map(str, corpus.validation)), characters)
    judged = windows(held_out, torch.linspace(0, len(held_out) - LENGTH - 1, JUDGED).long())
    steps: list[int] = []
    found: dict[str, dict[str, list[float]]] = {}
    texts: dict[str, str] = {}
    for who in WHO:
        model = decoder(len(characters), width=WIDTH, layers=LAYERS, positions=Rotary())
        model.causal = who == MASKED
        course = {0: (*losses(model, judged), loss_of(model, drawn(text)).item())}
        for step, loss in fit(model, partial(drawn, text), STEPS, peak=PEAK):
            if step % EVERY == 0 or step == STEPS:
                course[step] = (*losses(model, judged), loss)
        steps = list(course)
        names = ("whole", "step by step", "training")
        found[who] = dict(zip(names, map(list, zip(*course.values(), strict=True)), strict=True))
        texts[who] = written(model, judged.tokens[0], characters)
        ends = {name: f"{values[-1]:.2f}" for name, values in found[who].items()}
        say(f"{who}: {ends['whole']} nats with the window, {ends['step by step']} step by step; {texts[who]!r}")
    shares = text.bincount(minlength=len(characters)).float().add(1).log()
    frequency = F.cross_entropy(shares.expand(judged.labels.numel(), -1), judged.labels.flatten()).item()
    start = "".join(characters[i] for i in judged.tokens[0].tolist())
    return {"steps": steps, "nats": found, "frequencies": frequency, "start": start, "written": texts}


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether the loss without the mask is next to nothing, and is worth nothing when only the past is given."""
    end = {
        (who, how): [result["nats"][who][how][-1] for result in results]
        for who in WHO
        for how in ("whole", "step by step")
    }
    guess = [result["frequencies"] for result in results]
    alone = zip(guess, end[MASKED, "step by step"], end[OPEN, "step by step"], strict=True)
    useless = all(masked < chance and chance - loss < USELESS * (chance - masked) for chance, masked, loss in alone)
    said = f"Without the mask the loss is {spread(end[OPEN, 'whole'])} nats a character, with it "
    said += f"{spread(end[MASKED, 'whole'])}. With nothing but the past it is {spread(end[OPEN, 'step by step'])} "
    said += f"without, {spread(end[MASKED, 'step by step'])} with it; frequencies of characters alone give "
    said += f"{spread(guess)}. After {results[0]['start'][-20:]!r} the one writes "
    said += f"{results[0]['written'][OPEN][:40]!r}, the other {results[0]['written'][MASKED][:40]!r}."
    copies = all(loss < NOTHING for loss in end[OPEN, "whole"])
    if not copies:
        said += f" Below {NOTHING:g} the loss without the mask is not with every seed."
    if not useless:
        said += (
            f" Over frequencies it gains not with every seed less than {USELESS:.0%} of what the mask lets it learn."
        )
    return Verdict(copies and useless, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Both losses of both models against steps."""
    axes = figure.subplots()
    for nth, who in enumerate(WHO):
        for how, style in (("whole", "-"), ("step by step", "--")):
            of_seeds = [result["nats"][who][how] for result in results]
            name = f"{who}, {'the window given' if how == 'whole' else 'only the past given'}"
            curve(axes, results[0]["steps"], of_seeds, name, nth, linestyle=style)
    axes.axhline(results[0]["frequencies"], color="#999999", linewidth=0.8, linestyle=":")
    place = 0.99, results[0]["frequencies"]
    axes.annotate("frequencies alone", place, xytext=(0, -3), ha="right", va="top", fontsize=8,
                  xycoords=("axes fraction", "data"), textcoords="offset points", color="#666666")  # fmt: skip
    axes.set_xlabel("training steps")
    axes.set_ylabel("loss, nats per character")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


EXPERIMENT = Experiment(
    name="mask",
    question="Why the mask?",
    claim="A decoder that sees what comes learns to copy it: its loss falls to nearly nothing, and what it writes is "
    "nonsense, since then there is nothing to copy.",
    source="Vaswani et al. 2017, §3.1 and §3.2.3",
    setting=f"Python's language reference by characters, {LENGTH} at a time; {LAYERS} layers of width {WIDTH} with "
    f"rotary positions, {STEPS} steps of {ROWS} rows at a rate of {PEAK:g}. Both losses are of the same characters "
    "of held-out text, once with the whole window given and once with nothing but what stands before them.",
    minutes=2,
    measure=measure,
    judge=judge,
    draw=draw,
)
