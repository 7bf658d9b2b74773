"""The parameters of a model by part, from its config alone; the built model has exactly these.

Letters: D d_model, H query heads, G key/value heads, K head_dim, F d_ff, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pellucid.config import model as config
from pellucid.config import parts

Over = Literal["tokens", "source", "labels", "raw"]
"""What a matrix multiplies: positions of the text or target, of the source, those asked; raw patches or frames."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The parameters of one module, or of the same module in every layer.

    Attributes:
        name: the module's path, as in a trace, ``*`` standing for the number of the layer.
        weights: numbers in one matrix, table or gain.
        bias: numbers in one bias.
        copies: how many layers have it.
        over: the vectors that the matrix multiplies; ``None`` for what is looked up, scaled or added.
        tied: the weights are those of an earlier part, and count there.
    """

    name: str
    weights: int
    bias: int = 0
    copies: int = 1
    over: Over | None = None
    tied: bool = False

    @property
    def parameters(self) -> int:
        """All of it, in all layers; shared weights count once, where they come first."""
        return self.copies * (self.bias if self.tied else self.weights + self.bias)

    @property
    def matrix(self) -> int:
        """The numbers in all layers that vectors are multiplied by, wherever they are counted."""
        return self.copies * self.weights if self.over else 0


def parameter_count(model: config.Model) -> int:
    """All parameters; weights that are shared count once."""
    return sum(part.parameters for part in parts_of(model))


def parts_of(model: config.Model) -> list[Part]:
    """Every part of a model, in the order in which a pass meets them."""
    match model:
        case config.Encoder():
            tables = {"source": "embedding.table", "output": "head.project"}
            found = [*_tower("", model.stack, model.front, "tokens"), *_encoder_head(model)]
        case config.Decoder():
            tables = {"target": "embedding.table", "output": "head.project"}
            found = [*_tower("", model.stack, model.front, "tokens"), *_language_head(model.stack, model.front, model)]
        case config.EncoderDecoder():
            tables = {"source": "encoder.embedding.table", "target": "decoder.embedding.table"}
            tables["output"] = "head.project"
            found = [
                *_tower("encoder.", model.encoder, model.source, "source"),
                *_tower("decoder.", model.decoder, model.target, "tokens", reads=model.encoder.d_model),
                *_language_head(model.decoder, model.target, model),
            ]
    shared = [tables[name] for name in ("source", "target", "output") if name in model.tie][1:]
    return [replace(part, tied=part.name in shared) for part in found]


# ---- towers ------------------------------------------------------------------------------------


def _tower(
    prefix: str, stack: parts.Stack, front: config.Front, over: Over, reads: int | None = None
) -> Iterator[Part]:
    yield from _front(f"{prefix}embedding.", stack, front, over)
    match stack.positions:
        case parts.Learned(max_length=length, offset=offset):
            yield Part(name=f"{prefix}embedding.positions.table", weights=(length + offset) * stack.d_model)
        case parts.RelativeBias(buckets=buckets):
            yield Part(name=f"{prefix}bias.table", weights=buckets * stack.attention.num_heads)
        case _:
            pass
    for part in _block(stack, over, reads):
        yield replace(part, name=f"{prefix}blocks.*.{part.name}", copies=stack.num_layers)
    if stack.has_final_norm:
        yield _norm(f"{prefix}final_norm", stack)


def _front(prefix: str, stack: parts.Stack, front: config.Front, over: Over) -> Iterator[Part]:
    width = stack.d_model
    match front:
        case config.Tokens():
            yield Part(name=f"{prefix}table", weights=front.vocab_size * width)
            if front.token_types:
                yield Part(name=f"{prefix}token_types", weights=front.token_types * width)
            if front.norm:
                yield _norm(f"{prefix}norm", stack)
        case config.Patches():
            pixels = front.channels * front.patch_size**2
            yield Part(name=f"{prefix}project", weights=pixels * width, bias=width, over="raw")
            if front.class_token:
                yield Part(name=f"{prefix}class_token", weights=width)
        case config.Audio():
            narrow = 3 * front.mels * width
            yield Part(name=f"{prefix}narrow", weights=narrow, bias=width, over="raw")
            yield Part(name=f"{prefix}stride", weights=3 * width**2, bias=width, over=over)


def _block(stack: parts.Stack, over: Over, reads: int | None) -> Iterator[Part]:
    attentions: list[tuple[str, int, Over]] = [("self_attention", stack.d_model, over)]
    if reads is not None:
        attentions.append(("cross_attention", reads, "source"))
    for name, source, keys in attentions:
        yield from _norms(f"{name}_residual", stack, "pre")
        yield from _attention(f"{name}.", stack, source, over, keys)
        yield from _norms(f"{name}_residual", stack, "post")
    yield from _norms("feed_forward_residual", stack, "pre")
    inner = stack.feed_forward
    up = inner.d_ff if inner.bias else 0
    for name, bias in [("gate", up)] * inner.gated + [("up", up), ("down", stack.d_model if inner.bias else 0)]:
        yield Part(name=f"feed_forward.{name}", weights=stack.d_model * inner.d_ff, bias=bias, over=over)
    yield from _norms("feed_forward_residual", stack, "post")


def _attention(prefix: str, stack: parts.Stack, source: int, over: Over, keys: Over) -> Iterator[Part]:
    settings, width = stack.attention, stack.d_model
    key_bias = settings.bias if settings.key_bias is None else settings.key_bias
    out_bias = settings.bias if settings.out_bias is None else settings.out_bias
    queries, pairs = settings.num_heads * stack.head_dim, stack.num_kv_heads * stack.head_dim
    yield Part(name=f"{prefix}query", weights=width * queries, bias=queries * settings.bias, over=over)
    yield Part(name=f"{prefix}key", weights=source * pairs, bias=pairs * key_bias, over=keys)
    yield Part(name=f"{prefix}value", weights=source * pairs, bias=pairs * settings.bias, over=keys)
    if settings.qk_norm:
        yield Part(name=f"{prefix}query_norm", weights=stack.head_dim)
        yield Part(name=f"{prefix}key_norm", weights=stack.head_dim)
    yield Part(name=f"{prefix}out", weights=queries * width, bias=width * out_bias, over=over)


def _norms(residual: str, stack: parts.Stack, side: Literal["pre", "post"]) -> Iterator[Part]:
    """The norms of a sub-layer that stand before it, or after it."""
    names = {"pre": ("before",), "post": ("after",), "both": ("before", "output")}[stack.placement]
    for name in names:
        if (name == "before") == (side == "pre"):
            yield _norm(f"{residual}.{name}", stack)


def _norm(name: str, stack: parts.Stack) -> Part:
    has_bias = isinstance(stack.norm, parts.LayerNorm) and stack.norm.bias
    return Part(name=name, weights=stack.d_model, bias=stack.d_model * has_bias)


# ---- heads -------------------------------------------------------------------------------------


def _language_head(
    stack: parts.Stack, front: config.Tokens, model: config.Decoder | config.EncoderDecoder
) -> Iterator[Part]:
    bias = front.vocab_size * model.head.bias
    yield Part(name="head.project", weights=stack.d_model * front.vocab_size, bias=bias, over="labels")


def _encoder_head(model: config.Encoder) -> Iterator[Part]:
    head, width = model.head, model.stack.d_model
    dense = Part(name="head.dense", weights=width**2, bias=width, over="labels")
    match head:
        case config.MaskedLanguage():
            assert isinstance(model.front, config.Tokens)  # the config has checked it
            vocab = model.front.vocab_size
            yield dense
            yield _norm("head.norm", model.stack)
            yield Part(name="head.project", weights=width * vocab, bias=vocab * head.bias, over="labels")
        case config.Classification():
            if head.projected:
                yield dense
            labels = len(head.labels)
            yield Part(name="head.project", weights=width * labels, bias=labels, over="labels")
        case config.TokenClassification():
            labels = len(head.labels)
            yield Part(name="head.project", weights=width * labels, bias=labels, over="labels")
        case config.Embedding():
            if head.projected:
                yield dense
