"""A text, and the image that it asks for: one decoder over the tokens of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.config.parts import Learned
from pellucid.config.run import Conventions
from pellucid.inference.drawing import CODES, TEMPERATURE, Autoencoder, codes_after, save_coder
from pellucid.lab import digits
from pellucid.lab.drawing import train
from pellucid.lab.experiment import Experiment, Kept, Measured, Say, Verdict
from pellucid.lab.fitting import Rows, fit, right
from pellucid.lab.keeping import save, words
from pellucid.lab.makers import decoder
from pellucid.lab.reading import spread
from pellucid.models.decoder import Decoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("a", "handwritten", *NAMES)
ROWS, READING, CODING, WRITING, PEAK = 64, 2000, 1500, 3000, 2e-3
SAMPLES, SHOWN = 1000, 6
ENOUGH = 0.95


def measure(seed: int, say: Say) -> Kept:
    """Of samples, the share that a reader of real digits takes for what was asked; some of them to look at."""
    known, test = digits.load()
    reader = digits.reader()
    for _ in fit(reader, lambda: known.some(ROWS), READING, peak=3e-3, warmup=200, smoothing=0.1):
        pass
    real = right(reader, Rows(*test))
    say(f"a reader of digits is right about {real:.1%} of real ones")
    coder = Autoencoder()
    error = train(coder, lambda: known.some(ROWS).tokens, CODING)
    say(f"an image is {digits.PATCHES} of {CODES} codes; what comes back is off by {error**0.5:.3f} of 2")
    model = decoder(len(WORDS) + CODES, width=96, positions=Learned(max_length=19), dropout=0.1)
    for step, loss in fit(model, lambda: _asked_and_drawn(known, coder), WRITING, peak=PEAK):
        if step % 1000 == 0:
            say(f"step {step}: {loss:.2f} nats a token")
    digit = torch.arange(10).repeat(SAMPLES // 10)
    taken = reader(coder.decode(codes_after(model, _prompt(digit), seed=seed))).argmax(-1)
    seen = coder.decode(codes_after(model, _prompt(torch.arange(10).repeat(SHOWN)), seed=seed + 1))[:, 0]
    say(f"{(taken == digit).float().mean():.1%} of {SAMPLES} are read as what was asked for")
    measured = {
        "right": float((taken == digit).float().mean()),
        "by_digit": [float((taken == digit)[digit == each].float().mean()) for each in range(10)],
        "reader": real,
        "samples": len(digit),
        "seen": [[[round(pixel, 2) for pixel in row] for row in image] for image in seen.tolist()],
    }
    image = coder.encode(test.images[:1])[0].tolist()
    example = " ".join(("a", "handwritten", NAMES[int(test.labels[0])], *(f"code{code}" for code in image)))
    return Kept(measured, lambda folder: _save(folder, model, coder, example))


def _save(folder: Path, model: Decoder, coder: Autoencoder, example: str) -> None:
    """The decoder, with names for the codes that it writes after “a handwritten seven”, and what draws them."""
    save(folder, model, words((*WORDS, *(f"code{i}" for i in range(CODES))), (), Conventions(pad=0)))
    save_coder(folder, coder)
    (folder / "example.txt").write_text(example, encoding="utf-8")


def _prompt(digit: Int[Tensor, "B"]) -> Int[Tensor, "B 3"]:
    """``a handwritten seven`` as tokens."""
    return torch.stack([torch.zeros_like(digit), torch.ones_like(digit), digit + WORDS.index("zero")], dim=1)


def _asked_and_drawn(known: digits.Digits, coder: Autoencoder) -> Rows:
    images, digit = known.some(ROWS)
    whole = torch.cat([_prompt(digit), coder.encode(images) + len(WORDS)], dim=1)
    return Rows(whole[:, :-1], whole[:, 1:])


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether what is drawn is what was asked for."""
    shares = spread([100 * result["right"] for result in results], ".1f")
    worst = int(np.mean([result["by_digit"] for result in results], axis=0).argmin())
    said = f"Of {results[0]['samples']} images {shares} % are read as the digit that was asked for, by a model that "
    said += f"reads {spread([100 * result['reader'] for result in results], '.1f')} % of real ones; least often "
    said += f"{NAMES[worst]}, {spread([100 * result['by_digit'][worst] for result in results], '.0f')} %."
    return Verdict(min(result["right"] for result in results) >= ENOUGH, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """What the first seed drew, a column for each digit."""
    axes: Any = figure.subplots(SHOWN, 10, squeeze=False)
    for nth, image in enumerate(results[0]["seen"]):
        at = axes[nth // 10, nth % 10]
        at.imshow(image, cmap="gray_r", vmin=-1, vmax=1)
        at.set_axis_off()
        if nth < 10:
            at.set_title(NAMES[nth], fontsize=8)


EXPERIMENT = Experiment(
    name="pictures",
    question="Can it draw what a text asks for?",
    claim="An image coded as tokens can be written after the words that describe it, by a decoder that is told of "
    "neither which is which.",
    source="Ramesh et al. 2021 (DALL-E), §2; the codes: van den Oord et al. 2017",
    setting=f"“a handwritten seven”, then 16 of {CODES} codes: two layers of width 96, {WRITING} steps of {ROWS} rows; "
    f"{SAMPLES} are drawn at a temperature of {TEMPERATURE} and read by a model that was trained on real digits.",
    minutes=14,
    measure=measure,
    judge=judge,
    draw=draw,
)
