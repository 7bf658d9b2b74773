"""What every way of reading texts with an encoder gives, and the plainest way to have it.

A reader turns token ids into states: :class:`Padded` by the model itself, which is what faster readers are compared
with, an engine at the speed of the machine.

Shapes: N tokens of all texts, T of one, D d_model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.inference.batches import BATCH_TOKENS, padded
from pellucid.inference.writer import Ids
from pellucid.models.encoder import Encoder


@dataclass(frozen=True, eq=False)
class Flat:
    """The last states of several texts (N, D), one text behind the other, and how long each is."""

    states: Float[Tensor, "N D"]
    lengths: tuple[int, ...]

    def each(self) -> tuple[Float[Tensor, "T D"], ...]:
        """The states of every text."""
        return torch.split(self.states, list(self.lengths))


class Reader(Protocol):
    """Reads tokens.

    Attributes:
        budget: how many tokens it reads at once at best, the longest text's for each.
    """

    budget: int

    def __call__(self, texts: Ids, types: Ids | None = None) -> Flat:
        """The last states of texts of any lengths, all at once.

        Args:
            types: of each token, for a model that has embeddings of them; all of the first by default.
        """


class Padded:
    """The model itself, shown texts side by side among padding."""

    budget = BATCH_TOKENS

    def __init__(self, model: Encoder, pad: int) -> None:
        self.model, self.pad = model, pad

    @torch.inference_mode()
    def __call__(self, texts: Ids, types: Ids | None = None) -> Flat:
        device, lengths = self.model.device, tuple(map(len, texts))
        tokens, keep = padded(texts, self.pad, device)
        token_types = None if types is None else padded(types, 0, device)[0]
        states = self.model.features(tokens, keep=keep, token_types=token_types).states
        real = torch.ones_like(tokens, dtype=torch.bool) if keep is None else keep
        return Flat(states[real], lengths)
