"""T5 and Flan-T5 (Raffel et al. 2020): relative biases shared by the layers of a stack, no scale on the scores.

1.0 has a ReLU and ties its vocabulary, 1.1 a gated GELU and an output of its own (Shazeer 2020).
"""

from __future__ import annotations

from pellucid.config.model import EncoderDecoder, Language, Model, T5Init, Tied, Tokens
from pellucid.config.parts import Activation, Attention, FeedForward, RelativeBias, RMSNorm, Stack
from pellucid.errors import ConfigError
from pellucid.models.foreign.layout import Folder, Layout, Written
from pellucid.models.foreign.settings import ACTIVATIONS, Settings
from pellucid.models.foreign.table import Entry, Table, module


def read(folder: Folder) -> EncoderDecoder:
    """The config of a T5 folder."""
    settings = folder.settings
    folder.purpose("ForConditionalGeneration", "Model")
    settings.unused("n_positions", "classifier_dropout", "dense_act_fn", "is_gated_act")
    layers = settings.layers("num_layers", 6)
    encoder = _stack(settings, layers)
    decoder = _stack(settings, settings.layers("num_decoder_layers", layers))
    front = Tokens(vocab_size=settings.get("vocab_size", 32_128), dropout=encoder.dropout)
    # The files of 1.1 say that nothing is tied and mean the output; what transformers 5 writes says it in another way.
    scaled = settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True))
    tied = scaled or not folder.has("lm_head.weight")
    tie: tuple[Tied, ...] = ("source", "target", "output") if tied else ("source", "target")
    scale = encoder.d_model**-0.5 if scaled else 1.0
    return EncoderDecoder(
        source=front,
        encoder=encoder,
        target=front,
        decoder=decoder,
        head=Language(scale=scale),
        tie=tie,
        init=T5Init(factor=settings.get("initializer_factor", 1.0)),
    )


def _stack(settings: Settings, layers: int) -> Stack:
    dropout = settings.get("dropout_rate", 0.1)
    gated, activation = _activation(settings)
    return Stack(
        d_model=settings.get("d_model", 512),
        num_layers=layers,
        attention=Attention(
            num_heads=settings.get("num_heads", 8),
            head_dim=settings.get("d_kv", 64),
            bias=False,
            scale=1.0,
            dropout=dropout,
        ),
        feed_forward=FeedForward(
            d_ff=settings.get("d_ff", 2048), activation=activation, gated=gated, bias=False, dropout=dropout
        ),
        positions=RelativeBias(
            buckets=settings.get("relative_attention_num_buckets", 32),
            max_distance=settings.get("relative_attention_max_distance", 128),
        ),
        norm=RMSNorm(epsilon=settings.get("layer_norm_epsilon", 1e-6)),
        placement="pre",
        dropout=dropout,
    )


def _activation(settings: Settings) -> tuple[bool, Activation]:
    """``relu`` or ``gated-gelu``, which is the approximate one."""
    named = settings.get("feed_forward_proj", "relu")
    *gate, name = named.split("-")
    if gate not in ([], ["gated"]) or name not in ACTIVATIONS:
        raise ConfigError(f"{settings.where}: feed_forward_proj", f"found {named!r}", "relu, gated-gelu or the like")
    return bool(gate), "gelu_tanh" if named == "gated-gelu" else ACTIVATIONS[name]


def table(model: Model) -> Table:
    """Which tensor is which parameter."""
    assert isinstance(model, EncoderDecoder)  # the translation makes nothing else
    gated = model.encoder.feed_forward.gated
    return (
        module("shared", "encoder.embedding.table"),
        module("encoder.embed_tokens", "encoder.embedding.table"),
        module("decoder.embed_tokens", "decoder.embedding.table"),
        module("lm_head", "head.project"),
        *_tower("encoder", feed_forward=1, gated=gated),
        module("decoder.block.*.layer.1.layer_norm", "decoder.blocks.*.cross_attention_residual.before"),
        *_attention("decoder.block.*.layer.1.EncDecAttention", "decoder.blocks.*.cross_attention"),
        *_tower("decoder", feed_forward=2, gated=gated),
    )


def _tower(tower: str, *, feed_forward: int, gated: bool) -> tuple[Entry, ...]:
    block, ours = f"{tower}.block.*.layer", f"{tower}.blocks.*"
    dense = f"{block}.{feed_forward}.DenseReluDense"
    up = [module(f"{dense}.wi", f"{ours}.feed_forward.up")]
    if gated:
        up = [
            module(f"{dense}.wi_0", f"{ours}.feed_forward.gate"),
            module(f"{dense}.wi_1", f"{ours}.feed_forward.up"),
        ]
    return (
        module(f"{block}.0.layer_norm", f"{ours}.self_attention_residual.before"),
        *_attention(f"{block}.0.SelfAttention", f"{ours}.self_attention"),
        module(f"{tower}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{tower}.bias.table"),
        module(f"{block}.{feed_forward}.layer_norm", f"{ours}.feed_forward_residual.before"),
        *up,
        module(f"{dense}.wo", f"{ours}.feed_forward.down"),
        module(f"{tower}.final_layer_norm", f"{tower}.final_norm"),
    )


def _attention(theirs: str, ours: str) -> tuple[Entry, ...]:
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return tuple(module(f"{theirs}.{letter}", f"{ours}.{name}") for letter, name in names.items())


def write(model: Model) -> Written | None:
    """The config.json of an encoder–decoder with relative biases."""
    if not isinstance(model, EncoderDecoder) or not isinstance(model.encoder.positions, RelativeBias):
        return None
    stack, positions = model.encoder, model.encoder.positions
    activation = "gelu_new" if stack.feed_forward.activation == "gelu_tanh" else stack.feed_forward.activation
    gated = "gelu" if activation == "gelu_new" else activation
    scaled = model.head.scale != 1.0
    return Written(
        {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "is_encoder_decoder": True,
            "vocab_size": model.target.vocab_size,
            "d_model": stack.d_model,
            "d_kv": stack.head_dim,
            "d_ff": stack.feed_forward.d_ff,
            "num_layers": stack.num_layers,
            "num_decoder_layers": model.decoder.num_layers,
            "num_heads": stack.attention.num_heads,
            "relative_attention_num_buckets": positions.buckets,
            "relative_attention_max_distance": positions.max_distance,
            "dropout_rate": stack.dropout,
            "layer_norm_epsilon": stack.norm.epsilon,
            "feed_forward_proj": f"gated-{gated}" if stack.feed_forward.gated else activation,
            "scale_decoder_outputs": scaled,
            "tie_word_embeddings": scaled,
        }
    )


T5 = Layout(
    model_types=("t5",),
    read=read,
    table=table,
    write=write,
    unread=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
)
