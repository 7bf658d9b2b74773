"""Windows of a stream of tokens: what a model of next tokens or of hidden tokens is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pellucid.data.batch import IGNORE, Batch, EvaluationBatches
from pellucid.data.masking import Masking, Spans
from pellucid.data.ragged import Ragged, ids, keep_or_none
from pellucid.errors import DataError


class Stream(Protocol):
    """Tokens of a whole text: an array, or shards on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> Int[ndarray, "tokens"]: ...


class Task(Protocol):
    """Makes batches from windows. Neighbouring windows of an evaluation share ``overlap`` tokens."""

    @property
    def length(self) -> int: ...

    @property
    def overlap(self) -> int: ...

    def batch(self, windows: Sequence[Int[ndarray, "tokens"]], random: np.random.Generator) -> Batch: ...


@dataclass(frozen=True)
class NextToken:
    """Each token is to be predicted from those before it; ``eos``, where given, keeps documents apart.

    Documents kept apart restart their positions after each eos, where nothing is asked: the end of one text says
    nothing about the beginning of another.

    Attributes:
        before: what a published model was taught that a text begins with; read before each window, and not asked for.
    """

    length: int
    pad: int
    eos: int | None = None
    before: tuple[int, ...] = ()
    overlap: int = 1  # the last token of a window is a label there and read by the next one

    def batch(self, windows: Sequence[Int[ndarray, "tokens"]], random: np.random.Generator) -> Batch:
        """Windows of n + 1 tokens, of which n are read and n predicted."""
        whole, real = Ragged.of_arrays(framed(windows, self.before)).padded(np.arange(len(windows)), self.pad)
        keep = real[:, 1:]  # a token is read where there is one to predict after it
        tokens = np.where(keep, whole[:, :-1], self.pad)
        labels = np.where(keep, whole[:, 1:], IGNORE)
        labels[:, : len(self.before)] = IGNORE
        if self.eos is None:
            return Batch(ids(tokens), ids(labels), keep_or_none(keep))
        segments, positions = documents(tokens, self.eos)
        labels[tokens == self.eos] = IGNORE
        return Batch(ids(tokens), ids(labels), keep_or_none(keep), positions=ids(positions), segments=ids(segments))


def framed(
    windows: Sequence[Int[ndarray, "tokens"]], before: Sequence[int], after: Sequence[int] = ()
) -> Sequence[Int[ndarray, "tokens"]]:
    """Windows with some tokens around each."""
    if not before and not after:
        return windows
    return [np.concatenate([np.asarray(part, window.dtype) for part in (before, window, after)]) for window in windows]


def documents(tokens: Int[ndarray, "B T"], eos: int) -> tuple[Int[ndarray, "B T"], Int[ndarray, "B T"]]:
    """Which document of its window each token belongs to, and its position there; an eos ends its own document."""
    begins = np.zeros(tokens.shape, bool)
    begins[:, 1:] = tokens[:, :-1] == eos
    place = np.arange(tokens.shape[1])
    return begins.cumsum(axis=1), place - np.maximum.accumulate(np.where(begins, place, 0), axis=1)


@dataclass(frozen=True)
class HiddenTokens:
    """Some tokens are hidden, and are to be restored from all others.

    Attributes:
        before, after: what a published model was taught that stands around a text; never hidden.
    """

    length: int
    pad: int
    masking: Masking
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    overlap: int = 0

    def batch(self, windows: Sequence[Int[ndarray, "tokens"]], random: np.random.Generator) -> Batch:
        """Windows read whole, with the hidden tokens as labels."""
        whole = Ragged.of_arrays(framed(windows, self.before, self.after))
        tokens, keep = whole.padded(np.arange(len(windows)), self.pad)
        hidden, labels = self.masking.hide(tokens, keep, random)
        return Batch(ids(hidden), ids(labels), keep_or_none(keep))


@dataclass(frozen=True)
class HiddenSpans:
    """Some spans are taken out, and are to be written after ``start``, up to ``eos``."""

    length: int
    pad: int
    start: Sequence[int]
    eos: int
    spans: Spans
    overlap: int = 0

    def batch(self, windows: Sequence[Int[ndarray, "tokens"]], random: np.random.Generator) -> Batch:
        """The encoder reads what is left, the decoder what was taken out."""
        sources, targets = zip(*(self.spans.hide(window, random) for window in windows), strict=True)
        rows = np.arange(len(windows))
        source, source_keep = Ragged.of([[*source, self.eos] for source in sources]).padded(rows, self.pad)
        whole, real = Ragged.of([[*self.start, *target, self.eos] for target in targets]).padded(rows, self.pad)
        keep = real[:, 1:]
        return Batch(
            ids(np.where(keep, whole[:, :-1], self.pad)),
            ids(np.where(keep, whole[:, 1:], IGNORE)),
            keep_or_none(keep),
            source=ids(source),
            source_keep=keep_or_none(source_keep),
        )


@dataclass(frozen=True)
class TrainingWindows:
    """Batch ``index`` is ``rows`` windows that begin anywhere in the stream.

    Raises:
        DataError: on construction, for a stream too short for one window.
    """

    stream: Stream
    task: Task
    rows: int
    seed: int

    def __post_init__(self) -> None:
        needed = self.task.length + self.task.overlap
        if len(self.stream) < needed:
            found = f"{len(self.stream)} tokens of training text"
            hint = f"use more text, or objective.length={max(2, len(self.stream) // 2)}"
            raise DataError("objective.length", found, f"at least {needed}", hint)

    def __getitem__(self, index: int) -> Batch:
        random = np.random.default_rng((self.seed, index))
        span = self.task.length + self.task.overlap
        starts = random.integers(0, len(self.stream) - span, size=self.rows, endpoint=True)
        return self.task.batch([self.stream[start : start + span] for start in starts], random)


@dataclass(frozen=True)
class EvaluationWindows(EvaluationBatches):
    """The whole stream in windows side by side, the last of them as short as it is.

    Raises:
        DataError: on construction, for a stream that leaves nothing to predict.
    """

    stream: Stream
    task: Task
    rows: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.stream) <= self.task.overlap:
            raise DataError("the validation text", f"{len(self.stream)} tokens", f"more than {self.task.overlap}")

    @property
    def num_windows(self) -> int:
        """Windows that it takes to reach the end."""
        return -((self.task.overlap - len(self.stream)) // self.task.length)

    def __len__(self) -> int:
        return -(-self.num_windows // self.rows)

    def __getitem__(self, index: int) -> Batch:
        first = index * self.rows
        last = min(first + self.rows, self.num_windows)
        starts = [window * self.task.length for window in range(first, last)]
        span = self.task.length + self.task.overlap
        # The same mask at every evaluation, and none that training draws: (seed, index, 0) would be (seed, index).
        random = np.random.default_rng((self.seed, first, 1))
        return self.task.batch([self.stream[start : start + span] for start in starts], random)
