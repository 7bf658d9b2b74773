"""BART, mBART, Marian and Pegasus: the paper's encoder–decoder with variations.

BART has post-norm, learned positions and a norm on the embedding (Lewis et al. 2020); mBART pre-norm and that norm too
(Liu et al. 2020); Marian post-norm and sinusoids, all sines first, which its files do not hold (Junczys-Dowmunt et al.
2018); Pegasus the same in pre-norm (Zhang et al. 2020). All add a bias to the logits that is not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.config.model import EncoderDecoder, Language, Model, NormalInit, Tied, Tokens
from pellucid.config.parts import FeedForward, Learned, Positions, Sinusoidal, Stack
from pellucid.models.foreign.layout import Folder, Layout, Written, heads
from pellucid.models.foreign.settings import ACTIVATION_NAMES, Settings
from pellucid.models.foreign.table import Entry, Table, module, tensor

BIAS = "final_logits_bias"


@dataclass(frozen=True)
class Variant:
    """What makes each of them itself."""

    architecture: str
    pre: bool
    learned: bool  # positions, offset by 2, with a norm on the embedding; else sinusoids and none


VARIANTS: Mapping[str, Variant] = {
    "bart": Variant("BartForConditionalGeneration", pre=False, learned=True),
    "mbart": Variant("MBartForConditionalGeneration", pre=True, learned=True),
    "marian": Variant("MarianMTModel", pre=False, learned=False),
    "pegasus": Variant("PegasusForConditionalGeneration", pre=True, learned=False),
}
OFFSET = 2


def read(folder: Folder) -> EncoderDecoder:
    """The config of a folder of one of the four."""
    settings = folder.settings
    folder.purpose("ForConditionalGeneration", "MTModel", "Model")
    variant = VARIANTS[settings.values["model_type"]]
    settings.fixed("static_position_embeddings", not variant.learned)
    settings.fixed("normalize_before", variant.pre)
    settings.fixed("normalize_embedding", variant.learned)
    settings.fixed("add_final_layer_norm", variant.pre)
    settings.unused("add_bias_logits", "extra_pos_embeddings", "encoder_layerdrop", "decoder_layerdrop")
    settings.unused("classifier_dropout", "classif_dropout", "num_hidden_layers", "max_position_embeddings")
    longest = settings.get("max_position_embeddings", 1024)
    positions: Positions = (
        Learned(max_length=longest, offset=OFFSET) if variant.learned else Sinusoidal(interleaved=False)
    )
    encoder, decoder = (_stack(settings, tower, positions, pre=variant.pre) for tower in ("encoder", "decoder"))
    size = settings.get("vocab_size", 50_265)
    source = _front(settings, size, norm=variant.learned)
    target = _front(settings, settings.get("decoder_vocab_size", size), norm=variant.learned)
    return EncoderDecoder(
        source=source,
        encoder=encoder,
        target=target,
        decoder=decoder,
        head=Language(bias=folder.has(BIAS)),
        tie=_tie(folder),
        init=NormalInit(deviation=settings.get("init_std", 0.02)),
    )


def _tie(folder: Folder) -> tuple[Tied, ...]:
    shared = folder.settings.get("share_encoder_decoder_embeddings", True)
    if folder.settings.get("tie_word_embeddings", True):
        return ("source", "target", "output") if shared else ("target", "output")
    # Untied, the table of the sources is tied to that of the targets unless each was stored.
    return () if folder.has("encoder.embed_tokens.weight") else ("source", "target")


def _front(settings: Settings, size: int, *, norm: bool) -> Tokens:
    scaled, dropout = settings.get("scale_embedding", False), settings.get("dropout", 0.1)
    return Tokens(vocab_size=size, scaled=scaled, norm=norm, dropout=dropout)


def _stack(settings: Settings, tower: str, positions: Positions, *, pre: bool) -> Stack:
    width, number = settings.get("d_model", 1024), settings.get(f"{tower}_attention_heads", 16)
    return Stack(
        d_model=width,
        num_layers=settings.layers(f"{tower}_layers", 12),
        attention=heads(settings, number, number, width, None, dropout=settings.get("attention_dropout", 0.0)),
        feed_forward=FeedForward(
            d_ff=settings.get(f"{tower}_ffn_dim", 4096),
            activation=settings.activation("activation_function", "gelu"),
            dropout=settings.get("activation_dropout", 0.0),
        ),
        positions=positions,
        placement="pre" if pre else "post",
        dropout=settings.get("dropout", 0.1),
    )


def table(model: Model) -> Table:
    """Which tensor is which parameter."""
    assert isinstance(model, EncoderDecoder)  # the translation makes nothing else
    return (
        *([module("model.shared", "encoder.embedding.table")] if "source" in model.tie else []),
        module("model.encoder.embed_tokens", "encoder.embedding.table"),
        module("model.decoder.embed_tokens", "decoder.embedding.table"),
        tensor("lm_head.weight", "head.project.weight"),
        tensor(BIAS, "head.project.bias", shape=(1, -1)),
        *_embedding("encoder"),
        *tower("encoder"),
        *_embedding("decoder"),
        *tower("decoder"),
    )


def _embedding(name: str) -> tuple[Entry, ...]:
    return (
        module(f"model.{name}.embed_positions", f"{name}.embedding.positions.table"),
        module(f"model.{name}.layernorm_embedding", f"{name}.embedding.norm"),
    )


def tower(name: str) -> tuple[Entry, ...]:
    """The layers of a side, and its last norm; Whisper's are the same."""
    theirs, ours = f"model.{name}.layers.*", f"{name}.blocks.*"
    after_or_before = ("after", "before")  # the model has one of them
    norms = {
        "self_attn_layer_norm": "self_attention_residual",
        "encoder_attn_layer_norm": "cross_attention_residual",
        "final_layer_norm": "feed_forward_residual",
    }
    return (
        *_attention(f"{theirs}.self_attn", f"{ours}.self_attention"),
        *_attention(f"{theirs}.encoder_attn", f"{ours}.cross_attention"),
        module(f"{theirs}.fc1", f"{ours}.feed_forward.up"),
        module(f"{theirs}.fc2", f"{ours}.feed_forward.down"),
        *(
            module(f"{theirs}.{norm}", f"{ours}.{residual}.{place}")
            for norm, residual in norms.items()
            for place in after_or_before
        ),
        module(f"model.{name}.layer_norm", f"{name}.final_norm"),
    )


def _attention(theirs: str, ours: str) -> tuple[Entry, ...]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return tuple(module(f"{theirs}.{one}", f"{ours}.{other}") for one, other in names.items())


def write(model: Model) -> Written | None:
    """The config.json of an encoder–decoder of the paper's kind, under the name of the variant that has its parts."""
    if not isinstance(model, EncoderDecoder):
        return None
    encoder, decoder = model.encoder, model.decoder
    pre, learned = encoder.placement == "pre", isinstance(encoder.positions, Learned)
    kind, variant = next((k, v) for k, v in VARIANTS.items() if (v.pre, v.learned) == (pre, learned))
    settings = {
        "model_type": kind,
        "architectures": [variant.architecture],
        "is_encoder_decoder": True,
        "vocab_size": getattr(model.source, "vocab_size", 0),
        **written_sides(encoder, decoder),
        "max_position_embeddings": encoder.max_length or LONGEST,
        "scale_embedding": model.target.scaled,
        "tie_word_embeddings": "output" in model.tie,
    }
    if kind == "marian":
        shared = {"share_encoder_decoder_embeddings": "source" in model.tie}
        settings |= {"decoder_vocab_size": model.target.vocab_size, **shared}
    return Written(settings, {} if model.head.bias else {BIAS: (1, model.target.vocab_size)})


def written_sides(encoder: Stack, decoder: Stack) -> dict[str, Any]:
    """Both towers in the words of a config.json; Whisper's are the same."""
    return {
        "d_model": encoder.d_model,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": decoder.num_layers,
        "encoder_attention_heads": encoder.attention.num_heads,
        "decoder_attention_heads": decoder.attention.num_heads,
        "encoder_ffn_dim": encoder.feed_forward.d_ff,
        "decoder_ffn_dim": decoder.feed_forward.d_ff,
        "activation_function": ACTIVATION_NAMES[encoder.feed_forward.activation],
        "dropout": encoder.dropout,
        "attention_dropout": encoder.attention.dropout,
        "activation_dropout": encoder.feed_forward.dropout,
    }


LONGEST = 1024  # sinusoids have no limit; the format keeps a table of so many

# Older files of those with sinusoids hold them, which are always the same.
BART = Layout(("bart", "mbart"), read, table, write, prefix="model.", unread=("*shared.weight", "*.version"))
MARIAN = Layout(
    ("marian", "pegasus"),
    read,
    table,
    write,
    prefix="model.",
    unread=("*shared.weight", "*.version", "*.embed_positions.weight"),
)
