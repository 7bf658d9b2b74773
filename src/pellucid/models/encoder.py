"""The encoder family: every position sees every other. Shapes: B batch, T positions, V vocabulary."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from pellucid.config import model as config
from pellucid.models.tower import Tower


class Encoder(Tower):
    """BERT and its kin: a tower without a causal mask, and a head (Devlin et al. 2019)."""

    config: config.Encoder

    def __init__(self, head: nn.Module, **tower: Any) -> None:
        super().__init__(causal=False, **tower)
        self.head = head

    def forward(
        self,
        inputs: Tensor,
        *,
        keep: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Tensor:
        """Reads tokens (B, T), or what another front takes.

        Returns:
            Logits (B, T, V) of a masked-language head, logits (B, labels) of a classifier, or embeddings (B, D).
        """
        encoded = self.features(inputs, keep=keep, positions=positions, segments=segments, token_types=token_types)
        return self.tap("logits", self.head(encoded))
