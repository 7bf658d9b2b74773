"""What a Transformer can be made of: one frozen dataclass per choice, one union per question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pellucid.config.schema import check, check_fraction, check_positive
from pellucid.errors import ConfigError

# ---- where a token stands ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoPositions:
    """No position information besides the causal mask."""

    kind: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """Sines and cosines added to the embedding (Vaswani et al. 2017, §3.5).

    ``interleaved`` puts the sine and cosine of a frequency side by side, as the paper's formula does; otherwise all
    sines come first, as in tensor2tensor.
    """

    base: float = 10_000.0
    interleaved: bool = True

    def __post_init__(self) -> None:
        check_positive(self, "base")


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A trained vector per position, added to the embedding (Gehring et al. 2017); ``offset`` as in BART and OPT."""

    max_length: int
    offset: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "max_length")
        check(self.offset >= 0, "offset", self.offset, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Every rotary frequency divided by ``factor``: positions squeezed together (Chen et al. 2023)."""

    factor: float

    def __post_init__(self) -> None:
        check_positive(self, "factor")


@dataclass(frozen=True, kw_only=True)
class Llama3:
    """Low rotary frequencies divided by ``factor``, high ones kept, those between blended (Llama 3.1, its code).

    A frequency is low where its wave turns fewer than ``low`` times in ``original_length`` positions, the length
    trained first, and high where it turns more than ``high`` times.
    """

    kind: ClassVar[str] = "llama3"
    factor: float
    low: float
    high: float
    original_length: int

    def __post_init__(self) -> None:
        check_positive(self, "factor", "low", "original_length")
        check(self.high > self.low, "high", self.high, f"more than low ({self.low})")


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys turned by an angle that grows with the position (Su et al. 2021, eq. 15).

    ``interleaved`` turns neighbouring pairs, as the paper and GPT-J do; otherwise coordinate i is paired with
    i + head_dim/2, as in GPT-NeoX and Llama. ``fraction`` of the coordinates are turned, the rest left alone.
    ``scaling`` slows the frequencies down, for texts longer than those first trained on.
    """

    base: float = 10_000.0
    interleaved: bool = False
    fraction: float = 1.0
    scaling: Linear | Llama3 | None = None

    def __post_init__(self) -> None:
        check_positive(self, "base")
        check(0 < self.fraction <= 1, "fraction", self.fraction, "more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class ALiBi:
    """A penalty on the scores that grows with the distance, one slope per head (Press et al. 2022)."""

    kind: ClassVar[str] = "alibi"


@dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """A trained bias per head and bucket of distances, shared by all layers of a stack (Raffel et al. 2020, §2.1)."""

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        check(self.buckets >= 4 and self.buckets % 2 == 0, "buckets", self.buckets, "an even number of at least 4")
        check(
            self.max_distance > self.buckets, "max_distance", self.max_distance, f"more than buckets ({self.buckets})"
        )


Positions = NoPositions | Sinusoidal | Learned | Rotary | ALiBi | RelativeBias

# ---- the parts of a block ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """Centred and scaled to unit variance (Ba et al. 2016)."""

    epsilon: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        check_positive(self, "epsilon")


@dataclass(frozen=True, kw_only=True)
class RMSNorm:
    """Scaled to unit root mean square, not centred (Zhang & Sennrich 2019).

    ``plus_one`` stores the gain minus one, as Gemma does.
    """

    kind: ClassVar[str] = "rms_norm"
    epsilon: float = 1e-6
    plus_one: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "epsilon")


Norm = LayerNorm | RMSNorm

Placement = Literal["post", "pre", "both"]
Kernel = Literal["auto", "explicit", "blocked", "sdpa", "flex"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Multi-head attention; grouped-query with fewer ``num_kv_heads``, multi-query with one (Ainslie et al. 2023).

    Attributes:
        num_heads: H, the number of query heads.
        num_kv_heads: G, the number of key and value heads; H when left out.
        head_dim: K, the width of a head; d_model / H when left out.
        bias: biases on the query, key and value projections.
        key_bias: a bias on the key projection; as ``bias`` when left out. Without rotary positions, ``qk_norm`` and
            ``softcap`` it moves all scores of a query alike and changes nothing after the softmax: Whisper has none.
        out_bias: a bias on the output projection; as ``bias`` when left out.
        qk_norm: RMSNorm over each head of queries and keys (Henry et al. 2020), with the ε of the stack's norms.
        scale: what the products are multiplied by; 1/√K when left out (eq. 1 of the paper).
        softcap: scores are squashed to ±softcap by a tanh (Gemma 2).
        dropout: on the attention weights.
        kernel: how it is computed; ``auto`` takes whichever is the faster here.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    bias: bool = True
    key_bias: bool | None = None
    out_bias: bool | None = None
    qk_norm: bool = False
    scale: float | None = None
    softcap: float | None = None
    dropout: float = 0.0
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        check_positive(self, "num_heads", "num_kv_heads", "head_dim", "scale", "softcap")
        check_fraction(self, "dropout")
        groups = self.num_kv_heads or self.num_heads
        check(self.num_heads % groups == 0, "num_kv_heads", groups, f"a divisor of num_heads ({self.num_heads})")
        check(
            not (self.kernel == "sdpa" and self.softcap),
            "kernel",
            '"sdpa" together with a softcap',
            "a kernel that can squash scores: explicit, flex or auto",
        )


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """The position-wise network (§3.3 of the paper); ``gated`` multiplies by a second projection (Shazeer 2020)."""

    d_ff: int
    activation: Activation = "relu"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "d_ff")
        check_fraction(self, "dropout")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A tower of equal blocks.

    Attributes:
        placement: where the norms stand: ``post`` after the sum (2017), ``pre`` before the sub-layer, ``both`` before
            and after the sub-layer (Gemma 2).
        windows: how far each layer looks, cycled over the layers; 0 is everywhere. ``(4096, 0)`` alternates.
        dropout: on the output of each sub-layer, before the sum.
        final_norm: a norm after the last block; by default where the placement needs one (pre and both).
    """

    d_model: int
    num_layers: int
    attention: Attention
    feed_forward: FeedForward
    positions: Positions = field(default_factory=Sinusoidal)
    norm: Norm = field(default_factory=LayerNorm)
    placement: Placement = "post"
    windows: tuple[int, ...] = (0,)
    dropout: float = 0.0
    final_norm: bool | None = None

    def __post_init__(self) -> None:
        check_positive(self, "d_model", "num_layers")
        check_fraction(self, "dropout")
        heads = self.attention.num_heads
        if self.attention.head_dim is None and self.d_model % heads:
            low = self.d_model // heads * heads
            near = " and ".join(str(n) for n in (low, low + heads) if n)
            raise ConfigError(
                "d_model",
                f"found {self.d_model}",
                f"a multiple of attention.num_heads ({heads})",
                f"the nearest are {near}",
            )
        check(bool(self.windows) and min(self.windows) >= 0, "windows", self.windows, "one or more numbers, 0 or above")
        match self.positions:
            case Rotary(fraction=fraction):
                turned = int(self.head_dim * fraction)
                check(
                    turned % 2 == 0 and turned > 0,
                    "positions.fraction",
                    f"{turned} rotated of {self.head_dim}",
                    "an even number of coordinates",
                )
            case Sinusoidal():
                check(
                    self.d_model % 2 == 0,
                    "d_model",
                    self.d_model,
                    "an even number, since sines and cosines come in pairs",
                )

    @property
    def head_dim(self) -> int:
        """K, the width of one head."""
        return self.attention.head_dim or self.d_model // self.attention.num_heads

    @property
    def num_kv_heads(self) -> int:
        """G, the number of key and value heads."""
        return self.attention.num_kv_heads or self.attention.num_heads

    @property
    def has_final_norm(self) -> bool:
        """Whether a norm follows the last block."""
        return self.placement != "post" if self.final_norm is None else self.final_norm

    def window(self, layer: int) -> int | None:
        """How far layer number ``layer`` looks; ``None`` is everywhere."""
        return self.windows[layer % len(self.windows)] or None

    @property
    def max_length(self) -> int | None:
        """The longest sequence the positions can tell apart; ``None`` where there is no limit."""
        return self.positions.max_length if isinstance(self.positions, Learned) else None
