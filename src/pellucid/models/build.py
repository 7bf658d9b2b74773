"""From a config to a model: the one place where a choice becomes a module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.schema import check
from pellucid.models import heads
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.tower import CrossTower, Tower
from pellucid.nn import init, kernels, positions
from pellucid.nn.attention import Attention
from pellucid.nn.block import Block, CrossBlock, Residual
from pellucid.nn.embedding import AudioFront, PatchFront, TokenFront
from pellucid.nn.feed_forward import FeedForward, GatedFeedForward
from pellucid.nn.norms import LayerNorm, RMSNorm

Model = Encoder | Decoder | EncoderDecoder


@overload
def build(model: config.Encoder) -> Encoder: ...
@overload
def build(model: config.Decoder) -> Decoder: ...
@overload
def build(model: config.EncoderDecoder) -> EncoderDecoder: ...
def build(model: config.Model) -> Model:
    """A freshly initialised model.

    Raises:
        ConfigError: when the vocabulary or the labels are still to be filled in.
    """
    built: Model
    match model:
        case config.Encoder():
            built = Encoder(_encoder_head(model), **_tower(model.stack, model.front, causal=False))
            tables = {"source": built.embedding}
        case config.Decoder():
            built = Decoder(_language_head(model.head, model.stack, model.front), **_tower(model.stack, model.front))
            tables = {"target": built.embedding}
        case config.EncoderDecoder():
            encoder = Tower(causal=False, **_tower(model.encoder, model.source, causal=False))
            reads = model.encoder.d_model
            decoder = CrossTower(causal=True, **_tower(model.decoder, model.target, reads=reads))
            built = EncoderDecoder(encoder, decoder, _language_head(model.head, model.decoder, model.target))
            tables = {"source": encoder.embedding, "target": decoder.embedding}
    _initialise(built, model.init)
    _tie(model.tie, {name: front.table for name, front in tables.items() if isinstance(front, TokenFront)}, built.head)
    built.config = model
    return built


def build_empty(model: config.Model) -> Model:
    """A model whose weights take no memory and are not drawn, to be counted or to be given those of a file."""
    with torch.device("meta"), _Undrawn():
        return build(model)


class _Undrawn(TorchFunctionMode):
    """Leaves every weight as it is: on the meta device drawing one would only load what draws it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func.__name__ in ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _tower(stack: parts.Stack, front: config.Front, *, causal: bool = True, reads: int | None = None) -> dict[str, Any]:
    blocks = [_block(stack, reads) for _ in range(stack.num_layers)]
    return {
        "embedding": _front(front, stack),
        "blocks": blocks,
        "final_norm": _norm(stack) if stack.has_final_norm else nn.Identity(),
        "rotation": _rotation(stack),
        "bias": _bias(stack, causal),
        "windows": [stack.window(layer) for layer in range(stack.num_layers)],
        "max_length": stack.max_length,
    }


def _front(front: config.Front, stack: parts.Stack) -> nn.Module:
    added = _added_positions(stack)
    match front:
        case config.Tokens():
            where = f"found {front.vocab_size}"
            check(front.vocab_size > 0, "vocab_size", where, "the size of the tokenizer", "set it before building")
            norm = _norm(stack) if front.norm else nn.Identity()
            return TokenFront(
                front.vocab_size,
                stack.d_model,
                positions=added,
                scaled=front.scaled,
                token_types=front.token_types,
                norm=norm,
                dropout=front.dropout,
            )
        case config.Patches():
            return PatchFront(
                stack.d_model,
                patch_size=front.patch_size,
                channels=front.channels,
                class_token=front.class_token,
                positions=added,
                dropout=front.dropout,
                image_size=front.image_size if isinstance(stack.positions, parts.Learned) else None,
            )
        case config.Audio():
            return AudioFront(stack.d_model, mels=front.mels, positions=added, dropout=front.dropout)


def _added_positions(stack: parts.Stack) -> nn.Module:
    match stack.positions:
        case parts.Sinusoidal(base=base, interleaved=interleaved):
            return positions.SinusoidalPositions(stack.d_model, base, interleaved)
        case parts.Learned(max_length=max_length, offset=offset):
            return positions.LearnedPositions(stack.d_model, max_length, offset)
        case _:
            return positions.NoAddedPositions()


def _rotation(stack: parts.Stack) -> nn.Module:
    match stack.positions:
        case parts.Rotary(base=base, interleaved=interleaved, fraction=fraction, scaling=scaling):
            turned = int(stack.head_dim * fraction)
            return positions.RotaryPositions(_scaled(positions.rotary_frequencies(turned, base), scaling), interleaved)
        case _:
            return positions.NoRotation()


def _scaled(frequency: Tensor, scaling: parts.Linear | parts.Llama3 | None) -> Tensor:
    match scaling:
        case None:
            return frequency
        case parts.Linear(factor=factor):
            return frequency / factor
        case parts.Llama3(factor=factor, low=low, high=high, original_length=length):
            return positions.slow_waves(frequency, factor, low, high, length)


def _bias(stack: parts.Stack, causal: bool) -> nn.Module | None:
    match stack.positions:
        case parts.ALiBi():
            return positions.ALiBiBias(stack.attention.num_heads)
        case parts.RelativeBias(buckets=buckets, max_distance=max_distance):
            return positions.RelativePositionBias(stack.attention.num_heads, buckets, max_distance, causal)
        case _:
            return None


def _norm(stack: parts.Stack) -> nn.Module:
    match stack.norm:
        case parts.LayerNorm(epsilon=epsilon, bias=bias):
            return LayerNorm(stack.d_model, epsilon, bias)
        case parts.RMSNorm(epsilon=epsilon, plus_one=plus_one):
            return RMSNorm(stack.d_model, epsilon, plus_one)


def _residual(stack: parts.Stack) -> Residual:
    def norm(*placements: str) -> nn.Module:
        return _norm(stack) if stack.placement in placements else nn.Identity()

    return Residual(before=norm("pre", "both"), output=norm("both"), after=norm("post"), dropout=stack.dropout)


def _block(stack: parts.Stack, reads: int | None) -> Block | CrossBlock:
    residual = partial(_residual, stack)
    if reads is None:
        return Block(_attention(stack), _feed_forward(stack), residual)
    return CrossBlock(_attention(stack), _attention(stack, d_source=reads), _feed_forward(stack), residual)


def _attention(stack: parts.Stack, d_source: int | None = None) -> Attention:
    attention = stack.attention
    head_norm = partial(RMSNorm, stack.head_dim, stack.norm.epsilon) if attention.qk_norm else nn.Identity
    return Attention(
        stack.d_model,
        attention.num_heads,
        stack.num_kv_heads,
        stack.head_dim,
        d_source=d_source,
        bias=attention.bias,
        key_bias=attention.bias if attention.key_bias is None else attention.key_bias,
        out_bias=attention.bias if attention.out_bias is None else attention.out_bias,
        head_norm=head_norm,
        scale=attention.scale,
        softcap=attention.softcap,
        dropout=attention.dropout,
        kernel=_kernel(attention),
    )


def _kernel(attention: parts.Attention) -> kernels.Kernel:
    match attention.kernel:
        case "explicit":
            return kernels.explicit
        case "blocked":
            return kernels.blocked
        case "flex":
            return kernels.flex
        case "sdpa":
            return kernels.sdpa
        case "auto":
            return kernels.auto


def _feed_forward(stack: parts.Stack) -> FeedForward:
    settings = stack.feed_forward
    kind = GatedFeedForward if settings.gated else FeedForward
    activation = _activation(settings.activation)
    return kind(stack.d_model, settings.d_ff, activation=activation, bias=settings.bias, dropout=settings.dropout)


def _activation(name: parts.Activation | Literal["tanh"]) -> Callable[[Tensor], Tensor]:
    match name:
        case "tanh":
            return torch.tanh
        case "relu":
            return F.relu
        case "gelu":
            return F.gelu
        case "gelu_tanh":
            return partial(F.gelu, approximate="tanh")
        case "silu":
            return F.silu


def _language_head(head: config.Language, stack: parts.Stack, front: config.Tokens) -> heads.LanguageHead:
    return heads.LanguageHead(stack.d_model, front.vocab_size, bias=head.bias, scale=head.scale, softcap=head.softcap)


def _encoder_head(model: config.Encoder) -> nn.Module:
    head, stack = model.head, model.stack
    match head:
        case config.MaskedLanguage():
            assert isinstance(model.front, config.Tokens)  # the config has checked it
            return heads.MaskedLanguageHead(
                stack.d_model,
                model.front.vocab_size,
                activation=_activation(head.activation),
                norm=_norm(stack),
                bias=head.bias,
            )
        case config.Classification():
            check(bool(head.labels), "head.labels", "none", "the labels to tell apart", "set them before building")
            return heads.ClassificationHead(
                stack.d_model,
                len(head.labels),
                pool=_pool(head.pooling),
                projected=head.projected,
                activation=_activation(head.activation),
                dropout=head.dropout,
            )
        case config.TokenClassification():
            return heads.TokenClassificationHead(stack.d_model, len(head.labels), dropout=head.dropout)
        case config.Embedding():
            dense = nn.Linear(stack.d_model, stack.d_model) if head.projected else None
            return heads.EmbeddingHead(pool=_pool(head.pooling), dense=dense, normalized=head.normalized)


def _pool(name: config.Pooling) -> heads.Pool:
    match name:
        case "first":
            return heads.pool_first
        case "mean":
            return heads.pool_mean
        case "max":
            return heads.pool_max


def _initialise(model: nn.Module, recipe: config.Init) -> None:
    match recipe:
        case config.XavierInit():
            init.xavier(model)
        case config.NormalInit(deviation=deviation, truncated=truncated, scaled_residual=scaled):
            init.normal(model, deviation, truncated=truncated, scaled_residual=scaled)
        case config.T5Init(factor=factor):
            init.t5(model, factor)


def _tie(tie: tuple[str, ...], tables: dict[str, nn.Embedding], head: nn.Module) -> None:
    """Makes the named tables one parameter; the embedding's initial values win over the head's."""
    layers = [tables[name] for name in ("source", "target") if name in tie]
    for table in layers[1:]:
        table.weight = layers[0].weight
    if "output" in tie:
        assert isinstance(head, heads.LanguageHead | heads.MaskedLanguageHead)  # the config has checked it
        head.project.weight = layers[0].weight
