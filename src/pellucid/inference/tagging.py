"""From labels of tokens to labels of words and to the names that several words make.

Of a word that was cut into pieces, the first piece decides: the others had no label in training (Devlin et al. 2019,
§5.3). Names are written as in CoNLL 2003: ``B-X`` begins a name of kind X, ``I-X`` goes on, ``O`` is outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import tokenizers

OUTSIDE = "O"
BEGINS, GOES_ON = "B-", "I-"


@dataclass(frozen=True)
class Span:
    """A part of a text, from ``start`` to before ``end`` in characters, its label and how likely that is."""

    label: str
    text: str
    start: int
    end: int
    probability: float


def words_of(encoding: tokenizers.Encoding) -> Iterator[tuple[int, int, int]]:
    """The words of a text that was cut: the first token of each, and where it starts and ends in characters."""
    for _, tokens in groupby(range(len(encoding.ids)), lambda token: encoding.word_ids[token]):
        whole = list(tokens)
        yield whole[0], encoding.offsets[whole[0]][0], encoding.offsets[whole[-1]][1]


def names(words: Sequence[Span], text: str) -> list[Span]:
    """What is not outside: words that go on with a name are one with it, its probability the mean of theirs.

    Labels that are neither ``B-X`` nor ``I-X``, such as parts of speech, are of one word each.
    """
    found: list[list[Span]] = []
    before = OUTSIDE
    for word in words:
        if word.label.startswith(GOES_ON) and _kind(word.label) == _kind(before):
            found[-1].append(word)
        elif word.label != OUTSIDE:
            found.append([word])
        before = word.label
    return [_joined(group, text) for group in found]


def _kind(label: str) -> str:
    return label[2:] if label.startswith((BEGINS, GOES_ON)) else label


def _joined(words: Sequence[Span], text: str) -> Span:
    start, end = words[0].start, words[-1].end
    probability = sum(word.probability for word in words) / len(words)
    return Span(_kind(words[0].label), text[start:end], start, end, probability)
