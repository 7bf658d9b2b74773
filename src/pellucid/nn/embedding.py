"""Fronts: what turns tokens, images or sound into vectors. Shapes: B batch, T positions, D d_model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.nn.dropout import dropout
from pellucid.nn.operations import Positioned
from pellucid.trace import Elementwise, Linear, LinearIn, Lookup, Operation, Prepended, Rearranged, Same, Sum, Tapped


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
        x = self.tap("tokens", self.table(tokens) * self.scale, tokens)
        if self.token_types is not None:
            given = torch.zeros_like(tokens) if token_types is None else token_types
            types = self.tap("types", self.token_types(given), given)
            x = self.tap("typed", x + types, x, types)
        x = self.norm(self.tap("positions", self.positions(x, positions), x, positions))
        return self.tap("out", dropout(x, self.dropout, self.training), x)

    def operation(self, name: str) -> Operation:
        match name:
            case "tokens":
                return Lookup(self.table, self.named("table"), self.scale)
            case "types":
                assert self.token_types is not None  # else nothing has this name
                return Lookup(self.token_types, self.named("token_types"))
            case "typed":
                return Sum()
            case "positions":
                return Positioned(self.positions, self.named("positions"))
            case _:
                return Same()


class PatchFront(Tapped):
    """An image cut into squares, row by row, each flattened and projected; a trained vector may stand before them.

    Dosovitskiy et al. 2021, eq. 1. Positions count the class token as the first.
    """

    def __init__(
        self,
        d_model: int,
        *,
        patch_size: int,
        channels: int,
        class_token: bool,
        positions: nn.Module,
        dropout: float,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.patch_size, self.image_size, self.dropout = patch_size, image_size, dropout
        self.project = nn.Linear(channels * patch_size**2, d_model)
        self.class_token = nn.Parameter(torch.zeros(d_model)) if class_token else None
        self.positions = positions

    def length(self, images: Float[Tensor, "B C Y X"]) -> int:
        """T, the number of vectors that come out.

        Raises:
            UserError: for a size that the patches do not fill, or other than ``image_size`` where that is given.
        """
        sides, size = images.shape[-2:], self.image_size
        if size is not None and (sides[0] != size or sides[1] != size):
            raise UserError("image", f"{sides[0]} × {sides[1]} pixels", f"{size} × {size}, which its positions are for")
        if sides[0] % self.patch_size or sides[1] % self.patch_size:
            raise UserError("image", f"{sides[0]} × {sides[1]} pixels", f"multiples of the patch's {self.patch_size}")
        rows, columns = (side // self.patch_size for side in sides)
        return rows * columns + (self.class_token is not None)

    def forward(
        self, images: Float[Tensor, "B C Y X"], positions: Int[Tensor, "B T"], token_types: Tensor | None = None
    ) -> Float[Tensor, "B T D"]:
        patches = self.tap("patches", self.cut(images), images)
        x = self.tap("tokens", self.project(patches), patches)
        if self.class_token is not None:
            x = self.tap("classed", torch.cat([self.class_token.expand(x.size(0), 1, -1), x], dim=1), x)
        x = self.tap("positions", self.positions(x, positions), x, positions)
        return self.tap("out", dropout(x, self.dropout, self.training), x)

    def cut(self, images: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B N P"]:
        """The squares, row by row, each as one vector."""
        size = self.patch_size
        squares = images.unfold(2, size, size).unfold(3, size, size)  # (B, C, rows, columns, size, size)
        return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

    def operation(self, name: str) -> Operation:
        match name:
            case "patches":
                return Rearranged(self.cut, "squares, row by row")
            case "tokens":
                return Linear(self.project, self.named("project"))
            case "classed":
                assert self.class_token is not None  # else nothing has this name
                return Prepended(self.class_token, self.named("class_token"))
            case "positions":
                return Positioned(self.positions, self.named("positions"))
            case _:
                return Same()


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
        x = self.tap("narrow_pre", self.narrow(mels), mels)
        x = self.tap("narrow_hidden", F.gelu(x), x)
        x = self.tap("stride_pre", self.stride(x), x)
        x = self.tap("tokens", F.gelu(x).mT, x)
        x = self.tap("positions", self.positions(x, positions), x, positions)
        return self.tap("out", dropout(x, self.dropout, self.training), x)

    def operation(self, name: str) -> Operation:
        match name:
            case "narrow_pre":
                return LinearIn(self.narrow, "convolution of width 3")
            case "stride_pre":
                return LinearIn(self.stride, "convolution of width 3, stride 2")
            case "narrow_hidden" | "tokens":
                return Elementwise(F.gelu, "gelu(x)", transposed=name == "tokens")
            case "positions":
                return Positioned(self.positions, self.named("positions"))
            case _:
                return Same()
