"""How a model is optimised: optimiser, schedule, averaging, length and precision of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pellucid.config.schema import check, check_not_negative, check_positive

# ---- optimisers ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); decay is on matrices only."""

    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check(all(0 <= b < 1 for b in self.betas), "betas", list(self.betas), "two numbers of at least 0 and below 1")
        check_positive(self, "epsilon")
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Momentum made orthogonal (Jordan et al. 2024) for the matrices of the blocks, AdamW for all the rest.

    Updates are scaled to the size of AdamW's (Liu et al. 2025, §2.2), so that one schedule serves both.
    """

    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        check(all(0 <= b < 1 for b in self.betas), "betas", list(self.betas), "two numbers of at least 0 and below 1")
        check_positive(self, "epsilon")
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")


Optimizer = AdamW | Muon


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot:
    """The paper's schedule (§5.3, eq. 3): linear warm-up, then 1/√step. ``peak`` is the rate where they meet.

    The paper's own peak is (d_model · warmup_steps)^-0.5, which is taken when ``peak`` is left out.
    """

    peak: float | None = None
    warmup_steps: int = 4000

    def __post_init__(self) -> None:
        check_positive(self, "peak", "warmup_steps")


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear warm-up, then half a cosine down to ``final`` times the peak (Loshchilov & Hutter 2017)."""

    peak: float = 1e-3
    warmup_steps: int = 100
    final: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "peak")
        check(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        check(0 <= self.final <= 1, "final", self.final, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear warm-up, then a straight line down to ``final`` times the peak."""

    peak: float = 1e-3
    warmup_steps: int = 100
    final: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "peak")
        check(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        check(0 <= self.final <= 1, "final", self.final, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Linear warm-up, then the peak for ever."""

    peak: float = 1e-3
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "peak")
        check(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Linear warm-up, the peak, and at the end down by 1 - √ (Hägele et al. 2024, §3.2).

    The way down takes the share ``decay`` of the steps after the warm-up. The long middle part needs no end in sight: a
    run can be lengthened by going on from before its decay.
    """

    kind: ClassVar[str] = "wsd"
    peak: float = 1e-3
    warmup_steps: int = 100
    decay: float = 0.2
    final: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "peak")
        check(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        check(0 < self.decay <= 1, "decay", self.decay, "more than 0 and at most 1")
        check(0 <= self.final <= 1, "final", self.final, "between 0 and 1")


Schedule = InverseSquareRoot | Cosine | Linear | Constant | WarmupStableDecay

# ---- averaging -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoAverage:
    """The weights of the step with the lowest validation loss."""

    kind: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class ExponentialAverage:
    """A running mean of the weights over about 1/(1 - decay) steps, evaluated and saved in their place.

    Polyak & Juditsky 1992; the decay grows from 0 while there is little to average, as (1 + step)/(10 + step).
    """

    kind: ClassVar[str] = "exponential"
    decay: float = 0.999

    def __post_init__(self) -> None:
        check(0 < self.decay < 1, "decay", self.decay, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class CheckpointAverage:
    """At the end, the mean of the weights at the last (Vaswani et al. 2017, §6.1) or best ``count`` evaluations."""

    kind: ClassVar[str] = "checkpoints"
    count: int = 5
    which: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        check(self.count >= 2, "count", self.count, "at least 2")


Average = NoAverage | ExponentialAverage | CheckpointAverage

# ---- all of it -----------------------------------------------------------------------------------


Precision = Literal["auto", "float32", "float32-medium", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """What a run leaves on the disk.

    Attributes:
        every: steps between checkpoints that a run can go on from; 0 for whenever it is evaluated.
        keep: how many of them stay; 0 for none, except where a run is stopped early.
        weights: precision of the saved weights.
    """

    every: int = 0
    keep: int = 2
    weights: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(self.keep > 0 or not self.every, "keep", self.keep, f"1 or more, or every = 0: it is {self.every}")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long, how fast, in what precision.

    Attributes:
        batch_tokens: tokens of one batch, padding included; of a pair, the longer side counts.
        accumulate: batches summed before an update, weighted by their labels.
        clip_norm: the largest norm of the gradient; 0 does not clip.
        evaluate_every: steps between evaluations on the validation data; 0 for only at the end.
        patience: evaluations without a new best after which the run ends; 0 for never.
        average: which weights are evaluated and saved.
        precision: of the matrix products; weights and norms stay in float32, softmax and loss add up in it.
            ``float32-medium`` is float32 by oneDNN; ``auto`` measures which is the fastest here, once, when a run
            begins.
        recompute: activation checkpointing (Chen et al. 2016): only the input of each block is kept for the backward
            pass, which computes the rest once more; a third more arithmetic for a fraction of the memory, the same
            result.
        compile: the blocks are compiled by ``torch.compile``, which needs a compiler and some time at the start. Meant
            for a GPU; on a CPU it is faster for texts of one length without dropout, and slower for all others.
        checkpoints: what is left on the disk.
    """

    steps: int = 1000
    batch_tokens: int = 4096
    accumulate: int = 1
    optimizer: Optimizer = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Cosine)
    average: Average = field(default_factory=NoAverage)
    clip_norm: float = 1.0
    evaluate_every: int = 250
    patience: int = 0
    precision: Precision = "float32"
    recompute: bool = False
    compile: bool = False
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch_tokens", "accumulate")
        check_not_negative(self, "clip_norm", "evaluate_every", "patience")
        counts = self.patience > 0 or isinstance(self.average, CheckpointAverage)
        what = "patience" if self.patience else "an average of checkpoints"
        check(self.evaluate_every > 0 or not counts, "evaluate_every", 0, f"1 or more, since {what} counts evaluations")
