"""The three families: what goes in, what comes out, where the weights start, and how towers make a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeVar

from pellucid.config.parts import Activation, Stack
from pellucid.config.schema import check, check_fraction, check_positive

# ---- what goes in ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A table of vectors, one per token.

    Attributes:
        vocab_size: V; 0 in a recipe stands for "as many as the tokenizer has" and is filled in before building.
        scaled: multiplied by √d_model (§3.4 of the paper).
        token_types: number of token types with an embedding of their own; 0 for none, 2 in BERT.
        norm: a norm on the sum, as in BERT.
        dropout: on the sum of embedding and position.
    """

    vocab_size: int = 0
    scaled: bool = False
    token_types: int = 0
    norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check(self.vocab_size >= 0, "vocab_size", self.vocab_size, "0 or more")
        check(self.token_types >= 0, "token_types", self.token_types, "0 or more")
        check_fraction(self, "dropout")


@dataclass(frozen=True, kw_only=True)
class Patches:
    """An image cut into squares, each projected to d_model (Dosovitskiy et al. 2021)."""

    image_size: int
    patch_size: int
    channels: int = 3
    class_token: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "image_size", "patch_size", "channels")
        check_fraction(self, "dropout")
        check(
            self.image_size % self.patch_size == 0,
            "image_size",
            self.image_size,
            f"a multiple of patch_size ({self.patch_size})",
        )


@dataclass(frozen=True, kw_only=True)
class Audio:
    """A log-mel spectrogram through two convolutions, the second of stride 2 (Radford et al. 2022)."""

    mels: int = 80
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "mels")
        check_fraction(self, "dropout")


Front = Tokens | Patches | Audio
AnyFront = TypeVar("AnyFront", Tokens, Tokens | Patches | Audio)

# ---- what comes out ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Language:
    """A score for every token of the vocabulary, at every position.

    ``scale`` multiplies the hidden state first: T5 takes 1/√d_model where the vocabulary is tied.
    """

    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        check_positive(self, "scale", "softcap")


@dataclass(frozen=True, kw_only=True)
class MaskedLanguage:
    """BERT's head: projection, activation, norm, then the vocabulary (Devlin et al. 2019)."""

    activation: Activation = "gelu"
    bias: bool = True


Pooling = Literal["first", "mean", "max"]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A label for the whole input; ``projected`` adds BERT's dense layer and an ``activation`` before it.

    No ``labels`` in a recipe stands for "those of the training data"; they are filled in before building. One label is
    a score: what a cross-encoder ranks pairs of texts by (Nogueira & Cho 2019).
    """

    labels: tuple[str, ...] = ()
    pooling: Pooling = "first"
    projected: bool = True
    activation: Literal["tanh", "relu"] = "tanh"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check(len(set(self.labels)) == len(self.labels), "labels", "a label twice", "distinct labels")
        check_fraction(self, "dropout")


@dataclass(frozen=True, kw_only=True)
class TokenClassification:
    """A label for every token: names in a text, parts of speech (Devlin et al. 2019, §5.3)."""

    labels: tuple[str, ...]
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check(len(self.labels) > 1, "labels", f"{len(self.labels)}", "at least 2")
        check(len(set(self.labels)) == len(self.labels), "labels", "a label twice", "distinct labels")
        check_fraction(self, "dropout")


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """One vector for the whole input (Reimers & Gurevych 2019).

    ``projected`` adds BERT's dense layer with tanh, its pooler; ``normalized`` gives the vector unit length.
    """

    pooling: Pooling = "mean"
    projected: bool = False
    normalized: bool = True


# ---- where the weights start -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class XavierInit:
    """Xavier-uniform projections, embeddings of deviation 1/√d_model, as in the paper's own code (tensor2tensor)."""

    kind: ClassVar[str] = "xavier"


@dataclass(frozen=True, kw_only=True)
class NormalInit:
    """Normal weights of one deviation; ``scaled_residual`` divides those that write to the residual stream by √N.

    N is how many such layers the model has, 2L of a tower.

    BERT (truncated at two deviations) and GPT-2 (scaled) both use 0.02.
    """

    kind: ClassVar[str] = "normal"
    deviation: float = 0.02
    truncated: bool = False
    scaled_residual: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "deviation")


@dataclass(frozen=True, kw_only=True)
class T5Init:
    """Deviations from the fan-in of each weight, the scale of the scores folded into the queries (Mesh TensorFlow)."""

    kind: ClassVar[str] = "t5"
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "factor")


Init = XavierInit | NormalInit | T5Init

# ---- the three families ------------------------------------------------------------------------

Tied = Literal["source", "target", "output"]


def _check_tie(tie: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    check(len(tie) != 1 and len(set(tie)) == len(tie), "tie", list(tie), "at least two different names, or none")
    check(set(tie) <= set(allowed), "tie", list(tie), "names among " + ", ".join(allowed))


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Every position sees every other: BERT and its kin. ``tie = ["source", "output"]`` shares the vocabulary table."""

    front: Front
    stack: Stack
    head: MaskedLanguage | Classification | TokenClassification | Embedding = field(default_factory=MaskedLanguage)
    tie: tuple[Tied, ...] = ()
    init: Init = field(default_factory=lambda: NormalInit(truncated=True))

    def __post_init__(self) -> None:
        _check_tie(self.tie, ("source", "output"))
        masked = isinstance(self.head, MaskedLanguage)
        check(
            masked or not self.tie,
            "tie",
            list(self.tie),
            f"no tie, since a head of kind {type(self.head).__name__} has no vocabulary",
        )
        check(
            not masked or isinstance(self.front, Tokens),
            "head",
            "masked_language",
            "a front of kind tokens, whose vocabulary it predicts",
        )


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Every position sees itself and the past: GPT and its kin.

    ``tie = ["target", "output"]`` shares the vocabulary table.
    """

    front: Tokens
    stack: Stack
    head: Language = field(default_factory=Language)
    tie: tuple[Tied, ...] = ("target", "output")
    init: Init = field(default_factory=lambda: NormalInit(scaled_residual=True))

    def __post_init__(self) -> None:
        _check_tie(self.tie, ("target", "output"))


@dataclass(frozen=True, kw_only=True)
class EncoderDecoder:
    """An encoder reads the source, a decoder writes the target and looks at the encoder's output: the paper's model."""

    source: Front
    encoder: Stack
    target: Tokens
    decoder: Stack
    head: Language = field(default_factory=Language)
    tie: tuple[Tied, ...] = ("source", "target", "output")
    init: Init = field(default_factory=XavierInit)

    def __post_init__(self) -> None:
        _check_tie(self.tie, ("source", "target", "output"))
        if "source" in self.tie:
            check(isinstance(self.source, Tokens), "tie", list(self.tie), "no tie with a source that is not tokens")
            size = getattr(self.source, "vocab_size", None)
            check(
                size == self.target.vocab_size,
                "tie",
                f"{size} source and {self.target.vocab_size} target tokens",
                "one vocabulary to share",
            )
            check(
                self.encoder.d_model == self.decoder.d_model,
                "tie",
                f"d_model {self.encoder.d_model} and {self.decoder.d_model}",
                "equal widths to share",
            )


Model = Encoder | Decoder | EncoderDecoder


def with_vocab_size(model: Model, size: int) -> Model:
    """The same model with every token front that has no size yet given ``size`` rows."""

    def sized(front: AnyFront) -> AnyFront:
        return replace(front, vocab_size=size) if isinstance(front, Tokens) and not front.vocab_size else front

    match model:
        case EncoderDecoder():  # both at once, since tied vocabularies must agree at every moment
            return replace(model, source=sized(model.source), target=sized(model.target))
        case Encoder():
            return replace(model, front=sized(model.front))
        case Decoder():
            return replace(model, front=sized(model.front))


def labels_of(model: Model) -> tuple[str, ...]:
    """The labels of texts that a model tells apart, in the order of its scores; none where that is not its task."""
    return model.head.labels if isinstance(model.head, Classification) else ()


def sound_frames(encoder: Stack) -> int:
    """The frames that an encoder of sounds reads, two for each of its positions: Whisper's 3,000 are 30 seconds."""
    return 2 * (encoder.max_length or 1500)


def stacks(model: Model) -> tuple[Stack, ...]:
    """The towers of a model, the encoder first."""
    return (model.encoder, model.decoder) if isinstance(model, EncoderDecoder) else (model.stack,)
