"""What a data set is: examples to train on, examples to validate on, named tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple

from pellucid.data.files import Document, LargeFile, pieces


class Pair(NamedTuple):
    """A text and what to write from it."""

    source: str
    target: str


class Labelled(NamedTuple):
    """A text and its label."""

    text: str
    label: str


class Languages(NamedTuple):
    """Two-letter codes of what pairs are written in."""

    source: str
    target: str


Examples = Sequence[Document] | Sequence[Pair] | Sequence[Labelled]


@dataclass(frozen=True)
class Corpus:
    """A data set, split.

    Attributes:
        kind: decides what an example is: a document, a :class:`Pair` or a :class:`Labelled`.
        tests: named test sets, which may be none.
        labels: of a labelled corpus, sorted.
        notes: facts for the card of a run: source, languages, licence, what was dropped.
        split_by_moses: the languages of pairs that stand as the Moses tokenizer splits them; ``None`` for text as
            people write it.
    """

    kind: Literal["text", "pairs", "labelled"]
    train: Examples
    validation: Examples
    tests: Mapping[str, Examples] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    split_by_moses: Languages | None = None

    def training_texts(self) -> TrainingTexts:
        """All text of the training examples, which a tokenizer learns from; can be read more than once."""
        return TrainingTexts(self)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with what is trained on and validated with."""
        told = hashlib.sha256()
        for examples in (self.train, self.validation):
            for part in chain.from_iterable(map(_told_by, examples)):
                told.update(part + b"\x00")
            told.update(b"\x01")
        return told.hexdigest()[:16]

    def reversed(self) -> Corpus:
        """The corpus of pairs with source and target exchanged."""
        tests = {name: _swapped(pairs) for name, pairs in self.tests.items()}
        languages = self.split_by_moses and Languages(self.split_by_moses.target, self.split_by_moses.source)
        train, validation = _swapped(self.train), _swapped(self.validation)
        return replace(self, train=train, validation=validation, tests=tests, split_by_moses=languages)


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of a corpus, read anew by every ``for``."""

    corpus: Corpus

    def __iter__(self) -> Iterator[str]:
        for example in self.corpus.train:
            match example:
                case Pair():
                    yield from example
                case Labelled():
                    yield example.text
                case _:
                    yield from pieces(example)


def _told_by(example: Document | Pair | Labelled) -> Iterable[bytes]:
    """What tells an example from others; of a large file its size and its ends."""
    if isinstance(example, LargeFile):
        return (str(example.stop - example.start).encode(), *example.ends())
    texts = (example,) if isinstance(example, str) else example
    return (text.encode("utf-8", "surrogatepass") for text in texts)


def _swapped(pairs: Sequence[Any]) -> list[Pair]:
    return [Pair(target, source) for source, target in pairs]
