"""The paper's model: an encoder reads the source, a decoder writes the target.

Shapes: B batch, S source positions, T target positions, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.config import model as config
from pellucid.models.heads import LanguageHead
from pellucid.models.tower import CrossTower, Encoded, Tower
from pellucid.nn.cache import NO_CACHE, Cache, KVCache
from pellucid.trace import Tapped


class EncoderDecoder(Tapped):
    """The Transformer of Vaswani et al. 2017, figure 1."""

    config: config.EncoderDecoder

    def __init__(self, encoder: Tower, decoder: CrossTower, head: LanguageHead) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def forward(
        self,
        source: Tensor,
        target: Int[Tensor, "B T"],
        *,
        source_keep: Bool[Tensor, "B S"] | None = None,
        keep: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """The scores of what comes after each target position, the true target being fed in (teacher forcing)."""
        return self.decode(target, self.encode(source, keep=source_keep), keep=keep)

    def encode(
        self,
        source: Tensor,
        *,
        keep: Bool[Tensor, "B S"] | None = None,
        positions: Int[Tensor, "B S"] | None = None,
    ) -> Encoded:
        """Reads the source: tokens (B, S), or what another front takes."""
        return self.encoder.features(source, keep=keep, positions=positions)

    def decode(
        self,
        target: Int[Tensor, "B T"],
        encoded: Encoded,
        *,
        keep: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        cache: Cache = NO_CACHE,
    ) -> Float[Tensor, "B T V"]:
        """The scores of what comes after each target position, given an encoded source."""
        features = self.decoder.features_of(target, encoded, keep=keep, positions=positions, cache=cache)
        return self.tap("logits", self.head(features))

    def new_cache(self, encoded: Encoded, capacity: int) -> KVCache:
        """A cache for targets of up to ``capacity`` positions, the source's keys and values projected once."""
        batch, decoder = encoded.states.size(0), self.decoder
        return KVCache(decoder.windows, batch, capacity, self.device, sources=decoder.remember(encoded))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        """In which they are held."""
        return self.decoder.dtype
