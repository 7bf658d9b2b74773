"""Named models, each with the publication it is taken from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pellucid.config.model import (
    Audio,
    Classification,
    Decoder,
    Embedding,
    Encoder,
    EncoderDecoder,
    Language,
    MaskedLanguage,
    Model,
    NormalInit,
    Patches,
    T5Init,
    Tied,
    Tokens,
)
from pellucid.config.parts import (
    Attention,
    FeedForward,
    LayerNorm,
    Learned,
    Llama3,
    RelativeBias,
    RMSNorm,
    Rotary,
    Sinusoidal,
    Stack,
)
from pellucid.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published model.

    Attributes:
        model: as it is trained, or in the case of a classifier as it was released.
        source: the publication.
        parameters: the exact count where it is known; weights that are shared count once.
        counted: what that count is of, where it is not of ``model``: BERT's has a pooler and no head.
        remark: what else a reader of the publication should know about its count.
    """

    model: Model
    source: str
    parameters: int | None = None
    counted: Model | None = None
    remark: str = ""


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


def _bert(
    layers: int, width: int, heads: int | None = None, *, vocab: int = 30_522, token_types: int = 2, offset: int = 0
) -> Encoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads or width // 64, dropout=0.1),
        feed_forward=FeedForward(d_ff=4 * width, activation="gelu"),
        positions=Learned(max_length=512, offset=offset),
        norm=LayerNorm(epsilon=1e-12),
        dropout=0.1,
    )
    front = Tokens(vocab_size=vocab, token_types=token_types, norm=True, dropout=0.1)
    return Encoder(front=front, stack=stack, head=MaskedLanguage(), tie=("source", "output"))


def _roberta(layers: int, width: int) -> Encoder:
    bert = _bert(layers, width, vocab=50_265, token_types=1, offset=2)
    return replace(bert, stack=replace(bert.stack, norm=LayerNorm(epsilon=1e-5)))


def _headless(model: Encoder, *, pooler: bool = True) -> Encoder:
    """An encoder as its publication counts it."""
    return replace(model, head=Embedding(pooling="first", projected=pooler), tie=())


def _vit(layers: int, width: int, heads: int) -> Encoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads),
        feed_forward=FeedForward(d_ff=4 * width, activation="gelu"),
        positions=Learned(max_length=1 + (224 // 16) ** 2),
        norm=LayerNorm(epsilon=1e-6),
        placement="pre",
    )
    labels = tuple(map(str, range(1000)))
    head = Classification(labels=labels, pooling="first", projected=False, dropout=0.0)
    return Encoder(front=Patches(image_size=224, patch_size=16), stack=stack, head=head)


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


def _t5_gated(layers: int, width: int, heads: int, d_ff: int) -> EncoderDecoder:
    """T5 1.1: a gated feed-forward, a head of its own, and so no scale before it."""
    first = _t5(layers, width, heads, 64, d_ff)
    inner = FeedForward(d_ff=d_ff, activation="gelu_tanh", gated=True, bias=False, dropout=0.1)
    stack = replace(first.encoder, feed_forward=inner)
    return replace(first, encoder=stack, decoder=stack, head=Language(), tie=("source", "target"))


def _bart(layers: int, width: int, heads: int) -> EncoderDecoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads),
        feed_forward=FeedForward(d_ff=4 * width, activation="gelu"),
        positions=Learned(max_length=1024, offset=2),
        dropout=0.1,
    )
    front = Tokens(vocab_size=50_265, norm=True, dropout=0.1)
    return EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack, init=NormalInit())


def _whisper(layers: int, width: int, heads: int) -> EncoderDecoder:
    encoder = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads, key_bias=False),
        feed_forward=FeedForward(d_ff=4 * width, activation="gelu"),
        positions=Sinusoidal(base=10_000 ** (width / (width - 2)), interleaved=False),
        placement="pre",
    )
    tie: tuple[Tied, ...] = ("target", "output")
    decoder = replace(encoder, positions=Learned(max_length=448))
    return EncoderDecoder(
        source=Audio(), encoder=encoder, target=Tokens(vocab_size=51_865), decoder=decoder, tie=tie, init=NormalInit()
    )


_ROTARY, _INTERLEAVED = Rotary(), Rotary(interleaved=True)
_LLAMA_3 = Rotary(base=500_000.0)
_LLAMA_3_1, _LLAMA_3_2 = (
    Rotary(base=500_000.0, scaling=Llama3(factor=factor, low=1.0, high=4.0, original_length=8192))
    for factor in (8.0, 32.0)
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
    positions: Rotary = _ROTARY,
    epsilon: float = 1e-5,
) -> Decoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads, num_kv_heads=kv_heads, bias=False),
        feed_forward=FeedForward(d_ff=d_ff, activation="silu", gated=True, bias=False),
        positions=positions,
        norm=RMSNorm(epsilon=epsilon),
        placement="pre",
    )
    return Decoder(
        front=Tokens(vocab_size=vocab), stack=stack, tie=("target", "output") if tied else (), init=NormalInit()
    )


def _mistral() -> Decoder:
    llama = _llama(32_000, 32, 4096, 32, 14_336, kv_heads=8)
    return replace(llama, stack=replace(llama.stack, windows=(4096,)))


def _qwen(layers: int, width: int, d_ff: int, attention: Attention) -> Decoder:
    positions = Rotary(base=1_000_000.0)
    llama = _llama(151_936, layers, width, 1, d_ff, tied=True, positions=positions, epsilon=1e-6)
    return replace(llama, stack=replace(llama.stack, attention=attention))


def _gemma(layers: int, width: int, heads: int, d_ff: int) -> Decoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(
            num_heads=heads, num_kv_heads=heads // 2, head_dim=256, bias=False, scale=256**-0.5, softcap=50.0
        ),
        feed_forward=FeedForward(d_ff=d_ff, activation="gelu_tanh", gated=True, bias=False),
        positions=_ROTARY,
        norm=RMSNorm(plus_one=True),
        placement="both",
        windows=(4096, 0),
    )
    front = Tokens(vocab_size=256_000, scaled=True)
    return Decoder(front=front, stack=stack, head=Language(softcap=30.0), init=NormalInit())


_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, Table 3"
_TINY = "Wu et al. 2021, Good for Misconceived Reasons (arXiv 2105.14462), Transformer-Tiny"
_DEVLIN = "Devlin et al. 2019, BERT"
_TURC = "Turc et al. 2019, Well-Read Students Learn Better"
_LIU = "Liu et al. 2019, RoBERTa"
_SANH = "Sanh et al. 2019, DistilBERT"
_WANG = "Wang et al. 2020, MiniLM; all-MiniLM-L6-v2 of sentence-transformers"
_DOSOVITSKIY = "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, Table 1; 224 × 224 pixels, 1000 labels"
_RADFORD = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, Table 2"
_BROWN = (
    "Brown et al. 2020, Language Models are Few-Shot Learners, Table 2.1 (its alternating sparse layers are dense here)"
)
_RAFFEL = "Raffel et al. 2020, Exploring the Limits of Transfer Learning (T5 1.0), §3.7"
_CHUNG = "Chung et al. 2022, Scaling Instruction-Finetuned Language Models (T5 1.1 and Flan-T5)"
_LEWIS = "Lewis et al. 2020, BART"
_WHISPER = "Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision, Table 1"
_KARPATHY = "Karpathy 2023, llama2.c README, trained on TinyStories"
_TOUVRON = "Touvron et al. 2023, LLaMA, Table 2"
_LLAMA_2 = "Touvron et al. 2023, Llama 2, and its model cards"
_GRATTAFIORI = "Grattafiori et al. 2024, The Llama 3 Herd of Models, Table 3, and its model cards"
_ZHANG = "Zhang et al. 2024, TinyLlama, Table 1"
_SMOL = "Allal et al. 2024, SmolLM"
_JIANG = "Jiang et al. 2023, Mistral 7B, Table 1"
_QWEN_2 = "Yang et al. 2024, Qwen2 Technical Report, Table 1"
_QWEN_3 = "Yang et al. 2025, Qwen3 Technical Report, Table 1"
_GEMMA_2 = "Gemma Team 2024, Gemma 2, Table 1"


def _counted_without_head(model: Encoder, source: str, parameters: int | None = None, *, pooler: bool = True) -> Preset:
    counted = _headless(model, pooler=pooler)
    remark = "with a pooler, without a head" if pooler else "without a head"
    return Preset(model=model, source=source, parameters=parameters, counted=counted, remark=remark)


def _paper(figure: str) -> str:
    return f"its paper says {figure}"


PRESETS: Mapping[str, Preset] = {
    "transformer-base": Preset(model=_vaswani(37_000, 6, 512, 8, 2048, 0.1), source=_VASWANI, remark=_paper("65M")),
    "transformer-big": Preset(model=_vaswani(37_000, 6, 1024, 16, 4096, 0.3), source=_VASWANI, remark=_paper("213M")),
    "multi30k-tiny": Preset(model=_vaswani(9_720, 4, 128, 4, 256, 0.3), source=_TINY, remark=_paper("2.6M")),
    "bert-tiny": _counted_without_head(_bert(2, 128), _TURC, 4_385_920),
    "bert-mini": _counted_without_head(_bert(4, 256), _TURC, 11_170_560),
    "bert-small": _counted_without_head(_bert(4, 512), _TURC, 28_763_648),
    "bert-medium": _counted_without_head(_bert(8, 512), _TURC, 41_373_184),
    "bert-base": _counted_without_head(_bert(12, 768), _DEVLIN, 109_482_240),
    "bert-large": _counted_without_head(_bert(24, 1024), _DEVLIN, 335_141_888),
    "roberta-base": _counted_without_head(_roberta(12, 768), _LIU, 124_645_632),
    "distilbert-base": _counted_without_head(_bert(6, 768, token_types=0), _SANH, 66_362_880, pooler=False),
    "minilm-l6": _counted_without_head(_bert(6, 384, 12), _WANG, 22_713_216),
    "vit-base": Preset(model=_vit(12, 768, 12), source=_DOSOVITSKIY, parameters=86_567_656),
    "vit-large": Preset(model=_vit(24, 1024, 16), source=_DOSOVITSKIY, parameters=304_326_632),
    "gpt2": Preset(model=_gpt(12, 768, 12), source=_RADFORD, parameters=124_439_808, remark=_paper("117M")),
    "gpt2-medium": Preset(model=_gpt(24, 1024, 16), source=_RADFORD, parameters=354_823_168, remark=_paper("345M")),
    "gpt2-large": Preset(model=_gpt(36, 1280, 20), source=_RADFORD, parameters=774_030_080, remark=_paper("762M")),
    "gpt2-xl": Preset(model=_gpt(48, 1600, 25), source=_RADFORD, parameters=1_557_611_200, remark=_paper("1542M")),
    "gpt3-175b": Preset(model=_gpt(96, 12_288, 96, length=2048, dropout=0.0), source=_BROWN, remark=_paper("175.0B")),
    "t5-small": Preset(model=_t5(6, 512, 8, 64, 2048), source=_RAFFEL, parameters=60_506_624),
    "t5-base": Preset(model=_t5(12, 768, 12, 64, 3072), source=_RAFFEL, parameters=222_903_552),
    "t5-large": Preset(model=_t5(24, 1024, 16, 64, 4096), source=_RAFFEL, parameters=737_668_096),
    "t5-3b": Preset(model=_t5(24, 1024, 32, 128, 16_384), source=_RAFFEL, parameters=2_851_598_336),
    "t5-11b": Preset(model=_t5(24, 1024, 128, 128, 65_536), source=_RAFFEL, parameters=11_307_321_344),
    "flan-t5-small": Preset(model=_t5_gated(8, 512, 6, 1024), source=_CHUNG, parameters=76_961_152),
    "flan-t5-base": Preset(model=_t5_gated(12, 768, 12, 2048), source=_CHUNG, parameters=247_577_856),
    "flan-t5-large": Preset(model=_t5_gated(24, 1024, 16, 2816), source=_CHUNG, parameters=783_150_080),
    "flan-t5-xl": Preset(model=_t5_gated(24, 2048, 32, 5120), source=_CHUNG, parameters=2_849_757_184),
    "flan-t5-xxl": Preset(model=_t5_gated(24, 4096, 64, 10_240), source=_CHUNG, parameters=11_135_332_352),
    "bart-base": Preset(model=_bart(6, 768, 12), source=_LEWIS, parameters=139_420_416),
    "bart-large": Preset(model=_bart(12, 1024, 16), source=_LEWIS, parameters=406_291_456),
    "whisper-tiny": Preset(model=_whisper(4, 384, 6), source=_WHISPER, parameters=37_184_640),
    "whisper-base": Preset(model=_whisper(6, 512, 8), source=_WHISPER, parameters=71_825_920),
    "whisper-small": Preset(model=_whisper(12, 768, 12), source=_WHISPER, parameters=240_582_912),
    "whisper-medium": Preset(model=_whisper(24, 1024, 16), source=_WHISPER, parameters=762_321_920),
    "whisper-large": Preset(model=_whisper(32, 1280, 20), source=_WHISPER, parameters=1_541_384_960),
    "stories-15m": Preset(
        model=_llama(32_000, 6, 288, 6, 768, tied=True, positions=_INTERLEAVED), source=_KARPATHY, parameters=15_191_712
    ),
    "stories-42m": Preset(model=_llama(32_000, 8, 512, 8, 1376, tied=True, positions=_INTERLEAVED), source=_KARPATHY),
    "stories-110m": Preset(
        model=_llama(32_000, 12, 768, 12, 2048, tied=True, positions=_INTERLEAVED), source=_KARPATHY
    ),
    "smollm-135m": Preset(
        model=_llama(49_152, 30, 576, 9, 1536, kv_heads=3, tied=True), source=_SMOL, parameters=134_515_008
    ),
    "tinyllama-1.1b": Preset(
        model=_llama(32_000, 22, 2048, 32, 5632, kv_heads=4), source=_ZHANG, parameters=1_100_048_384
    ),
    "llama-7b": Preset(
        model=_llama(32_000, 32, 4096, 32, 11_008, epsilon=1e-6), source=_TOUVRON, parameters=6_738_415_616
    ),
    "llama-2-7b": Preset(model=_llama(32_000, 32, 4096, 32, 11_008), source=_LLAMA_2, parameters=6_738_415_616),
    "llama-2-13b": Preset(model=_llama(32_000, 40, 5120, 40, 13_824), source=_LLAMA_2, parameters=13_015_864_320),
    "llama-2-70b": Preset(
        model=_llama(32_000, 80, 8192, 64, 28_672, kv_heads=8), source=_LLAMA_2, parameters=68_976_648_192
    ),
    "llama-3-8b": Preset(
        model=_llama(128_256, 32, 4096, 32, 14_336, kv_heads=8, positions=_LLAMA_3),
        source=_GRATTAFIORI,
        parameters=8_030_261_248,
    ),
    "llama-3-70b": Preset(
        model=_llama(128_256, 80, 8192, 64, 28_672, kv_heads=8, positions=_LLAMA_3),
        source=_GRATTAFIORI,
        parameters=70_553_706_496,
    ),
    "llama-3.1-405b": Preset(
        model=_llama(128_256, 126, 16_384, 128, 53_248, kv_heads=8, positions=_LLAMA_3_1),
        source=_GRATTAFIORI,
        parameters=405_853_388_800,
    ),
    "llama-3.2-1b": Preset(
        model=_llama(128_256, 16, 2048, 32, 8192, kv_heads=8, tied=True, positions=_LLAMA_3_2),
        source=_GRATTAFIORI,
        parameters=1_235_814_400,
    ),
    "llama-3.2-3b": Preset(
        model=_llama(128_256, 28, 3072, 24, 8192, kv_heads=8, tied=True, positions=_LLAMA_3_2),
        source=_GRATTAFIORI,
        parameters=3_212_749_824,
    ),
    "mistral-7b": Preset(model=_mistral(), source=_JIANG, parameters=7_241_732_096),
    "qwen2-0.5b": Preset(
        model=_qwen(24, 896, 4864, Attention(num_heads=14, num_kv_heads=2, bias=True, out_bias=False)),
        source=_QWEN_2,
        parameters=494_032_768,
    ),
    "qwen3-0.6b": Preset(
        model=_qwen(28, 1024, 3072, Attention(num_heads=16, num_kv_heads=8, head_dim=128, bias=False, qk_norm=True)),
        source=_QWEN_3,
        parameters=596_049_920,
    ),
    "gemma-2-2b": Preset(model=_gemma(26, 2304, 8, 9216), source=_GEMMA_2, parameters=2_614_341_888),
    "gemma-2-9b": Preset(model=_gemma(42, 3584, 16, 14_336), source=_GEMMA_2, parameters=9_241_705_984),
}

UNPUBLISHED: Mapping[str, str] = {
    "gpt-4": 'OpenAI 2023, GPT-4 Technical Report (arXiv 2303.08774), §2: "no further details about the architecture '
    '(including model size)"',
}
"""Models that people ask for and whose size is not published, with the place that says so."""


def preset(name: str) -> Preset:
    """A named model.

    Raises:
        ConfigError: for a name that is not known, with the nearest one, or of a model whose size is not published.
    """
    if name in UNPUBLISHED:
        raise ConfigError(f'preset "{name}"', "not published", hint=UNPUBLISHED[name])
    if name not in PRESETS:
        raise ConfigError(f'preset "{name}"', "no such preset", hint=nearest(name, PRESETS))
    return PRESETS[name]
