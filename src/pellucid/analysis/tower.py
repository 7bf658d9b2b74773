"""What one tower keeps of a forward pass for the backward pass, from what autograd saves of each operation.

Counted are bytes of distinct storages, as they lie in memory: a view keeps all of what it is a view of. Rows have no
padding. Norms and residuals are float32, products in the precision of :class:`Means`.

Letters: n vectors, D d_model, H query heads, G key/value heads, K head_dim, F d_ff, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pellucid.analysis.work import Work
from pellucid.config import model as config
from pellucid.config import parts

FULL, INDEX = 4, 8  # bytes of a float32 and of an int64

# Of nn.blocked and nn.kernels, which import torch; a test holds them together.
BLOCK, VECTOR, LONGEST_BLOCKED = 128, 16, 2048

Precision = Literal["float32", "bfloat16"]
Kernel = Literal["explicit", "blocked", "fused"]


@dataclass(frozen=True, kw_only=True)
class Means:
    """How a step is computed.

    Attributes:
        precision: of the products; bfloat16 is autocast.
        device: whose kernels are taken. On a CPU dropout keeps two bytes of a number, and RMSNorm its result.
        checkpointing: only the input of each block is kept, the rest is computed once more.
    """

    precision: Precision = "bfloat16"
    device: Literal["cpu", "cuda"] = "cuda"
    checkpointing: bool = False

    @property
    def product(self) -> int:
        """Bytes of a number that goes into a product."""
        return 2 if self.casts else FULL

    @property
    def casts(self) -> bool:
        """Whether products take copies of what they multiply."""
        return self.precision == "bfloat16"

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def mask(self) -> int:
        """Bytes that dropout keeps of a number."""
        return 2 if self.on_cpu else 1


@dataclass(frozen=True)
class Source:
    """What cross-attention reads: S positions, and the width E of their vectors."""

    length: int
    width: int


def towers_of(model: config.Model, work: Work, means: Means) -> list[TowerAtWork]:
    """The towers of a model, the encoder first."""
    match model:
        case config.EncoderDecoder(source=front, encoder=encoder, target=target, decoder=decoder):
            source = Source(work.source, encoder.d_model)
            return [
                TowerAtWork(encoder, front, work.rows, work.source, False, None, means),
                TowerAtWork(decoder, target, work.rows, work.tokens, True, source, means),
            ]
        case _:
            causal = isinstance(model, config.Decoder)
            return [TowerAtWork(model.stack, model.front, work.rows, work.tokens, causal, None, means)]


@dataclass(frozen=True)
class TowerAtWork:
    """A front and its blocks, with B rows of so many positions in front of them."""

    stack: parts.Stack
    front: config.Front
    rows: int
    length: int
    causal: bool
    source: Source | None
    means: Means

    @property
    def vectors(self) -> int:
        """n = B·T."""
        return self.rows * self.length

    @property
    def input(self) -> int:
        """What a block is given."""
        return self.vectors * self.stack.d_model * FULL

    # ---- outside the blocks --------------------------------------------------------------------

    def shared(self) -> int:
        """The front, what the positions of a pass are turned into, and a source projected for all blocks at once."""
        return self._front() + self._positions() + (0 if self.source is None else self._read(self.source))

    def _front(self) -> int:
        n, width, product = self.vectors, self.stack.d_model, self.means.product
        dropped = n * width * self.means.mask if self.front.dropout else 0
        match self.front:
            case config.Tokens(token_types=types, norm=norm):
                return dropped + bool(types) * n * INDEX + (self._norm(n, width) if norm else 0)
            case config.Patches(patch_size=size, channels=channels, class_token=class_token):
                return dropped + self.rows * (self.length - class_token) * channels * size**2 * product
            case config.Audio(mels=mels):  # both sides of the first activation, the input of the second
                frames = 2 * mels * product if self.means.casts else 0
                return dropped + n * (frames + 5 * width * product)

    def _positions(self) -> int:
        match self.stack.positions:
            case parts.Learned():
                return self.vectors * INDEX
            case parts.Rotary(fraction=fraction):
                return 2 * self.vectors * int(self.stack.head_dim * fraction) * FULL
            case _:
                return 0 if self.means.checkpointing else self._bias()

    def _bias(self) -> int:
        """Buckets of distances, and where the fused kernel is given a bias, the bias of all pairs."""
        pairs = self.rows * self.length**2
        learned = isinstance(self.stack.positions, parts.RelativeBias)
        if not learned and not isinstance(self.stack.positions, parts.ALiBi):
            return 0
        fused = self.kernel(self.length, own=True) == "fused"
        added = self.stack.attention.num_heads * self.means.product if fused else 0
        return pairs * (added + (INDEX + self.causal if learned else 0))

    def _read(self, source: Source) -> int:
        """The source itself, and its keys and values where somebody needs them as they were projected."""
        n, product, casts = self.rows * source.length, self.means.product, self.means.casts
        normed, held = self.stack.attention.qk_norm, self.means.checkpointing
        states, read = n * source.width * FULL, n * source.width * product
        if not self.joins_heads:  # each layer casts the source for itself
            return states if held or not casts else 0
        _, keys, values = self.widths
        viewed = held or self.kernel(source.length, own=False) == "fused" or (normed and not casts)
        layer = self._head_norms(keys, n) + (n * (keys + values) * product if viewed else 0)
        if held:  # blocks hold what they will be given once more
            read += states if casts else 0
            layer += n * keys * product if normed else 0
        return read + self.stack.num_layers * layer

    def final_norm(self) -> int:
        """The norm after the last block."""
        return self._norm(self.vectors, self.stack.d_model) if self.stack.has_final_norm else 0

    # ---- a block -------------------------------------------------------------------------------

    def block(self) -> int:
        """Everything one block keeps."""
        cross = 0 if self.source is None else self._residual() + self._cross_attention(self.source)
        own = self._residual() + self._self_attention() + (self._bias() if self.means.checkpointing else 0)
        return own + cross + self._residual() + self._feed_forward()

    def _residual(self) -> int:
        """The norms and the dropout of a sub-layer, and the input of its first product."""
        n, width = self.vectors, self.stack.d_model
        norms = 2 if self.stack.placement == "both" else 1
        mask = self.means.mask if self.stack.dropout else 0
        return norms * self._norm(n, width) + n * width * (mask + self.means.product)

    def _norm(self, n: int, width: int) -> int:
        return norm_keeps(self.stack.norm, n, width, self.means)

    def _feed_forward(self) -> int:
        inner, product = self.stack.feed_forward, self.means.product
        if inner.gated:  # gate and up in one storage, the activated gate, what goes down
            each = 4 * product
        elif inner.activation == "relu":  # its result, which without dropout is also what goes down
            each = product * (2 if inner.dropout else 1)
        else:
            each = 2 * product
        return self.vectors * inner.d_ff * (each + (self.means.mask if inner.dropout else 0))

    @property
    def joins_heads(self) -> bool:
        """Whether queries, keys and values are one product: they are if all or none have a bias."""
        attention = self.stack.attention
        return attention.key_bias in (None, attention.bias)

    @property
    def widths(self) -> tuple[int, int, int]:
        """H·K, G·K, G·K."""
        pair = self.stack.num_kv_heads * self.stack.head_dim
        return self.stack.attention.num_heads * self.stack.head_dim, pair, pair

    def _head_norms(self, width: int, n: int) -> int:
        """Norms over heads: scales, under autocast the float32 inputs, on a CPU the results before the gain."""
        if not self.stack.attention.qk_norm:
            return 0
        numbers = width * (self.means.casts + self.means.on_cpu)
        return n * (numbers + width // self.stack.head_dim) * FULL

    def _self_attention(self) -> int:
        n, product, casts = self.vectors, self.means.product, self.means.casts
        queries, keys, values = self.widths
        kernel, normed = self.kernel(self.length, own=True), self.stack.attention.qk_norm
        kept = self._head_norms(queries + keys, n)
        if kernel == "fused":  # keeps views: of what was projected, or of what was made of it
            turned = normed or isinstance(self.stack.positions, parts.Rotary)
            whole = self.joins_heads or not turned or (normed and not casts)
            kept += n * (queries + keys + values if whole else values) * product
            kept += n * (queries + keys) * product if turned else 0
            # Norms over heads leave queries in an order of their own, which the context has to be brought out of.
            kept += n * queries * product if normed else 0
        elif normed and not casts:
            kept += n * (queries + keys + (values if self.joins_heads else 0)) * product
        if not self.joins_heads and casts:  # each of the three casts its input
            kept += 2 * n * self.stack.d_model * product
        return kept + self._core(kernel, self.length, triangle=self.is_triangle)

    def _cross_attention(self, source: Source) -> int:
        n, read, product = self.vectors, self.rows * source.length, self.means.product
        casts, normed = self.means.casts, self.stack.attention.qk_norm
        queries, keys, values = self.widths
        kernel = self.kernel(source.length, own=False)
        kept = self._head_norms(queries, n) + (0 if self.joins_heads else self._head_norms(keys, read))
        if kernel == "fused" or (normed and not casts):
            apart = keys + values if kernel == "fused" else keys
            kept += n * queries * product + (0 if self.joins_heads else read * apart * product)
        if kernel == "fused" and normed:
            kept += ((1 if casts else 2) * n * queries + read * keys) * product
        if not self.joins_heads and casts:
            kept += 2 * read * source.width * product
        return kept + self._core(kernel, source.length, triangle=False)

    def _core(self, kernel: Kernel, keys: int, *, triangle: bool) -> int:
        """Of one attention: heads as the kernel keeps them, weights, and the context that goes out."""
        heads, product = self.stack.attention.num_heads, self.means.product
        width = heads * self.stack.head_dim
        context = self.vectors * width * product
        if kernel == "fused":  # with a mask of its own for the triangle alone
            hides = any(self.stack.windows) and keys == self.length and not triangle
            return context + self.vectors * (heads * FULL + (keys * product if hides else 0))
        filled = keys + (-keys % VECTOR if kernel == "blocked" and keys < 4 * VECTOR else 0)
        copies = (self.vectors + 2 * self.rows * filled) * width * product
        if kernel == "blocked":
            weights = blocked_pairs(self.length, filled, triangle) * product
        else:
            weights = self.length * keys * self._of_a_pair()
        return context + copies + self.rows * heads * weights

    def _of_a_pair(self) -> int:
        """Softcap, softmax and dropout of the explicit kernel. CUDA's autocast takes a softmax in float32."""
        settings, product = self.stack.attention, self.means.product
        softmax = product if self.means.on_cpu or not self.means.casts else FULL + product
        dropped = self.means.mask + product if settings.dropout else 0
        return softmax + dropped + (product if settings.softcap else 0)

    def kernel(self, keys: int, *, own: bool) -> Kernel:
        """Which kernel learns here; ``own`` keys have the bias of the positions."""
        settings, on_cpu = self.stack.attention, self.means.on_cpu
        learned = own and isinstance(self.stack.positions, parts.RelativeBias)
        kernel = settings.kernel
        if kernel == "auto":
            kernel = "explicit" if settings.softcap else "blocked" if on_cpu and keys <= LONGEST_BLOCKED else "sdpa"
        if kernel == "blocked" and not (settings.softcap or settings.dropout or learned):
            return "blocked"
        return "fused" if kernel == "sdpa" or (kernel == "flex" and not settings.dropout and not on_cpu) else "explicit"

    @property
    def is_triangle(self) -> bool:
        """Whether the future is hidden and nothing else."""
        biased = isinstance(self.stack.positions, parts.ALiBi | parts.RelativeBias)
        covered = all(not window or window >= self.length for window in self.stack.windows)
        return self.causal and not biased and covered

    # ---- on the way back -----------------------------------------------------------------------

    def working(self) -> int:
        """What a block works with on the way back: at the feed-forward, or at attention, when that has been let go."""
        heads, product = self.stack.attention.num_heads, self.means.product
        kernel = self.kernel(self.length, own=True)
        seen = {"explicit": self.length, "blocked": min(self.length, BLOCK), "fused": 0}[kernel] * self.length
        attention = 3 * self.vectors * self.widths[0] * product + 2 * self.rows * heads * seen * product
        return 2 * self.input + max(self._hidden(), attention - self._feed_forward() - self._residual())

    def held(self) -> int:
        """What is in hand at the end of a block that has just been computed, for the first time or once more."""
        pairs, heads, product = self.rows * self.length**2, self.stack.attention.num_heads, self.means.product
        biased = isinstance(self.stack.positions, parts.RelativeBias | parts.ALiBi)
        copied = self.causal or self.means.casts
        return 2 * self.input + self._hidden() + (pairs * heads * (FULL + copied * product) if biased else 0)

    def _hidden(self) -> int:
        inner = self.stack.feed_forward
        return self.vectors * inner.d_ff * (1 + inner.gated) * self.means.product

    def source_gradients(self) -> int:
        """Gradients of keys and values that wait for those of the other layers, to go back through one product."""
        if self.source is None or not self.joins_heads:
            return 0
        _, keys, values = self.widths
        return self.rows * self.source.length * self.stack.num_layers * (keys + values) * self.means.product


def blocked_pairs(queries: int, keys: int, triangle: bool) -> int:
    """Weights of one head that the blocked kernel keeps: under a triangle only up to the end of each block."""
    ends = [min(start + BLOCK, queries) for start in range(0, queries, BLOCK)]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return sum(size * (end if triangle and end < queries else keys) for size, end in zip(sizes, ends, strict=True))


def norm_keeps(norm: parts.Norm, n: int, width: int, means: Means) -> int:
    """The input, mean and scale; or the input, scale, and on a CPU the result before the gain."""
    match norm:
        case parts.LayerNorm():
            return n * (width + 2) * FULL
        case parts.RMSNorm():
            return n * ((1 + means.on_cpu) * width + 1) * FULL


# ---- without gradients -------------------------------------------------------------------------


def in_blocks(tower: TowerAtWork, size: int) -> int:
    """The most that blocks have in hand where nothing is kept, ``size`` bytes a number: attention or feed-forward."""
    n, inner, settings = tower.vectors, tower.stack.feed_forward, tower.stack.attention
    pairs, (queries, keys, values) = tower.rows * tower.length**2, tower.widths
    explicit = settings.kernel == "explicit" or settings.softcap is not None
    weights = pairs * settings.num_heads * (3 if settings.softcap else 2) * size if explicit else 0
    # The fused kernel copies a bias that lies in another order.
    copied = pairs * settings.num_heads * size if isinstance(tower.stack.positions, parts.RelativeBias) else 0
    heads = n * (2 * queries + keys + values) * size + (weights or copied)
    hidden = n * inner.d_ff * (4 if inner.gated else 2) * size
    return n * 3 * tower.stack.d_model * size + max(heads, hidden) + _given(tower, pairs, size)


def before_blocks(tower: TowerAtWork, size: int) -> int:
    """The most on the way to the first block: sines in double precision, or buckets of distances and their bias."""
    pairs, numbers = tower.rows * tower.length**2, tower.vectors * tower.stack.d_model
    match tower.stack.positions:
        case parts.Sinusoidal():  # angles, sines and cosines of half as many, both kinds side by side
            return numbers * (5 * FULL + 3 * size)
        case parts.RelativeBias():
            tables = 36 if tower.causal else 54  # bytes of a pair: whole numbers, and logarithms
            return numbers * size + pairs * (tables + tower.stack.attention.num_heads * size)
        case _:
            return numbers * size


def _given(tower: TowerAtWork, pairs: int, size: int) -> int:
    """What the positions are turned into for all blocks: angles, a bias, a mask."""
    match tower.stack.positions:
        case parts.RelativeBias():  # once more where the future is hidden in it
            return pairs * tower.stack.attention.num_heads * size * (1 + tower.causal)
        case parts.ALiBi():  # in float32, and in the precision of the scores
            again = tower.causal or size < FULL
            return pairs * tower.stack.attention.num_heads * (FULL + again * size)
        case positions:
            turned = int(tower.stack.head_dim * positions.fraction) if isinstance(positions, parts.Rotary) else 0
            hides = any(tower.stack.windows) and not tower.is_triangle
            return 2 * tower.vectors * turned * FULL + (pairs * (1 + size) if hides else 0)
