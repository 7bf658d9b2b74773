"""A front and its blocks: what both sides of every family are made of.

Shapes: B batch, T positions, S source positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.nn.attention import Attention
from pellucid.nn.block import CrossBlock
from pellucid.nn.cache import NO_CACHE, Cache, KVCache, SourceCache
from pellucid.nn.joint import joins, joint
from pellucid.nn.masks import Bias, Mask, Sites
from pellucid.nn.positions import check_length
from pellucid.trace import Tapped


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder made of a source: its states (B, S, D) and where they stand."""

    states: Float[Tensor, "B S D"]
    sites: Sites

    def select(self, rows: Int[Tensor, " R"]) -> Encoded:
        """These rows, in this order."""
        segments = self.sites.segments
        sites = Sites(self.sites.positions[rows], None if segments is None else segments[rows])
        return Encoded(self.states[rows], sites)


@dataclass(frozen=True)
class Learning:
    """How blocks are called where gradients are wanted.

    Attributes:
        recomputed: activation checkpointing: a backward pass is left the input of a block alone.
        compiled: by ``torch.compile``.
    """

    recomputed: bool = False
    compiled: bool = False


class Tower(Tapped):
    """Embedding, N equal blocks, a last norm.

    Args:
        embedding: the front.
        blocks: the layers.
        final_norm: an identity where there is none.
        rotation: positions -> how queries and keys are turned.
        bias: positions -> what is added to the scores; ``None`` for nothing.
        windows: how far each layer looks.
        causal: whether the future is hidden.
        max_length: the longest sequence its positions can tell apart; ``None`` for no limit.
    """

    def __init__(
        self,
        *,
        embedding: nn.Module,
        blocks: Sequence[nn.Module],
        final_norm: nn.Module,
        rotation: nn.Module,
        bias: nn.Module | None,
        windows: Sequence[int | None],
        causal: bool,
        max_length: int | None,
    ) -> None:
        super().__init__()
        self.embedding, self.blocks, self.final_norm = embedding, nn.ModuleList(blocks), final_norm
        self.rotation, self.bias = rotation, bias
        self.windows, self.causal, self.max_length = tuple(windows), causal, max_length
        self.learning = Learning()

    def features(
        self,
        inputs: Tensor,
        *,
        keep: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
        cache: Cache = NO_CACHE,
    ) -> Encoded:
        """The last hidden states.

        Args:
            inputs: tokens (B, T), or what another front takes.
            keep: True where a token is real, False for padding on either side.
            positions: of each token; by default counted over the real tokens, from what the cache holds on.
            segments: documents packed into one row do not see each other.
            token_types: for a front that has an embedding per type.
            cache: what was computed before.
        """
        sites = self.sites(inputs, cache, keep=keep, positions=positions, segments=segments)
        masks, rotate = self.masks(sites, cache), self.rotation(sites.positions)
        x = self.embedding(inputs, sites.positions, token_types)
        for i, block in enumerate(self.blocks):
            x = self._through(block, x, mask=masks[self.windows[i]], rotate=rotate, cache=cache.layer(i))
        return Encoded(self.final_norm(x), sites)

    def _through(self, block: nn.Module, x: Tensor, **given: Any) -> Tensor:
        """One block, in the way set for learning where gradients are wanted."""
        if not torch.is_grad_enabled():
            return block(x, **given)
        call = _compiled() if self.learning.compiled else _call
        if not self.learning.recomputed:
            return call(block, x, given)
        return checkpoint(_afresh, call, block, x, given, use_reentrant=False)

    def sites(
        self,
        inputs: Tensor,
        cache: Cache,
        *,
        keep: Tensor | None,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Sites:
        """Where the inputs stand."""
        length = self.embedding.length(inputs)  # type: ignore[operator]
        if positions is None:
            check_length(cache.longest + length, self.max_length, "input")
        sites = Sites.of(inputs.size(0), length, inputs.device, keep=keep, positions=positions, segments=segments)
        return sites if cache is NO_CACHE or positions is not None else sites.after(cache.past(inputs))

    def masks(self, sites: Sites, cache: Cache) -> dict[int | None, Mask]:
        """One mask for all the layers that look equally far."""
        bias: Bias | None = self.bias
        return {
            window: Mask(query=sites, key=cache.admit(sites, window), causal=self.causal, window=window, bias=bias)
            for window in dict.fromkeys(self.windows)
        }

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for ``batch`` rows of up to ``capacity`` positions."""
        return KVCache(self.windows, batch, capacity, self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In which they are held."""
        return next(self.parameters()).dtype


class CrossTower(Tower):
    """A causal tower whose layers also read what an encoder wrote."""

    def features_of(
        self,
        inputs: Tensor,
        encoded: Encoded,
        *,
        keep: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        cache: Cache = NO_CACHE,
    ) -> Encoded:
        """The last hidden states, given a source; arguments as for :meth:`Tower.features`."""
        sites = self.sites(inputs, cache, keep=keep, positions=positions)
        masks, rotate = self.masks(sites, cache), self.rotation(sites.positions)
        source_mask = Mask(query=sites, key=encoded.sites)
        x = self.embedding(inputs, sites.positions)
        # While learning, the source is projected for all layers at once.
        at_once = cache is NO_CACHE and joins(self._source_layers())
        sources = self.remember(encoded) if at_once else [cache.source(i) for i in range(len(self.blocks))]
        for i, block in enumerate(self.blocks):
            x = self._through(
                block,
                x,
                source=encoded.states,
                mask=masks[self.windows[i]],
                source_mask=source_mask,
                rotate=rotate,
                cache=cache.layer(i),
                source_cache=sources[i],
            )
        return Encoded(self.final_norm(x), sites)

    def remember(self, encoded: Encoded) -> list[SourceCache]:
        """Projects the source to every layer's keys and values, once."""
        projected = joint(encoded.states, self._source_layers())
        pairs = zip(self.crossings(), projected[::2], projected[1::2], strict=True)
        return [SourceCache(*attention.heads(keys, values, encoded.states)) for attention, keys, values in pairs]

    def crossings(self) -> list[Attention]:
        """The attention over the source of every layer."""
        return [block.cross_attention for block in self.blocks if isinstance(block, CrossBlock)]

    def _source_layers(self) -> list[nn.Module]:
        """What projects the source: keys, values, keys, values …"""
        return [layer for attention in self.crossings() for layer in (attention.key, attention.value)]


def set_learning(model: nn.Module, learning: Learning) -> None:
    """How the blocks of a model are called from now on where gradients are wanted."""
    for module in model.modules():
        if isinstance(module, Tower):
            module.learning = learning


Call = Callable[[nn.Module, Tensor, dict[str, Any]], Tensor]


def _call(block: nn.Module, x: Tensor, given: dict[str, Any]) -> Tensor:
    return block(x, **given)


def _afresh(call: Call, block: nn.Module, x: Tensor, given: dict[str, Any]) -> Tensor:
    """With masks of which nothing is rendered: whoever asks first renders, and two passes must do the same."""
    masks = {name: part.anew() for name, part in given.items() if isinstance(part, Mask)}
    return call(block, x, {**given, **masks})


@cache
def _compiled() -> Call:
    """One compiled call for all blocks, which are equal but for their weights."""
    return torch.compile(_call)
