"""One unit of a feed-forward network: what it responds to, how active it is, and what it writes, as scores of tokens.

Geva et al. 2021 ("Transformer Feed-Forward Layers Are Key-Value Memories") read a unit as a key, the row of the first
matrix, and a value, the column of the last; Geva et al. 2022 ("Transformer Feed-Forward Layers Build Predictions by
Promoting Concepts in the Vocabulary Space") project the value onto the vocabulary.

Shapes: T positions, D d_model, F d_ff, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.analysis.passes import Tensors, recorded
from pellucid.analysis.streams import Stream, matrix, streams_of, written_stream
from pellucid.errors import UserError
from pellucid.models.heads import LanguageHead, MaskedLanguageHead
from pellucid.nn.block import Block, CrossBlock, Residual
from pellucid.nn.embedding import TokenFront
from pellucid.nn.feed_forward import FeedForward, GatedFeedForward
from pellucid.nn.norms import LayerNorm, RMSNorm
from pellucid.trace.working import wide

SUFFIX = ".feed_forward"


@dataclass(frozen=True, eq=False)
class Layer:
    """The feed-forward network of one layer.

    Attributes:
        site: its name, such as ``decoder.blocks.3.feed_forward``.
        stream: the tower it stands in.
    """

    site: str
    stream: Stream
    network: FeedForward
    residual: Residual
    enters: nn.Module

    @property
    def drive(self) -> str:
        """The tensor that the activation function is applied to."""
        return f"{self.site}.{'gate' if isinstance(self.network, GatedFeedForward) else 'pre'}"

    @property
    def hidden(self) -> str:
        return f"{self.site}.hidden"


@dataclass(frozen=True, eq=False)
class Effect:
    """What a unit writes, as scores of tokens: ``scores`` for each 1 of its activation.

    Attributes:
        exact: whether the scores are the unit's share of the logits of this pass, every norm behind it taken as the
            linear map that it was. Where norms stand behind the sum (post), later layers change what was written, and
            the scores are those of its direction alone.
    """

    scores: Float[Tensor, " V"]
    exact: bool


def feed_forward_layers(model: nn.Module) -> list[Layer]:
    """The feed-forward networks of a model, in the order computed."""
    found = []
    for stream in streams_of(model):
        for i, block in enumerate(stream.tower.blocks):
            assert isinstance(block, Block | CrossBlock)
            residual, earlier = block.feed_forward_residual, block.self_attention_residual
            if isinstance(block, CrossBlock):
                earlier = block.cross_attention_residual
            # With norms behind the sum, what comes in has just been through the one before.
            enters = earlier.after if isinstance(residual.before, nn.Identity) else residual.before
            found.append(Layer(f"{stream.block(i)}{SUFFIX}", stream, block.feed_forward, residual, enters))
    return found


def layer_of(model: nn.Module, site: str, unit: int = 0) -> Layer:
    """The feed-forward network of that name.

    Raises:
        UserError: for a name that the model does not have, or a unit that it does not have.
    """
    layers = {layer.site: layer for layer in feed_forward_layers(model)}
    if site not in layers:
        raise UserError(f'"{site}"', "no such feed-forward network", ", ".join(list(layers)[:3]) + ", …")
    units = layers[site].network.down.in_features
    if not 0 <= unit < units:
        raise UserError(f'"{site}"', f"no unit {unit}", f"0 to {units - 1}")
    return layers[site]


def active(layer: Layer, tape: Tensors) -> Bool[Tensor, "T F"]:
    """Where each unit is active: what its activation function is given is above 0, as for ReLU its result then is."""
    return recorded(tape, layer.drive)[0] > 0


@torch.no_grad()
def unit_effect(model: nn.Module, tape: Tensors, site: str, unit: int, position: int) -> Effect:
    """What a unit's output vector adds to the logit of every token at a position, for each 1 of its activation.

    Times the activation, this is its part in :func:`~pellucid.analysis.contributions.direct_logit_attribution`.

    Raises:
        UserError: for a unit that does not exist, or one whose tower no head reads as tokens.
    """
    layer = layer_of(model, site, unit)
    stream, head = written_stream(model)
    if layer.stream.prefix != stream.prefix:
        raise UserError(site, "stands in the encoder, whose states no head reads as tokens", "a layer of the decoder")
    vector = wide(matrix(layer.network.down)[:, unit])
    exact = all(isinstance(each.residual.after, nn.Identity) for each in feed_forward_layers(model))
    if not isinstance(layer.residual.output, nn.Identity):
        vector = _through(layer.residual.output, recorded(tape, f"{site}.out")[0, position], vector)
    last = recorded(tape, stream.states()[-1])[0, position]
    return Effect(_scores(head, stream.tower.final_norm, last, vector), exact)


@torch.no_grad()
def token_responses(model: nn.Module, site: str, unit: int) -> Float[Tensor, " V"]:
    """What a unit would be given if the stream held nothing but a token's embedding, for every token.

    It is what its activation function is given; of a gated unit the activation itself, the product of both sides. That
    it is near to what the unit does is to be expected in the first layers only.

    Raises:
        UserError: for a unit that does not exist, or a tower that does not read tokens.
    """
    layer = layer_of(model, site, unit)
    front, network = layer.stream.tower.embedding, layer.network
    if not isinstance(front, TokenFront):
        raise UserError(site, f"its tower reads no tokens but a {type(front).__name__}", "a tower with a vocabulary")
    x = layer.enters(front.norm(front.table.weight * front.scale))
    pre = _row(network.up, unit, x)
    if not isinstance(network, GatedFeedForward):
        return pre
    activated: Tensor = network.activation(_row(network.gate, unit, x))
    return activated * pre


def _row(linear: nn.Linear, unit: int, x: Tensor) -> Tensor:
    product = x @ matrix(linear)[unit]
    return product if linear.bias is None else product + linear.bias[unit]


def _scores(
    head: LanguageHead | MaskedLanguageHead, final_norm: nn.Module, last: Tensor, vector: Tensor
) -> Float[Tensor, " V"]:
    vector = _through(final_norm, last, vector)
    match head:
        case LanguageHead():
            vector = vector * head.scale
        case MaskedLanguageHead():
            z = head.dense(final_norm(last))
            activated = head.activation(z)
            passed = torch.where(z == 0, 0, activated / z)
            vector = _through(head.norm, activated, matrix(head.dense).to(vector.dtype) @ vector * passed)
    vocabulary = matrix(head.project)  # as large as it is, it stays in its own precision
    return vocabulary @ vector.to(vocabulary.dtype)


def _through(norm: nn.Module, x: Float[Tensor, " D"], vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """A vector through a norm whose scale is the one it has for ``x``."""
    match norm:
        case nn.Identity():
            return vector
        case LayerNorm():
            return (vector - vector.mean()) * (wide(x).var(correction=0) + norm.epsilon).rsqrt() * norm.weight
        case RMSNorm():
            return vector * (wide(x).square().mean() + norm.epsilon).rsqrt() * norm.gain
        case _:
            raise UserError(type(norm).__name__, "a norm whose scale is not known", "LayerNorm or RMSNorm")
