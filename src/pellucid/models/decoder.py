"""The decoder family: every position sees itself and the past. Shapes: B batch, T positions, V vocabulary."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.config import model as config
from pellucid.models.heads import LanguageHead
from pellucid.models.tower import Tower
from pellucid.nn.cache import NO_CACHE, Cache


class Decoder(Tower):
    """GPT and its kin: a causal tower and a language head (Radford et al. 2018)."""

    config: config.Decoder

    def __init__(self, head: LanguageHead, **tower: Any) -> None:
        super().__init__(causal=True, **tower)
        self.head = head

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        keep: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        cache: Cache = NO_CACHE,
    ) -> Float[Tensor, "B T V"]:
        """The scores of what comes after each position."""
        encoded = self.features(tokens, keep=keep, positions=positions, segments=segments, cache=cache)
        return self.tap("logits", self.head(encoded))
