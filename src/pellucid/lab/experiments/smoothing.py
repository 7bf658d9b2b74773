"""Label smoothing: the model is told to be less sure than it could be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.data.corpus import Pair
from pellucid.data.dates import load_dates
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import bars
from pellucid.lab.fitting import UNASKED, Rows, fit, loss_of
from pellucid.lab.makers import Pairs, Translator
from pellucid.lab.reading import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHINGS = (0.0, 0.1)
EXAMPLES, WIDTH, ROWS, STEPS, PEAK, JUDGED = 20_000, 64, 64, 800, 3e-3, 400
PAD, START, END = 0, 1, 2
WRITTEN = 10  # 2071-03-13


@dataclass(frozen=True)
class Alphabet:
    """Characters as numbers from 3 on; those that were not seen in training are one more."""

    characters: dict[str, int]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Alphabet:
        """All characters of both sides."""
        seen = sorted({character for pair in pairs for character in pair.source + pair.target})
        return cls({character: i for i, character in enumerate(seen, END + 1)})

    @property
    def size(self) -> int:
        """Numbers that there are."""
        return END + 2 + len(self.characters)

    def numbers(self, texts: Sequence[str]) -> Int[Tensor, "B T"]:
        """Rows filled up to the longest."""
        found = [torch.tensor([self.characters.get(one, self.size - 1) for one in text]) for text in texts]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=PAD)

    def rows(self, pairs: Sequence[Pair]) -> Rows:
        """What is read and written; asked for are all ten characters of the date and the end."""
        source, target = (self.numbers([pair[side] for pair in pairs]) for side in (0, 1))
        before, after = (torch.full((len(pairs), 1), mark) for mark in (START, END))
        labels = torch.cat([target, after], dim=1)
        return Rows(
            Pairs(source, source != PAD, torch.cat([before, target], dim=1)), labels.masked_fill(labels == PAD, UNASKED)
        )


def measure(seed: int, say: Say) -> Measured:
    """Perplexity and quality of what is written for dates in languages that were never seen, by smoothing."""
    corpus = load_dates(seed=0, examples=EXAMPLES)
    pairs, asked = [*corpus.train], [*corpus.tests["unseen"]][:JUDGED]
    alphabet = Alphabet.of(pairs)
    rows = alphabet.rows(asked)
    found: dict[str, dict[str, float]] = {}
    for smoothing in SMOOTHINGS:
        torch.manual_seed(seed)  # the same beginning and the same lessons for both
        model = Translator(alphabet.size, WIDTH)

        def lesson() -> Rows:
            return alphabet.rows([pairs[i] for i in torch.randint(len(pairs), (ROWS,)).tolist()])

        for _ in fit(model, lesson, STEPS, peak=PEAK, smoothing=smoothing):
            pass
        found[str(smoothing)] = _judged(model, rows, alphabet, [pair.target for pair in asked])
        told = found[str(smoothing)]
        say(f"smoothing {smoothing}: perplexity {told['perplexity']:.3f}, BLEU {told['bleu']:.1f}, "
            f"{told['whole']:.1%} wholly right")  # fmt: skip
    return {"found": found, "judged": len(asked)}


@torch.no_grad()
def _judged(model: Translator, rows: Rows, alphabet: Alphabet, wanted: Sequence[str]) -> dict[str, float]:
    from sacrebleu.metrics.bleu import BLEU

    model.eval()
    perplexity = math.exp(loss_of(model, rows).item())
    assert isinstance(rows.tokens, Pairs)
    told = {number: character for character, number in alphabet.characters.items()}
    written = model.write(rows.tokens, START, END, WRITTEN + 2)
    texts = ["".join(told.get(number, "?") for number in row) for row in written]
    # Characters stand for the words that BLEU counts.
    bleu = BLEU(tokenize="none").corpus_score([" ".join(text) for text in texts], [[" ".join(text) for text in wanted]])
    whole = sum(text == target for text, target in zip(texts, wanted, strict=True)) / len(texts)
    return {"perplexity": perplexity, "bleu": bleu.score, "whole": whole}


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether the perplexity is the worse for it and the BLEU the better, with every seed."""

    def of(smoothing: float, what: str) -> list[float]:
        return [result["found"][str(smoothing)][what] for result in results]

    plain, smoothed = SMOOTHINGS[:2]
    said = f"Perplexity {spread(of(plain, 'perplexity'), '.2f')} without smoothing, "
    said += f"{spread(of(smoothed, 'perplexity'), '.2f')} with {smoothed}; BLEU {spread(of(plain, 'bleu'), '.1f')} and "
    said += (
        f"{spread(of(smoothed, 'bleu'), '.1f')}; wholly right {spread([100 * x for x in of(plain, 'whole')], '.0f')} "
    )
    said += f"and {spread([100 * x for x in of(smoothed, 'whole')], '.0f')} %."
    worse = all(a < b for a, b in zip(of(plain, "perplexity"), of(smoothed, "perplexity"), strict=True))
    better = all(a < b for a, b in zip(of(plain, "bleu"), of(smoothed, "bleu"), strict=True))
    return Verdict(worse and better, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """Perplexity beside BLEU."""
    for axes, what, name in zip(figure.subplots(1, 2), ("perplexity", "bleu"), ("perplexity", "BLEU"), strict=True):
        of_seeds = [[result["found"][str(smoothing)][what] for result in results] for smoothing in SMOOTHINGS]
        bars(axes, [f"{smoothing:g}" for smoothing in SMOOTHINGS], of_seeds)
        axes.set_xlabel("label smoothing")
        axes.set_ylabel(name)


EXPERIMENT = Experiment(
    name="smoothing",
    question="Why smooth the labels?",
    claim="Label smoothing hurts perplexity, as the model learns to be more unsure, but improves what it writes.",
    source="Vaswani et al. 2017, §5.4 and table 3 (D); Szegedy et al. 2016",
    setting=f"Dates as people write them anywhere, to be written as 2071-03-13: two and two layers of width {WIDTH}, "
    f"{STEPS} steps of {ROWS}; judged on {JUDGED} dates in languages that were never seen.",
    minutes=14,
    measure=measure,
    judge=judge,
    draw=draw,
)
