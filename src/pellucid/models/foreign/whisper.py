"""Whisper (Radford et al. 2022): two convolutions over a log-mel spectrogram, then a pre-norm encoder–decoder.

Its keys have no bias. The encoder's sinusoids are stored in the file, with frequencies of their own, and read from it.
"""

from __future__ import annotations

from pellucid.config.model import Audio, EncoderDecoder, Language, Model, NormalInit, Tokens
from pellucid.config.parts import FeedForward, Learned, Stack
from pellucid.models.foreign.bart import tower, written_sides
from pellucid.models.foreign.layout import Folder, Layout, Written, heads
from pellucid.models.foreign.settings import Settings
from pellucid.models.foreign.table import Table, module


def read(folder: Folder) -> EncoderDecoder:
    """The config of a Whisper folder."""
    settings = folder.settings
    folder.purpose("ForConditionalGeneration", "Model")
    settings.unused("num_hidden_layers", "encoder_layerdrop", "decoder_layerdrop", "median_filter_width")
    settings.unused("classifier_proj_size", "use_weighted_layer_sum", "apply_spec_augment")  # training, or other heads
    settings.unused(*(name for name in settings.values if name.startswith("mask_")))
    settings.fixed("scale_embedding", False)
    settings.fixed("tie_word_embeddings", True)
    dropout = settings.get("dropout", 0.0)
    return EncoderDecoder(
        source=Audio(mels=settings.get("num_mel_bins", 80), dropout=dropout),
        encoder=_stack(settings, "encoder", settings.get("max_source_positions", 1500)),
        target=Tokens(vocab_size=settings.get("vocab_size", 51_865), dropout=dropout),
        decoder=_stack(settings, "decoder", settings.get("max_target_positions", 448)),
        head=Language(),
        tie=("target", "output"),
        init=NormalInit(deviation=settings.get("init_std", 0.02)),
    )


def _stack(settings: Settings, name: str, length: int) -> Stack:
    width, number = settings.get("d_model", 384), settings.get(f"{name}_attention_heads", 6)
    dropout = settings.get("attention_dropout", 0.0)
    return Stack(
        d_model=width,
        num_layers=settings.layers(f"{name}_layers", 4),
        attention=heads(settings, number, number, width, None, key_bias=False, dropout=dropout),
        feed_forward=FeedForward(
            d_ff=settings.get(f"{name}_ffn_dim", 1536),
            activation=settings.activation("activation_function", "gelu"),
            dropout=settings.get("activation_dropout", 0.0),
        ),
        positions=Learned(max_length=length),
        placement="pre",
        dropout=settings.get("dropout", 0.0),
    )


def table(model: Model) -> Table:
    """Which tensor is which parameter."""
    return (
        module("model.encoder.conv1", "encoder.embedding.narrow"),
        module("model.encoder.conv2", "encoder.embedding.stride"),
        module("model.encoder.embed_positions", "encoder.embedding.positions.table"),
        *tower("encoder"),
        module("model.decoder.embed_tokens", "decoder.embedding.table"),
        module("model.decoder.embed_positions", "decoder.embedding.positions.table"),
        *tower("decoder"),
        module("proj_out", "head.project"),
    )


def write(model: Model) -> Written | None:
    """The config.json of an encoder–decoder that listens."""
    if not isinstance(model, EncoderDecoder) or not isinstance(model.source, Audio):
        return None
    encoder, decoder = model.encoder, model.decoder
    return Written(
        {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "is_encoder_decoder": True,
            "vocab_size": model.target.vocab_size,
            "num_mel_bins": model.source.mels,
            **written_sides(encoder, decoder),
            "max_source_positions": encoder.max_length,
            "max_target_positions": decoder.max_length,
        }
    )


WHISPER = Layout(model_types=("whisper",), read=read, table=table, write=write, prefix="model.")
