"""Floating-point operations of a model: its matrix products, two for each number multiplied and added.

A product of (m, k) and (k, n) takes 2·m·n·k. Its backward pass takes two products of the same size, for the gradient of
each factor (Kaplan et al. 2020, §2.1). Norms, activations, softmax and look-ups are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pellucid.analysis.parameters import Part, parameter_count, parts_of
from pellucid.analysis.work import Work
from pellucid.config import model as config
from pellucid.config.parts import Stack


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of one row.

    Attributes:
        weights: forward, products with weights.
        attention: forward, both products of attention with every key that the window of a layer spans.
        hidden: the part of ``attention`` whose result a causal mask or a window throws away; good kernels skip it.
        backward: of both.
        recomputed: what checkpointing adds, one forward pass of the blocks.
        tokens: that the row has, those of the source included.
        six_n: the rule of thumb 6·N per token (Kaplan et al. 2020), N being all parameters.
    """

    weights: int
    attention: int
    hidden: int
    backward: int
    recomputed: int
    tokens: int
    six_n: int

    @property
    def forward(self) -> int:
        return self.weights + self.attention

    @property
    def training(self) -> int:
        """Forward and backward, nothing computed twice."""
        return self.forward + self.backward

    def per_token(self, flops: int) -> float:
        """Operations of the row by the tokens that it has."""
        return flops / self.tokens


def flops_of(model: config.Model, work: Work) -> Flops:
    """What training on one row takes; causal attention is counted in full (Chowdhery et al. 2022, appendix B)."""
    parts = parts_of(model)
    weights = sum(_products(part, work) for part in parts)
    blocks = sum(_products(part, work) for part in parts if ".blocks." in f".{part.name}")
    attention = sum(4 * width * keys * queries for width, queries, keys, _ in _attentions(model, work))
    seen = sum(4 * width * pairs for width, _, _, pairs in _attentions(model, work))
    first = sum(_products(part, work) for part in parts if part.over == "raw")  # data need no gradient
    return Flops(
        weights=weights,
        attention=attention,
        hidden=attention - seen,
        backward=2 * (weights + attention) - first,
        recomputed=blocks + attention,
        tokens=work.tokens + work.source,
        six_n=6 * parameter_count(model) * (work.tokens + work.source),
    )


def flops_of_step(model: config.Model, work: Work) -> int:
    """Writing one more token in a row that has ``work.tokens`` already, keys and values being remembered.

    Raises:
        TypeError: for an encoder, which does not write.
    """
    if isinstance(model, config.Encoder):
        raise TypeError("an encoder does not write token by token")
    written = (part for part in parts_of(model) if part.over in ("tokens", "labels"))
    stack = model.stack if isinstance(model, config.Decoder) else model.decoder
    width = stack.attention.num_heads * stack.head_dim
    keys = sum(min(work.tokens, stack.window(i) or work.tokens) + work.source for i in range(stack.num_layers))
    return sum(2 * part.matrix for part in written) + 4 * width * keys


def _products(part: Part, work: Work) -> int:
    return 2 * part.matrix * work.vectors(part.over) if part.over else 0


def _attentions(model: config.Model, work: Work) -> Iterator[tuple[int, int, int, int]]:
    """Of each attention: H·K, queries, keys that they are multiplied with, and pairs that may look at each other."""
    match model:
        case config.Encoder():
            yield from _self_attentions(model.stack, work.tokens, causal=False)
        case config.Decoder():
            yield from _self_attentions(model.stack, work.tokens, causal=True)
        case config.EncoderDecoder(encoder=encoder, decoder=decoder):
            yield from _self_attentions(encoder, work.source, causal=False)
            yield from _self_attentions(decoder, work.tokens, causal=True)
            width, pairs = decoder.attention.num_heads * decoder.head_dim, work.tokens * work.source
            yield from ((width, work.tokens, work.source, pairs) for _ in range(decoder.num_layers))


def _self_attentions(stack: Stack, length: int, causal: bool) -> Iterator[tuple[int, int, int, int]]:
    width = stack.attention.num_heads * stack.head_dim
    for layer in range(stack.num_layers):
        reach = min(stack.window(layer) or length, length)
        keys = min(reach if causal else 2 * reach - 1, length)
        past = reach * length - reach * (reach - 1) // 2  # Σ min(t + 1, reach), the own position included
        yield width, length, keys, past if causal else 2 * past - length
