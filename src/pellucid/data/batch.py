"""What a model reads in one step, and what it is asked. Shapes: B batch, T target positions, S source positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

IGNORE = -100
"""The label of a position where nothing is asked; what ``F.cross_entropy`` ignores by default."""


@dataclass(frozen=True)
class Batch:
    """Token ids and labels of several examples.

    Attributes:
        tokens: what the encoder or the decoder reads.
        labels: the id or class to predict, ``IGNORE`` where nothing is asked.
        keep: True where a token is real; ``None`` when all are.
        source: what the encoder of a pair of sequences reads.
        source_keep: the same for ``source``.
        positions: of each token in its own document; ``None`` counts from the left.
        segments: which document a token belongs to; ``None`` when attention need not stay inside.
    """

    tokens: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"] | Int[Tensor, "B"]
    keep: Bool[Tensor, "B T"] | None = None
    source: Int[Tensor, "B S"] | None = None
    source_keep: Bool[Tensor, "B S"] | None = None
    positions: Int[Tensor, "B T"] | None = None
    segments: Int[Tensor, "B T"] | None = None

    @property
    def num_labels(self) -> int:
        """How many labels count in the loss."""
        return int((self.labels != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        """How many real tokens are read, those of the source included."""
        return _real(self.tokens, self.keep) + (0 if self.source is None else _real(self.source, self.source_keep))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {f.name: value.to(device) for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return Batch(**moved)


def _real(tokens: Tensor, keep: Tensor | None) -> int:
    return tokens.numel() if keep is None else int(keep.sum())


class TrainingBatches(Protocol):
    """Batches without end, in which ``batches[index]`` depends on the seed and the index alone.

    A run that goes on at step n asks for batch n and has lost nothing; there is no position to save.
    """

    def __getitem__(self, index: int) -> Batch: ...


class EvaluationBatches(ABC):
    """A fixed number of batches that together cover every example once."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Batch: ...

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))
