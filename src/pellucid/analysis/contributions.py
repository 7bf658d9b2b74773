"""Direct logit attribution: a logit as the sum of what every head and feed-forward unit wrote (Elhage et al. 2021).

The residual stream is a sum, so its product with a token's vector of the vocabulary is one too. In between stand a last
norm and perhaps more; each is taken as the linear map that it was in this pass:

- a norm divides by the scale it found in the pass, as if that did not depend on what is divided;
- the activation of BERT's masked-language head multiplies by activation(z) / z, the share of z that it let through;
- a softcap on the logits is left out: what is added up is the logit before it.

Only what reaches the logit directly is counted, not what later layers made of it. Contributions, biases and embedding
add up to the logit exactly, up to rounding.

Shapes: B batch, T positions, D d_model, H heads, K head_dim, F d_ff, P parts of a sub-layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.analysis.passes import Tensors, recorded
from pellucid.analysis.streams import Stream, matrix, written_stream
from pellucid.errors import UserError
from pellucid.models.heads import LanguageHead, MaskedLanguageHead
from pellucid.nn.block import Block, CrossBlock, Residual
from pellucid.nn.norms import LayerNorm, RMSNorm
from pellucid.trace.working import wide

SUBLAYERS = ("self_attention", "cross_attention", "feed_forward")


@dataclass(frozen=True, eq=False)
class Written:
    """What one sub-layer adds to a logit.

    Attributes:
        name: such as ``decoder.blocks.3.cross_attention``.
        parts: by head of an attention, by unit of a feed-forward network.
        bias: of its last matrix, and of the norm on its output where there is one.
    """

    name: str
    parts: Float[Tensor, "B T P"]
    bias: Float[Tensor, "B T"]

    @property
    def total(self) -> Float[Tensor, "B T"]:
        return self.parts.sum(-1) + self.bias


@dataclass(frozen=True, eq=False)
class Contributions:
    """A logit at each position, taken apart.

    Attributes:
        embedding: what the stream began with.
        sublayers: in the order computed.
        bias: of the last norm and the head, whatever the stream holds.
    """

    embedding: Float[Tensor, "B T"]
    sublayers: tuple[Written, ...]
    bias: Float[Tensor, "B T"]

    @property
    def total(self) -> Float[Tensor, "B T"]:
        """The logit, before a softcap."""
        return self.embedding + self.bias + sum((layer.total for layer in self.sublayers), torch.zeros_like(self.bias))

    def of(self, sublayer: str) -> Float[Tensor, "L B T P"]:
        """By layer and part, for ``self_attention``, ``cross_attention`` or ``feed_forward``.

        Raises:
            UserError: for another name, or cross-attention where there is none.
        """
        found = [layer.parts for layer in self.sublayers if layer.name.endswith(f".{sublayer}")]
        if not found:
            known = dict.fromkeys(layer.name.rpartition(".")[2] for layer in self.sublayers)
            raise UserError(f'"{sublayer}"', "no such sub-layer", ", ".join(known))
        return torch.stack(found)


@dataclass(frozen=True, eq=False)
class Reading:
    """A logit as a linear function of a vector x at each position: direction · x + bias."""

    direction: Float[Tensor, "B T D"]
    bias: Float[Tensor, "B T"]

    def before_norm(self, norm: nn.Module, x: Float[Tensor, "B T D"]) -> Reading:
        """The same function of what goes into a norm, at the scale that the norm has for ``x``."""
        dtype = self.direction.dtype
        match norm:
            case nn.Identity():
                return self
            case LayerNorm():
                scaled = self.direction * norm.weight
                scaled = (scaled - scaled.mean(-1, keepdim=True)) * (
                    wide(x).var(-1, False, keepdim=True) + norm.epsilon
                ).rsqrt()
                bias = self.bias if norm.bias is None else self.bias + self.direction @ norm.bias.to(dtype)
                return Reading(scaled, bias)
            case RMSNorm():
                gain = 1 + norm.weight.float() if norm.plus_one else norm.weight  # as the norm does it
                scale = (wide(x).square().mean(-1, keepdim=True) + norm.epsilon).rsqrt()
                return Reading(self.direction * gain * scale, self.bias)
            case _:
                raise UserError(type(norm).__name__, "a norm whose scale is not known", "LayerNorm or RMSNorm")

    def before_linear(self, layer: nn.Linear) -> Reading:
        """The same function of what goes into a linear layer."""
        dtype = self.direction.dtype
        bias = self.bias if layer.bias is None else self.bias + self.direction @ layer.bias.to(dtype)
        return Reading(self.direction @ matrix(layer).to(dtype), bias)

    def of(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
        """Without the bias."""
        return (self.direction * x).sum(-1)


def contribution_names(model: nn.Module) -> list[str]:
    """The names to watch for :func:`direct_logit_attribution`.

    Raises:
        UserError: for a model whose logits are not a sum over its stream.
    """
    stream, _ = _linear_stream(model)
    names = [stream.embedding, stream.states()[-1]]
    for name, _, residual in _sublayers(stream):
        names.append(f"{name}.hidden" if name.endswith("feed_forward") else f"{name}.context")
        names += [] if isinstance(residual.output, nn.Identity) else [f"{name}.out"]
    return names


@torch.no_grad()
def direct_logit_attribution(model: nn.Module, tape: Tensors, tokens: Int[Tensor, "B T"]) -> Contributions:
    """Takes the logit of ``tokens[b, t]`` at each position apart, into heads and units (Elhage et al. 2021).

    For the difference of two logits, subtract the tensors of one result from those of the other. Of an encoder–decoder
    it is the decoder's stream, cross-attention included.

    Args:
        tape: ``tape.tensors`` of a pass without edits in which :func:`contribution_names` were watched.
        tokens: the token asked at each position, for a model that predicts, usually the next one.

    Raises:
        UserError: for a model in training, with norms behind the sum, or without a language head; for a tensor that was
            not recorded, or tokens of another shape.
    """
    stream, head = _linear_stream(model)
    last = recorded(tape, stream.states()[-1])
    if tokens.shape != last.shape[:2]:
        raise UserError("tokens", f"shape {tuple(tokens.shape)}", f"{tuple(last.shape[:2])}, a token for each position")
    reading = _of_stream(stream, head, last, tokens)
    sublayers = tuple(
        _written(name, sublayer, residual, reading, tape) for name, sublayer, residual in _sublayers(stream)
    )
    return Contributions(reading.of(recorded(tape, stream.embedding)), sublayers, reading.bias)


def _of_stream(
    stream: Stream, head: LanguageHead | MaskedLanguageHead, last: Tensor, tokens: Int[Tensor, "B T"]
) -> Reading:
    """The logit of each token as a function of the last state of the stream."""
    vocabulary = head.project
    bias = torch.zeros_like(last[..., 0]) if vocabulary.bias is None else vocabulary.bias[tokens]
    reading = Reading(wide(matrix(vocabulary)[tokens]), wide(bias))
    match head:
        case LanguageHead():
            reading = Reading(reading.direction * head.scale, reading.bias)
        case MaskedLanguageHead():
            z = head.dense(stream.tower.final_norm(last))
            activated = head.activation(z)
            reading = reading.before_norm(head.norm, activated)
            passed = torch.where(z == 0, 0, activated / z)
            reading = Reading(reading.direction * passed, reading.bias).before_linear(head.dense)
    return reading.before_norm(stream.tower.final_norm, last)


def _written(name: str, sublayer: nn.Module, residual: Residual, reading: Reading, tape: Tensors) -> Written:
    """What one sub-layer adds, by head or by unit."""
    before = Reading(reading.direction, torch.zeros_like(reading.bias))
    if not isinstance(residual.output, nn.Identity):
        before = before.before_norm(residual.output, recorded(tape, f"{name}.out"))
    if name.endswith("feed_forward"):
        before = before.before_linear(sublayer.down)  # type: ignore[arg-type]
        return Written(name, before.direction * recorded(tape, f"{name}.hidden"), before.bias)
    before = before.before_linear(sublayer.out)  # type: ignore[arg-type]
    context = recorded(tape, f"{name}.context").transpose(1, 2)  # (B, T, H, K)
    return Written(name, (before.direction.reshape(context.shape) * context).sum(-1), before.bias)


def _sublayers(stream: Stream) -> Iterator[tuple[str, nn.Module, Residual]]:
    """Every sub-layer of a stream with its name and what adds it to the stream."""
    for layer, block in enumerate(stream.tower.blocks):
        assert isinstance(block, Block | CrossBlock)
        for kind in SUBLAYERS:
            if hasattr(block, kind):
                yield f"{stream.block(layer)}.{kind}", getattr(block, kind), getattr(block, f"{kind}_residual")


def _linear_stream(model: nn.Module) -> tuple[Stream, LanguageHead | MaskedLanguageHead]:
    stream, head = written_stream(model)
    if model.training:
        raise UserError(
            "model", "is in training, where dropout changes what is written", hint="call model.eval() first"
        )
    if any(not isinstance(residual.after, nn.Identity) for _, _, residual in _sublayers(stream)):
        raise UserError(
            "direct logit attribution",
            "the norms of this model stand behind the sum (post), so that its stream is no sum of what layers wrote: "
            "each norm scales down all that was there before it, by an amount that depends on all of it",
            'a model with placement "pre" or "both"',
            "patch or ablate instead: see pellucid.analysis.causal",
        )
    return stream, head
