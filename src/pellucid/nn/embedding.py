"""Fronts: what turns tokens, images or sound into vectors. Shapes: B batch, T positions, D d_model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.nn.dropout import dropout
from pellucid.trace import Tapped


class TokenFront(Tapped):
    """Embedding, scaled by √D where the paper's §3.4 is followed, plus token type and position, then norm and dropout.

    Args:
        positions: adds the positions' vectors, or nothing.
        token_types: number of token types with an embedding of their own; 0 for none.
        norm: on the sum; an identity for none.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        positions: nn.Module,
        scaled: bool,
        token_types: int,
        norm: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, d_model)
        self.token_types = nn.Embedding(token_types, d_model) if token_types else None
        self.scale = math.sqrt(d_model) if scaled else 1.0
        self.positions, self.norm, self.dropout = positions, norm, dropout

    def length(self, tokens: Int[Tensor, "B T"]) -> int:
        """T, the number of vectors that come out."""
        return tokens.size(1)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = self.tap("tokens", self.table(tokens) * self.scale)
        if self.token_types is not None:
            x = x + self.token_types(torch.zeros_like(tokens) if token_types is None else token_types)
        x = self.norm(self.tap("positions", self.positions(x, positions)))
        return self.tap("out", dropout(x, self.dropout, self.training))


class PatchFront(Tapped):
    """An image cut into squares, row by row, each flattened and projected; a trained vector may stand before them.

    Dosovitskiy et al. 2021, eq. 1. Positions count the class token as the first.
    """

    def __init__(
        self, d_model: int, *, patch_size: int, channels: int, class_token: bool, positions: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.patch_size, self.dropout = patch_size, dropout
        self.project = nn.Linear(channels * patch_size**2, d_model)
        self.class_token = nn.Parameter(torch.zeros(d_model)) if class_token else None
        self.positions = positions

    def length(self, images: Float[Tensor, "B C Y X"]) -> int:
        """T, the number of vectors that come out."""
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        return rows * columns + (self.class_token is not None)

    def forward(
        self, images: Float[Tensor, "B C Y X"], positions: Int[Tensor, "B T"], token_types: Tensor | None = None
    ) -> Float[Tensor, "B T D"]:
        size = self.patch_size
        patches = images.unfold(2, size, size).unfold(3, size, size)  # (B, C, rows, columns, size, size)
        x = self.tap("tokens", self.project(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)))
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.size(0), 1, -1), x], dim=1)
        x = self.tap("positions", self.positions(x, positions))
        return self.tap("out", dropout(x, self.dropout, self.training))


class AudioFront(Tapped):
    """A log-mel spectrogram through two convolutions of width 3, the second of stride 2 (Radford et al. 2022, §2.2)."""

    def __init__(self, d_model: int, *, mels: int, positions: nn.Module, dropout: float) -> None:
        super().__init__()
        self.narrow = nn.Conv1d(mels, d_model, kernel_size=3, padding=1)
        self.stride = nn.Conv1d(d_model, d_model, kernel_size=3, stride=2, padding=1)
        self.positions, self.dropout = positions, dropout

    def length(self, mels: Float[Tensor, "B M F"]) -> int:
        """T, the number of vectors that come out: every second frame."""
        return (mels.size(-1) + 1) // 2

    def forward(
        self, mels: Float[Tensor, "B M F"], positions: Int[Tensor, "B T"], token_types: Tensor | None = None
    ) -> Float[Tensor, "B T D"]:
        x = self.tap("tokens", F.gelu(self.stride(F.gelu(self.narrow(mels)))).mT)
        x = self.tap("positions", self.positions(x, positions))
        return self.tap("out", dropout(x, self.dropout, self.training))
