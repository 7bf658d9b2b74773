"""A tower as the engine runs it: the same layers with their weights packed, over rows of features without padding.

Its plain twin is :class:`pellucid.models.tower.Tower`; here nothing is named, dropped or recorded. How queries look at
keys is the business of whoever calls: a :class:`Look` for each layer.

Shapes: N positions of all texts, D d_model, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.inference.engine.products import Product, Products
from pellucid.models.tower import Tower
from pellucid.nn.attention import Attention, Rotate
from pellucid.nn.block import Block, CrossBlock, Residual
from pellucid.nn.feed_forward import FeedForward, GatedFeedForward
from pellucid.nn.lora import LoRALinear
from pellucid.nn.norms import LayerNorm, RMSNorm
from pellucid.nn.positions import unrotated

Change = Callable[[Tensor], Tensor]


class Look(Protocol):
    """How queries of one layer look at its keys."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N HK"]:
        """The context of queries (N, H, K), whose own keys and values are (N, G, K)."""


class Read(Protocol):
    """How queries of one layer look at a source."""

    def __call__(self, layer: int, q: Tensor) -> Float[Tensor, "N HK"]:
        """The context of queries (N, H, K)."""


class Projection:
    """Queries, keys and values of one attention: one product for them all."""

    def __init__(self, attention: Attention, products: Products) -> None:
        self.width = attention.head_dim
        self.joint = joined([attention.query, attention.key, attention.value], products)
        self.heads = [layer.out_features // self.width for layer in (attention.query, attention.key, attention.value)]
        self.query_norm, self.key_norm = change(attention.query_norm), change(attention.key_norm)

    def __call__(self, x: Float[Tensor, "N D"], rotate: Rotate) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.joint(x).view(x.size(0), -1, self.width).split(self.heads, dim=1)
        return turned(self.query_norm(q), rotate), turned(self.key_norm(k), rotate), v


class Sublayer:
    """One sub-layer and the residual stream around it."""

    def __init__(self, residual: Residual) -> None:
        self.before, self.output, self.after = map(change, (residual.before, residual.output, residual.after))

    def __call__(self, x: Float[Tensor, "N D"], inner: Change) -> Float[Tensor, "N D"]:
        return self.after(x + self.output(inner(self.before(x))))


class Layer:
    """A block."""

    def __init__(self, block: nn.Module, index: int, products: Products) -> None:
        assert isinstance(block, Block | CrossBlock)
        attention, self.index = block.self_attention, index
        self.attending, self.feeding = Sublayer(block.self_attention_residual), Sublayer(block.feed_forward_residual)
        self.project, self.out = Projection(attention, products), product(attention.out, products)
        self.feed_forward = feed_forward(block.feed_forward, products)
        self.reading: Sublayer | None = None
        if isinstance(block, CrossBlock):
            crossing = block.cross_attention
            self.reading, self.width = Sublayer(block.cross_attention_residual), crossing.head_dim
            self.query, self.query_norm = product(crossing.query, products), change(crossing.query_norm)
            self.cross_out = product(crossing.out, products)

    def __call__(self, x: Float[Tensor, "N D"], rotate: Rotate, look: Look, read: Read | None) -> Float[Tensor, "N D"]:
        x = self.attending(x, lambda y: self.out(look(self.index, *self.project(y, rotate))))
        if self.reading is not None:
            assert read is not None  # who made a layer that reads says how
            x = self.reading(x, lambda y: self.cross_out(read(self.index, self._asks(y))))
        return self.feeding(x, self.feed_forward)

    def _asks(self, y: Float[Tensor, "N D"]) -> Float[Tensor, "N H K"]:
        return self.query_norm(self.query(y).view(y.size(0), -1, self.width))


class Layers:
    """All the blocks of a tower, between its front and what its head is given."""

    def __init__(self, tower: Tower, products: Products) -> None:
        self.tower = tower
        self.layers = [Layer(block, i, products) for i, block in enumerate(tower.blocks)]
        self.final_norm = change(tower.final_norm)

    def __call__(
        self,
        tokens: Int[Tensor, " N"],
        positions: Int[Tensor, " N"],
        look: Look,
        read: Read | None = None,
        types: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The last hidden states of tokens at their positions."""
        x = self.tower.embedding(tokens[None], positions[None], None if types is None else types[None])[0].float()
        rotate = self.tower.rotation(positions[None])
        for layer in self.layers:
            x = layer(x, rotate, look, read)
        return self.final_norm(x)


def turned(x: Float[Tensor, "N H K"], rotate: Rotate) -> Float[Tensor, "N H K"]:
    """Queries or keys, turned by the angles of their positions."""
    if rotate is unrotated:
        return x
    return rotate(x[None].transpose(1, 2)).transpose(1, 2)[0]


def change(module: nn.Module) -> Change:
    """A norm as a function of its weights alone."""
    match module:
        case LayerNorm():
            weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
            return partial(_layer_norm, weight.float(), None if bias is None else bias.float(), module.epsilon)
        case RMSNorm():
            return partial(_rms_norm, module.gain.detach().float(), module.epsilon)
        case nn.Identity():
            return same
        case _:
            return module


def same(x: Tensor) -> Tensor:
    """What it is given."""
    return x


def _layer_norm(weight: Tensor, bias: Tensor | None, epsilon: float, x: Tensor) -> Tensor:
    return torch.layer_norm(x, weight.shape, weight, bias, epsilon)


def _rms_norm(gain: Tensor, epsilon: float, x: Tensor) -> Tensor:
    return F.rms_norm(x, gain.shape, gain, epsilon)


def weight_of(layer: nn.Module) -> Tensor:
    """The matrix of a linear layer, with what was added to it."""
    assert isinstance(layer, nn.Linear)
    return layer.merged() if isinstance(layer, LoRALinear) else layer.weight


def numbers_in(model: nn.Module) -> int:
    """How many numbers the matrices of a model's linear layers have."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))


def product(layer: nn.Module, products: Products) -> Product:
    """A linear layer, packed."""
    assert isinstance(layer, nn.Linear)
    return products.of(weight_of(layer), layer.bias)


def joined(layers: list[nn.Linear], products: Products) -> Product:
    """Several linear layers of one input as one product; a bias that is not there is zero beside others that are."""
    weight = torch.cat([weight_of(layer) for layer in layers])
    if all(layer.bias is None for layer in layers):
        return products.of(weight, None)
    biases: list[Tensor] = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers
    ]
    return products.of(weight, torch.cat(biases))


def feed_forward(module: FeedForward, products: Products) -> Change:
    """The position-wise network."""
    down, activation = product(module.down, products), module.activation
    if isinstance(module, GatedFeedForward):
        both, split = joined([module.gate, module.up], products), module.up.out_features

        def gated(x: Tensor) -> Tensor:
            gate, pre = both(x).split(split, dim=-1)
            return down(activation(gate) * pre)

        return gated
    up = product(module.up, products)
    return lambda x: down(activation(up(x)))
