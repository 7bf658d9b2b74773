"""Built-in data ``reversal``: numbers to write backwards, the toy task of JoeyNMT (Kreutzer et al. 2019).

What is validated and tested on is up to five numbers longer than anything in training: a model that has only learned
at which position stands what fails there.
"""

from __future__ import annotations

from random import Random

from pellucid.data.corpus import Corpus, Pair

NUMBERS, LONGEST, LONGER = 50, 25, 30
TRAIN, TEST = 50_000, 1_000


def load_reversal() -> Corpus:
    """Pairs such as ``4 17 30`` and ``30 17 4``; the tests tell lengths seen in training from those beyond."""
    draw = Random(42)
    validation, test = _pairs(draw, TEST, LONGER), _pairs(draw, TEST, LONGER)
    known = {pair.source for pair in (*validation, *test)}
    train = [pair for pair in _pairs(draw, TRAIN, LONGEST) if pair.source not in known]
    beyond = [pair for pair in test if len(pair.source.split()) > LONGEST]
    return Corpus(
        kind="pairs",
        train=train,
        validation=validation,
        tests={"test": test, "within": [pair for pair in test if pair not in beyond], "beyond": beyond},
        notes={"source": "made up, seed 42, in the sizes of joeynmt's scripts/generate_reverse_task.py"},
    )


def _pairs(draw: Random, count: int, longest: int) -> list[Pair]:
    return [_pair([str(draw.randrange(NUMBERS)) for _ in range(draw.randint(1, longest))]) for _ in range(count)]


def _pair(numbers: list[str]) -> Pair:
    return Pair(" ".join(numbers), " ".join(reversed(numbers)))
