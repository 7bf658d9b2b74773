"""What a training run is: data, tokenizer, model, objective, optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pellucid.config.model import (
    Classification,
    Decoder,
    Encoder,
    EncoderDecoder,
    MaskedLanguage,
    Model,
    with_vocab_size,
)
from pellucid.config.optimisation import Training
from pellucid.config.schema import check, check_fraction, check_not_negative
from pellucid.config.start import Scratch, Start

# ---- data --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """Plain UTF-8 text for language modelling; without a validation file the last ``held_out`` of the text serves."""

    kind: ClassVar[str] = "text"
    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_fraction(self, "held_out")


@dataclass(frozen=True, kw_only=True)
class ParallelFiles:
    """Two files of equally many lines, line n of the one being the translation of line n of the other."""

    kind: ClassVar[str] = "parallel"
    source: str
    target: str
    validation_source: str | None = None
    validation_target: str | None = None
    held_out: float = 0.05

    def __post_init__(self) -> None:
        check_fraction(self, "held_out")
        check(
            (self.validation_source is None) == (self.validation_target is None),
            "validation_source",
            "one side of a pair",
            "both sides or none",
        )


@dataclass(frozen=True, kw_only=True)
class LabelledFiles:
    """Texts with a label each: TSV (``label<TAB>text``) or JSONL (``{"text": ..., "label": ...}``), by the suffix."""

    kind: ClassVar[str] = "labelled"
    train: str
    validation: str | None = None
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_fraction(self, "held_out")


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set of the Hugging Face hub (the ``datasets`` extra).

    ``columns`` are the text; or the source and the target; or the text and its label. Two columns of text are a pair
    unless ``labelled``.
    """

    kind: ClassVar[str] = "hub"
    name: str
    columns: tuple[str, ...]
    labelled: bool = False
    subset: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"


@dataclass(frozen=True, kw_only=True)
class NamedData:
    """A set that comes with the package (dates, python-docs, reversal, terms, languages) or from the catalogue.

    ``pellucid data list`` shows them. ``mirror`` is a folder to read a catalogue set from; ``reverse`` swaps the
    sides of pairs.
    """

    kind: ClassVar[str] = "named"
    name: str
    mirror: str | None = None
    reverse: bool = False


@dataclass(frozen=True, kw_only=True)
class NoData:
    """None: a published model that became a run by conversion, and was trained elsewhere."""

    kind: ClassVar[str] = "none"


Data = TextFiles | ParallelFiles | LabelledFiles | HubDataset | NamedData | NoData

# ---- tokenizers --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ByteBPE:
    """Pairs of bytes merged by frequency (Sennrich et al. 2016; Radford et al. 2019): nothing is ever unknown."""

    kind: ClassVar[str] = "byte_bpe"
    vocab_size: int = 8000

    def __post_init__(self) -> None:
        check(
            self.vocab_size >= 300,
            "vocab_size",
            self.vocab_size,
            "at least 300: 256 bytes, the special tokens, some merges",
        )


@dataclass(frozen=True, kw_only=True)
class WordPiece:
    """Words cut into the longest known pieces (Schuster & Nakajima 2012; Devlin et al. 2019)."""

    kind: ClassVar[str] = "word_piece"
    vocab_size: int = 8000
    lowercase: bool = True

    def __post_init__(self) -> None:
        check(self.vocab_size >= 50, "vocab_size", self.vocab_size, "at least 50")


@dataclass(frozen=True, kw_only=True)
class Unigram:
    """The likeliest cut under a model of single pieces (Kudo 2018), bytes for what is unknown."""

    vocab_size: int = 8000

    def __post_init__(self) -> None:
        check(
            self.vocab_size >= 300,
            "vocab_size",
            self.vocab_size,
            "at least 300: 256 bytes, the special tokens, some pieces",
        )


@dataclass(frozen=True, kw_only=True)
class Characters:
    """One token per character seen in training."""


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """One token per byte of UTF-8 (Xue et al. 2022)."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """A ``tokenizer.json`` that exists already."""

    kind: ClassVar[str] = "file"
    path: str


Tokenizer = ByteBPE | WordPiece | Unigram | Characters | Bytes | TokenizerFile


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What a published model was trained to see around its texts, as token ids.

    Attributes:
        pad: fills up shorter rows.
        mask: stands for a hidden token; ``None`` where there is none.
        before, after: around a text that is read.
        start: what writing begins with.
        forced: the first tokens that are written, whatever their scores.
        ends: each of them ends what is written.
        never, never_first: tokens that are never written, at all or as the first.
        longest: texts are cut to so many tokens when they are read; ``None`` for no limit but the positions.
        one_language: a listening model whose vocabulary names languages of which it knows one.
        latest_start: the first words of a recording begin within so many ticks of a fiftieth of a second.
    """

    pad: int
    mask: int | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    longest: int | None = None
    one_language: bool = False
    latest_start: int = 50


# ---- objectives --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Causal:
    """Predict the next token, over windows of ``length`` tokens cut from the whole text.

    With ``separate_documents`` a window that spans several documents is read as several: positions restart and
    attention stays inside each (packing). During the first ``curriculum_steps`` steps the windows are cut into eighths,
    then quarters, then halves: short contexts first (Li et al. 2022). ``z_loss`` holds the logits back.
    """

    length: int = 256
    curriculum_steps: int = 0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    separate_documents: bool = False

    def __post_init__(self) -> None:
        check(self.length >= 2, "length", self.length, "at least 2")
        check_fraction(self, "label_smoothing")
        check_not_negative(self, "curriculum_steps", "z_loss")
        check(
            not (self.curriculum_steps and self.separate_documents),
            "curriculum_steps",
            self.curriculum_steps,
            "0 with separate_documents, whose windows are never cut",
        )
        check(
            not self.curriculum_steps or self.length % 8 == 0,
            "length",
            self.length,
            "a multiple of 8 with curriculum_steps, which cuts windows into eighths",
        )


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Restore hidden tokens (Devlin et al. 2019): of the chosen ``rate``, 80 % are masked, 10 % random, 10 % kept."""

    length: int = 128
    rate: float = 0.15
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        check(self.length >= 2, "length", self.length, "at least 2")
        check(0 < self.rate < 1, "rate", self.rate, "between 0 and 1")
        check_not_negative(self, "z_loss")


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Write what is missing from a text (Raffel et al. 2020, §3.1.4), over windows of ``length`` tokens.

    Of a window ``rate`` is taken out, in spans of ``span`` tokens on average. Each leaves a sentinel, a token of its
    own, and what is to be written is every sentinel with the tokens that it stands for.
    """

    length: int = 256
    rate: float = 0.15
    span: float = 3.0
    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check(self.length >= 2, "length", self.length, "at least 2")
        check(0 < self.rate < 1, "rate", self.rate, "between 0 and 1")
        check(self.span >= 1, "span", self.span, "at least 1")
        check_not_negative(self, "z_loss")
        check_fraction(self, "label_smoothing")

    @property
    def sentinels(self) -> int:
        """How many spans a whole window has."""
        return max(1, round(round(self.length * self.rate) / self.span))

    @property
    def longest(self) -> int:
        """The most tokens that a tower reads of a window: what is left and an end, or a start and what was taken."""
        taken = min(max(1, round(self.length * self.rate)), self.length - 1)
        spans = min(self.sentinels, taken, self.length - taken)
        return max(taken, self.length - taken) + spans + 1


@dataclass(frozen=True, kw_only=True)
class SequenceToSequence:
    """Write the target from the source, fed the true target so far; the smoothing of §5.4 of the paper."""

    label_smoothing: float = 0.1
    z_loss: float = 0.0
    max_length: int = 256

    def __post_init__(self) -> None:
        check_not_negative(self, "z_loss")
        check_fraction(self, "label_smoothing")
        check(self.max_length >= 2, "max_length", self.max_length, "at least 2")


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Predict the label of a text."""

    label_smoothing: float = 0.0
    max_length: int = 256

    def __post_init__(self) -> None:
        check_fraction(self, "label_smoothing")
        check(self.max_length >= 2, "max_length", self.max_length, "at least 2")


@dataclass(frozen=True, kw_only=True)
class NoObjective:
    """None: a head of vectors, of one score or of a label for every token came from elsewhere, and is used as it is."""

    kind: ClassVar[str] = "none"


Objective = Causal | Masked | SpanCorruption | SequenceToSequence | Classify | NoObjective

# ---- the run ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides a run.

    ``conventions`` are those of a published tokenizer; one of ours says them by the names of its special tokens.
    ``format`` is the version of the run folder.
    """

    model: Model
    data: Data
    tokenizer: Tokenizer
    objective: Objective
    training: Training = field(default_factory=Training)
    start: Start = field(default_factory=Scratch)
    conventions: Conventions | None = None
    seed: int = 0
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, and less than 2^63")
        wanted = fitting_objectives(self.model)
        check(
            NoObjective not in wanted or isinstance(self.objective, NoObjective),
            "model.head",
            "a head that nothing here trains: of vectors, of one score, or of a label for every token",
            "a masked-language head, or a classification head with two labels or more",
        )
        check(
            isinstance(self.objective, wanted),
            "objective",
            type(self.objective).__name__,
            f"{' or '.join(kind.__name__ for kind in wanted)}, which this model is trained by",
        )

    def completed(self, *, vocab_size: int, labels: tuple[str, ...]) -> Run:
        """The same run with what only the data could tell: the size of the vocabulary and the labels."""
        model = with_vocab_size(self.model, vocab_size)
        if isinstance(model, Encoder) and isinstance(model.head, Classification) and not model.head.labels:
            model = replace(model, head=replace(model.head, labels=labels))
        return replace(self, model=model)


def fitting_objectives(model: Model) -> tuple[type[Any], ...]:
    """The objectives that a model can be trained by, as its family and head decide; the usual one first."""
    match model:
        case Decoder():
            return (Causal,)
        case EncoderDecoder():
            return SequenceToSequence, SpanCorruption
        case Encoder(head=MaskedLanguage()):
            return (Masked,)
        case Encoder(head=Classification(labels=labels)) if len(labels) != 1:
            return (Classify,)
        case _:
            return (NoObjective,)
