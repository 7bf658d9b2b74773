"""BART, mBART and Marian: the paper's encoder–decoder with variations.

BART has post-norm, learned positions and a norm on the embedding (Lewis et al. 2020); mBART pre-norm and that norm too
(Liu et al. 2020); Marian post-norm and sinusoids, all sines first, which its files do not hold (Junczys-Dowmunt et al.
2018). All add a bias to the logits that is not trained.
"""

from __future__ import annotations

from pellucid.config.model import EncoderDecoder, Language, Model, NormalInit, Tied, Tokens
from pellucid.config.parts import FeedForward, Learned, Positions, Sinusoidal, Stack
from pellucid.models.foreign.layout import Folder, Layout, heads
from pellucid.models.foreign.settings import Settings
from pellucid.models.foreign.table import Entry, Table, module, tensor

BIAS = "final_logits_bias"


def read(folder: Folder) -> EncoderDecoder:
    """The config of a BART, mBART or Marian folder."""
    settings = folder.settings
    folder.purpose("ForConditionalGeneration", "MTModel", "Model")
    kind = settings.values.get("model_type")
    settings.fixed("static_position_embeddings", kind == "marian")
    settings.fixed("normalize_before", kind == "mbart")
    settings.fixed("normalize_embedding", kind != "marian")
    settings.fixed("add_final_layer_norm", kind == "mbart")
    settings.unused("add_bias_logits", "extra_pos_embeddings", "encoder_layerdrop", "decoder_layerdrop")
    settings.unused("classifier_dropout", "classif_dropout", "num_hidden_layers", "max_length", "save_step")
    offset = 0 if kind == "marian" else 2
    positions: Positions = (
        Sinusoidal(interleaved=False)
        if kind == "marian"
        else Learned(max_length=settings.get("max_position_embeddings", 1024), offset=offset)
    )
    if kind == "marian":
        settings.unused("max_position_embeddings")
    encoder, decoder = (_stack(settings, tower, positions, pre=kind == "mbart") for tower in ("encoder", "decoder"))
    size = settings.get("vocab_size", 50_265)
    source = _front(settings, size, norm=kind != "marian")
    target = _front(settings, settings.get("decoder_vocab_size", size), norm=kind != "marian")
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
        num_layers=settings.get(f"{tower}_layers", 12),
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
        module("lm_head", "head.project"),
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


# Older Marian files hold its sinusoids, which are always the same.
BART = Layout(("bart", "mbart"), read, table, prefix="model.", unread=("*shared.weight",))
MARIAN = Layout(("marian",), read, table, prefix="model.", unread=("*shared.weight", "*.embed_positions.weight"))
