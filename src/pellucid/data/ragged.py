"""Rows of unequal length as one flat array, so that a padded batch is one indexing operation."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy import ndarray
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Row ``i`` is ``flat[offsets[i] : offsets[i + 1]]``."""

    flat: Int[ndarray, "tokens"]
    offsets: Int[ndarray, "rows+1"]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """Rows of ids, laid end to end."""
        offsets = _offsets(rows)
        return cls(np.fromiter(chain.from_iterable(rows), np.int32, count=offsets[-1]), offsets)

    @classmethod
    def of_arrays(cls, rows: Sequence[Int[ndarray, "tokens"]]) -> Ragged:
        """The same for rows that are arrays already."""
        return cls(np.concatenate(rows), _offsets(rows))

    @property
    def lengths(self) -> Int[ndarray, "rows"]:
        """The number of tokens of each row."""
        return np.diff(self.offsets)

    def padded(self, rows: Int[ndarray, "B"], pad: int) -> tuple[Int[ndarray, "B T"], Bool[ndarray, "B T"]]:
        """Some rows side by side as int64, which has room for ``IGNORE``, and where their tokens are real."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        place = np.arange(lengths.max())
        keep = place < lengths[:, None]
        # Past the end of a short row any index inside the array will do: what it finds is replaced by padding.
        index = np.minimum(starts[:, None] + place, len(self.flat) - 1)
        return np.where(keep, self.flat[index].astype(np.int64), pad), keep


def _offsets(rows: Sequence[Sized]) -> Int[ndarray, "rows+1"]:
    return np.cumsum([0, *map(len, rows)], dtype=np.int64)


def ids(array: Int[ndarray, "..."]) -> Int[Tensor, "..."]:
    """An array as the int64 tensor that embeddings and losses take."""
    return torch.from_numpy(array.astype(np.int64, copy=False))


def keep_or_none(keep: Bool[ndarray, "B T"]) -> Bool[Tensor, "B T"] | None:
    """Where tokens are real, or ``None`` if all are: a mask that hides nothing would cost the fast kernel."""
    return None if keep.all() else torch.from_numpy(keep)
