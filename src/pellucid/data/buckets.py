"""Batches of examples of like length, so that little of a batch is padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pellucid.data.batch import IGNORE, Batch, EvaluationBatches
from pellucid.data.ragged import Ragged, ids, keep_or_none

SHUFFLE_WITHIN = 4
"""How far apart, in tokens, the shorter sides of two pairs may be for them to change places between epochs."""


class Rows(Protocol):
    """Examples as token ids: how long each is, by what to sort those of equal length, how many had to be cut."""

    @property
    def num_cut(self) -> int: ...

    @property
    def lengths(self) -> Int[ndarray, "N"]: ...

    @property
    def second_lengths(self) -> Int[ndarray, "N"]: ...

    def batch(self, rows: Int[ndarray, "B"]) -> Batch: ...


@dataclass(frozen=True)
class PairRows:
    """Sources as the encoder reads them, and targets from bos to eos; token ``t`` is read to predict ``t + 1``."""

    source: Ragged
    target: Ragged
    pad: int
    num_cut: int

    @cached_property
    def lengths(self) -> Int[ndarray, "N"]:
        """The longer side of each pair."""
        return np.maximum(self.source.lengths, self.target.lengths - 1)

    @cached_property
    def second_lengths(self) -> Int[ndarray, "N"]:
        """The shorter side of each pair."""
        return np.minimum(self.source.lengths, self.target.lengths - 1)

    def batch(self, rows: Int[ndarray, "B"]) -> Batch:
        """Some pairs, padded."""
        source, source_keep = self.source.padded(rows, self.pad)
        target, real = self.target.padded(rows, self.pad)
        keep = real[:, 1:]  # a token is read where there is one to predict after it
        return Batch(
            tokens=ids(np.where(keep, target[:, :-1], self.pad)),
            labels=ids(np.where(keep, target[:, 1:], IGNORE)),
            keep=keep_or_none(keep),
            source=ids(source),
            source_keep=keep_or_none(source_keep),
        )


@dataclass(frozen=True)
class LabelledRows:
    """Texts and the index of the label of each."""

    text: Ragged
    labels: Int[ndarray, "N"]
    pad: int
    num_cut: int

    @cached_property
    def lengths(self) -> Int[ndarray, "N"]:
        """The length of each text."""
        return self.text.lengths

    @cached_property
    def second_lengths(self) -> Int[ndarray, "N"]:
        """Nothing more to sort by."""
        return np.zeros_like(self.lengths)

    def batch(self, rows: Int[ndarray, "B"]) -> Batch:
        """Some texts, padded."""
        tokens, keep = self.text.padded(rows, self.pad)
        return Batch(ids(tokens), ids(self.labels[rows]), keep_or_none(keep))


def cuts(lengths: Int[ndarray, "N"], batch_tokens: int) -> Int[ndarray, "batches+1"]:
    """Where to cut rows of ascending length so that rows × longest stays within ``batch_tokens``, one row at least."""
    found = [0]
    for i, length in enumerate(lengths.tolist()):
        if (i + 1 - found[-1]) * length > batch_tokens and i > found[-1]:
            found.append(i)
    return np.array([*found, len(lengths)])


@dataclass
class TrainingBuckets:
    """Every example once in each epoch, in batches whose number never changes.

    The cuts are made once, in the sorted lengths. Whatever order the examples of one length are put in, the lengths at
    every place stay the same, so the same cuts are right: each epoch draws that order anew, and the order of batches.
    """

    rows: Rows
    batch_tokens: int
    seed: int

    def __post_init__(self) -> None:
        self._cuts = cuts(np.sort(self.rows.lengths), self.batch_tokens)
        self._epoch = -1  # whose order is at hand; only a memory, every order can be drawn again

    @property
    def num_cut(self) -> int:
        """Examples that were longer than allowed and lost their end."""
        return self.rows.num_cut

    @property
    def batches_per_epoch(self) -> int:
        """Batches until every example has been seen once more."""
        return len(self._cuts) - 1

    def members(self, index: int) -> Int[ndarray, "B"]:
        """The examples in a batch, as indices."""
        epoch, place = divmod(index, self.batches_per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng((self.seed, epoch))
            jitter = self.rows.second_lengths + random.uniform(0, SHUFFLE_WITHIN, len(self.rows.lengths))
            self._order = np.lexsort((jitter, self.rows.lengths))
            self._batches = random.permutation(self.batches_per_epoch)
            self._epoch = epoch
        batch = self._batches[place]
        return self._order[self._cuts[batch] : self._cuts[batch + 1]]

    def __getitem__(self, index: int) -> Batch:
        return self.rows.batch(self.members(index))


@dataclass(frozen=True)
class EvaluationBuckets(EvaluationBatches):
    """Every example exactly once, shortest first."""

    rows: Rows
    batch_tokens: int

    @cached_property
    def _order(self) -> Int[ndarray, "N"]:
        return np.lexsort((self.rows.second_lengths, self.rows.lengths))

    @cached_property
    def _cuts(self) -> Int[ndarray, "batches+1"]:
        return cuts(self.rows.lengths[self._order], self.batch_tokens)

    @property
    def num_cut(self) -> int:
        """Examples that were longer than allowed and lost their end."""
        return self.rows.num_cut

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def members(self, index: int) -> Int[ndarray, "B"]:
        """The examples in a batch, as indices."""
        return self._order[self._cuts[index] : self._cuts[index + 1]]

    def __getitem__(self, index: int) -> Batch:
        return self.rows.batch(self.members(index))
