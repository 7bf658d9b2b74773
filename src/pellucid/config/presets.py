"""Named models, each with the publication it is taken from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pellucid.config.model import (
    Decoder,
    Encoder,
    EncoderDecoder,
    Language,
    MaskedLanguage,
    Model,
    NormalInit,
    T5Init,
    Tokens,
)
from pellucid.config.parts import (
    Attention,
    FeedForward,
    LayerNorm,
    Learned,
    RelativeBias,
    RMSNorm,
    Rotary,
    Sinusoidal,
    Stack,
)
from pellucid.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published model. ``parameters`` is the exact count where it is known; weights that are shared count once."""

    model: Model
    source: str
    parameters: int | None = None


def _vaswani(vocab: int, layers: int, width: int, heads: int, d_ff: int, dropout: float) -> EncoderDecoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads, bias=True),
        feed_forward=FeedForward(d_ff=d_ff),
        positions=Sinusoidal(),
        dropout=dropout,
    )
    front = Tokens(vocab_size=vocab, scaled=True, dropout=dropout)
    return EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack)


def _bert(layers: int, width: int) -> Encoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=width // 64, dropout=0.1),
        feed_forward=FeedForward(d_ff=4 * width, activation="gelu"),
        positions=Learned(max_length=512),
        norm=LayerNorm(epsilon=1e-12),
        dropout=0.1,
    )
    front = Tokens(vocab_size=30_522, token_types=2, norm=True, dropout=0.1)
    return Encoder(front=front, stack=stack, head=MaskedLanguage(), tie=("source", "output"))


def _gpt(layers: int, width: int, heads: int, length: int = 1024, dropout: float = 0.1) -> Decoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads, dropout=dropout),
        feed_forward=FeedForward(d_ff=4 * width, activation="gelu_tanh"),
        positions=Learned(max_length=length),
        placement="pre",
        dropout=dropout,
    )
    return Decoder(front=Tokens(vocab_size=50_257, dropout=dropout), stack=stack, init=NormalInit(scaled_residual=True))


def _t5(layers: int, width: int, heads: int, head_dim: int, d_ff: int) -> EncoderDecoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads, head_dim=head_dim, bias=False, scale=1.0, dropout=0.1),
        feed_forward=FeedForward(d_ff=d_ff, bias=False, dropout=0.1),
        positions=RelativeBias(),
        norm=RMSNorm(),
        placement="pre",
        dropout=0.1,
    )
    front = Tokens(vocab_size=32_128, dropout=0.1)
    return EncoderDecoder(
        source=front, encoder=stack, target=front, decoder=stack, head=Language(scale=width**-0.5), init=T5Init()
    )


def _llama(
    vocab: int,
    layers: int,
    width: int,
    heads: int,
    d_ff: int,
    *,
    kv_heads: int | None = None,
    tied: bool = False,
    interleaved: bool = False,
    epsilon: float = 1e-5,
) -> Decoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads, num_kv_heads=kv_heads, bias=False),
        feed_forward=FeedForward(d_ff=d_ff, activation="silu", gated=True, bias=False),
        positions=Rotary(interleaved=interleaved),
        norm=RMSNorm(epsilon=epsilon),
        placement="pre",
    )
    return Decoder(
        front=Tokens(vocab_size=vocab), stack=stack, tie=("target", "output") if tied else (), init=NormalInit()
    )


_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, Table 3"
_TINY = "Wu et al. 2021, Good for Misconceived Reasons (arXiv 2105.14462), Transformer-Tiny"
_DEVLIN = "Devlin et al. 2019, BERT"
_TURC = "Turc et al. 2019, Well-Read Students Learn Better"
_RADFORD = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, Table 2"
_BROWN = (
    "Brown et al. 2020, Language Models are Few-Shot Learners, Table 2.1 (its alternating sparse layers are dense here)"
)
_RAFFEL = "Raffel et al. 2020, Exploring the Limits of Transfer Learning (T5 1.0), §3.7"
_KARPATHY = "Karpathy 2023, llama2.c README, trained on TinyStories"
_TOUVRON = "Touvron et al. 2023, LLaMA, Table 2"
_ZHANG = "Zhang et al. 2024, TinyLlama, Table 1"
_SMOL = "Allal et al. 2024, SmolLM"

PRESETS: Mapping[str, Preset] = {
    "transformer-base": Preset(model=_vaswani(37_000, 6, 512, 8, 2048, 0.1), source=_VASWANI),
    "transformer-big": Preset(model=_vaswani(37_000, 6, 1024, 16, 4096, 0.3), source=_VASWANI),
    "multi30k-tiny": Preset(model=_vaswani(9_720, 4, 128, 4, 256, 0.3), source=_TINY),
    "bert-tiny": Preset(model=_bert(2, 128), source=_TURC),
    "bert-mini": Preset(model=_bert(4, 256), source=_TURC),
    "bert-small": Preset(model=_bert(4, 512), source=_TURC),
    "bert-medium": Preset(model=_bert(8, 512), source=_TURC),
    "bert-base": Preset(model=_bert(12, 768), source=_DEVLIN, parameters=109_514_298),
    "bert-large": Preset(model=_bert(24, 1024), source=_DEVLIN),
    "gpt2": Preset(model=_gpt(12, 768, 12), source=_RADFORD, parameters=124_439_808),
    "gpt2-medium": Preset(model=_gpt(24, 1024, 16), source=_RADFORD, parameters=354_823_168),
    "gpt2-large": Preset(model=_gpt(36, 1280, 20), source=_RADFORD, parameters=774_030_080),
    "gpt2-xl": Preset(model=_gpt(48, 1600, 25), source=_RADFORD, parameters=1_557_611_200),
    "gpt3-175b": Preset(model=_gpt(96, 12_288, 96, length=2048, dropout=0.0), source=_BROWN),
    "t5-small": Preset(model=_t5(6, 512, 8, 64, 2048), source=_RAFFEL, parameters=60_506_624),
    "t5-base": Preset(model=_t5(12, 768, 12, 64, 3072), source=_RAFFEL, parameters=222_903_552),
    "t5-large": Preset(model=_t5(24, 1024, 16, 64, 4096), source=_RAFFEL, parameters=737_668_096),
    "t5-3b": Preset(model=_t5(24, 1024, 32, 128, 16_384), source=_RAFFEL, parameters=2_851_598_336),
    "t5-11b": Preset(model=_t5(24, 1024, 128, 128, 65_536), source=_RAFFEL, parameters=11_307_321_344),
    "stories-15m": Preset(
        model=_llama(32_000, 6, 288, 6, 768, tied=True, interleaved=True), source=_KARPATHY, parameters=15_191_712
    ),
    "stories-42m": Preset(model=_llama(32_000, 8, 512, 8, 1376, tied=True, interleaved=True), source=_KARPATHY),
    "stories-110m": Preset(model=_llama(32_000, 12, 768, 12, 2048, tied=True, interleaved=True), source=_KARPATHY),
    "smollm-135m": Preset(
        model=_llama(49_152, 30, 576, 9, 1536, kv_heads=3, tied=True), source=_SMOL, parameters=134_515_008
    ),
    "tinyllama-1.1b": Preset(
        model=_llama(32_000, 22, 2048, 32, 5632, kv_heads=4), source=_ZHANG, parameters=1_100_048_384
    ),
    "llama-7b": Preset(
        model=_llama(32_000, 32, 4096, 32, 11_008, epsilon=1e-6), source=_TOUVRON, parameters=6_738_415_616
    ),
}


def preset(name: str) -> Preset:
    """A named model.

    Raises:
        ConfigError: for a name that is not known, with the nearest one.
    """
    if name not in PRESETS:
        raise ConfigError(f'preset "{name}"', "no such preset", hint=nearest(name, PRESETS))
    return PRESETS[name]
