"""The layers of a tower. Shapes: B batch, T positions, S source positions, D d_model."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.nn.attention import Attention, Rotate
from pellucid.nn.cache import NO_CACHE, LayerCache
from pellucid.nn.dropout import dropout
from pellucid.nn.feed_forward import FeedForward
from pellucid.nn.masks import Mask
from pellucid.nn.positions import unrotated
from pellucid.trace import Operation, Sum, Tapped


class Residual(Tapped):
    """One sub-layer added to the residual stream, with norms wherever the placement wants them.

    Post (Vaswani et al. 2017, §3.1) norms ``after`` the sum, pre (Xiong et al. 2020) ``before`` the sub-layer, both
    (Gemma 2) before it and on its ``output``. The others are identities.
    """

    def __init__(self, *, before: nn.Module, output: nn.Module, after: nn.Module, dropout: float) -> None:
        super().__init__()
        self.before, self.output, self.after, self.dropout = before, output, after, dropout

    def forward(self, x: Float[Tensor, "B T D"], sublayer: Callable[[Tensor], Tensor]) -> Float[Tensor, "B T D"]:
        y = self.output(sublayer(self.before(x)))
        return self.after(self.tap("sum", x + dropout(y, self.dropout, self.training), x, y))

    def operation(self, name: str) -> Operation:
        return Sum()


class Block(Tapped):
    """Self-attention and feed-forward: an encoder layer or a decoder layer, as the mask decides."""

    def __init__(self, attention: Attention, feed_forward: FeedForward, residual: Callable[[], Residual]) -> None:
        super().__init__()
        self.self_attention, self.self_attention_residual = attention, residual()
        self.feed_forward, self.feed_forward_residual = feed_forward, residual()

    def forward(
        self, x: Float[Tensor, "B T D"], *, mask: Mask, rotate: Rotate = unrotated, cache: LayerCache = NO_CACHE
    ) -> Float[Tensor, "B T D"]:
        def attend(y: Tensor) -> Tensor:
            return self.self_attention(y, y, mask=mask, rotate=rotate, cache=cache)

        x = self.tap("residual_pre", x)
        x = self.tap("residual_mid", self.self_attention_residual(x, attend))
        return self.tap("residual_post", self.feed_forward_residual(x, self.feed_forward))


class CrossBlock(Tapped):
    """A decoder layer that also reads a source."""

    def __init__(
        self,
        attention: Attention,
        cross_attention: Attention,
        feed_forward: FeedForward,
        residual: Callable[[], Residual],
    ) -> None:
        super().__init__()
        self.self_attention, self.self_attention_residual = attention, residual()
        self.cross_attention, self.cross_attention_residual = cross_attention, residual()
        self.feed_forward, self.feed_forward_residual = feed_forward, residual()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        source: Float[Tensor, "B S E"],
        *,
        mask: Mask,
        source_mask: Mask,
        rotate: Rotate = unrotated,
        cache: LayerCache = NO_CACHE,
        source_cache: LayerCache = NO_CACHE,
    ) -> Float[Tensor, "B T D"]:
        def attend(y: Tensor) -> Tensor:
            return self.self_attention(y, y, mask=mask, rotate=rotate, cache=cache)

        def read(y: Tensor) -> Tensor:
            return self.cross_attention(y, source, mask=source_mask, cache=source_cache)

        x = self.tap("residual_pre", x)
        x = self.tap("residual_mid", self.self_attention_residual(x, attend))
        x = self.tap("residual_cross", self.cross_attention_residual(x, read))
        return self.tap("residual_post", self.feed_forward_residual(x, self.feed_forward))
