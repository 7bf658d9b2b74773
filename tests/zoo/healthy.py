"""Decoders that are right, and unusual in a legitimate way: attention, positions, caches."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Spec
from zoo.arithmetic import Noisy, NoSoftmax
from zoo.base import GPT, HEADS, WIDTH, Attention, Block, Rotary, angles, gpt_spec, rotated
from zoo.caches import Blind, InRoom, Padded, padded_spec
from zoo.decoders import PrefixSeen, Window
from zoo.entry import Healthy
from zoo.positions import Alibi, Buckets, Sinusoidal

PER_HEAD = WIDTH // HEADS


class ZeroOutputs(Block):
    """Both sub-layers begin at nothing, as in nanochat and many vision models."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        for layer in (self.attention.out, self.feed_forward[2]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class ZeroGPT(GPT):
    """Zeros after the drawing of all."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.feed_forward[2].weight)
        nn.init.zeros_(self.head.weight)


class Fill(Attention):
    """-1e9 where nothing may be seen."""

    fill = -1e9

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores.masked_fill(~self.allowed(*scores.shape[-2:]), self.fill)


class FillTenThousand(Fill):
    fill = -1e4


class FillLowest(Fill):
    fill = torch.finfo(torch.float32).min


class MaskedAgain(Attention):
    """Hidden before the softmax, and once more after it, so that a query that sees nothing gives no NaN."""

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1).masked_fill(scores == -torch.inf, 0.0)


class AddedTenThousand(Attention):
    """(1 - mask) · -10000 is added, as BERT's first code did."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores + (1.0 - self.allowed(*scores.shape[-2:]).float()) * -10000.0


class BufferMask(Attention):
    """GPT's own: a triangle in a buffer, cut to size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.ones(64, 64).tril().view(1, 1, 64, 64))

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        queries, keys = scores.shape[-2:]
        return scores.masked_fill(self.bias[:, :, keys - queries : keys, :keys] == 0, -torch.inf)


class LazyMask(Attention):
    """A mask that is made when first needed, and made anew for longer texts; no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.made = torch.zeros(0, 0)

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        queries, keys = scores.shape[-2:]
        if self.made.size(0) < keys:
            self.made = torch.full((keys, keys), -torch.inf).triu(1)
        return scores + self.made[keys - queries : keys, :keys].to(scores.dtype)


class LazyTable(Rotary):
    """Cosines and sines in attributes, made in the precision of what is read, as older Llamas did."""

    def __init__(self) -> None:
        super().__init__()
        self.table: tuple[Tensor, Tensor] | None = None
        self.cos: Tensor | None = None

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        if self.cos is None or self.cos.size(0) < start + q.size(2):
            angle = angles(start + q.size(2), q.size(3))
            self.cos, self.sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
        cos, sin = self.cos[start : start + q.size(2)], self.sin[start : start + q.size(2)]

        def turned(x: Tensor) -> Tensor:
            first, second = x.chunk(2, -1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

        return turned(q), turned(k), v


class Pairs(Rotary):
    """Neighbouring channels are rotated together."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = self.angles(q.size(2), q.size(3), start)

        def turned(x: Tensor) -> Tensor:
            even, odd = x[..., 0::2], x[..., 1::2]
            cos, sin = angle.cos(), angle.sin()
            return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)

        return turned(q), turned(k), v


class Partial(Rotary):
    """Half of a head's channels are rotated."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        half = q.size(-1) // 2
        angle = angles(q.size(2), half, start)
        q, k = (torch.cat([rotated(x[..., :half], angle), x[..., half:]], -1) for x in (q, k))
        return q, k, v


class LongBase(Rotary):
    """A base of half a million."""

    def angles(self, length: int, width: int, start: int) -> Tensor:
        return angles(length, width, start, 500_000.0)


class Complex(Rotary):
    """Llama's own: multiplied as complex numbers."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        turn = torch.polar(torch.ones(()), self.angles(q.size(2), q.size(3), start).float())

        def turned(x: Tensor) -> Tensor:
            pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
            return torch.view_as_real(pairs * turn).flatten(-2).type_as(x)

        return turned(q), turned(k), v


class Grouped(nn.Module):
    """Fewer heads of keys and values than of queries."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.q, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kv = nn.Linear(WIDTH, 2 * groups * PER_HEAD)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        rows, length, _ = x.shape
        q = self.q(x).view(rows, length, HEADS, PER_HEAD).transpose(1, 2)
        k, v = (part.view(rows, length, self.groups, PER_HEAD).transpose(1, 2) for part in self.kv(x).chunk(2, -1))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mask = torch.ones(length, k.size(2), dtype=torch.bool).tril(k.size(2) - length)
        each = [part.repeat_interleave(HEADS // self.groups, 1) for part in (k, v)]
        context = F.scaled_dot_product_attention(q, *each, attn_mask=mask)
        return self.out(context.transpose(1, 2).reshape(rows, length, WIDTH)), (k, v)


class Multi(Grouped):
    """All heads share keys and values."""

    def __init__(self) -> None:
        super().__init__(1)


class SharedKV(Attention):
    """Values are keys, on purpose: there is no third projection."""

    def __init__(self) -> None:
        super().__init__()
        self.v = self.k


class SoftCapped(Attention):
    """Gemma 2: scores are squashed to ±30."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return 30.0 * torch.tanh(super().scores(q, k) / 30.0)


class QKNormed(Rotary):
    """Queries and keys have norms of their own, of a head's width."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_q, self.norm_k = nn.RMSNorm(PER_HEAD), nn.RMSNorm(PER_HEAD)

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        return super().placed(self.norm_q(q), self.norm_k(k), v, start)


class Cosine(Attention):
    """Swin 2: cosines over a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.full((HEADS, 1, 1), math.log(10.0)))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return cosines * self.temperature.clamp(max=math.log(100.0)).exp()


class MuP(Attention):
    """1/d, not its root."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / q.size(-1)


class Unscaled(Attention):
    """T5: the initialisation makes up for the scale."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)


class Sinks(Attention):
    """GPT-OSS: a learned score of a key without value takes part in the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = nn.Parameter(torch.zeros(HEADS))

    def weights(self, scores: Tensor) -> Tensor:
        sink = self.sink.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]


class OffByOne(Attention):
    """Softmax with one added: weights may sum to less."""

    def weights(self, scores: Tensor) -> Tensor:
        largest = scores.amax(-1, keepdim=True).clamp(min=0)
        e = (scores - largest).exp()
        return e / (e.sum(-1, keepdim=True) + (-largest).exp())


class TalkingHeads(Attention):
    """Scores are mixed over the heads by a learned matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(HEADS) + 0.1 * torch.randn(HEADS, HEADS))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.einsum("bhts,hg->bgts", super().scores(q, k), self.mix)


class Differences(Attention):
    """One softmax less a share of another: the Differential Transformer."""

    def weights(self, scores: Tensor) -> Tensor:
        one, other = scores.softmax(-1).chunk(2, 1)
        return torch.cat([one - 0.3 * other, other - 0.3 * one], 1)


class Gated(Attention):
    """Each head's output is gated by what the query reads."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        out, cache = super().forward(x, keep, past)
        return out * self.gate(x).sigmoid(), cache


class Convolved(Attention):
    """A short causal convolution before the projections."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(x + self.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2), keep, past)


class ConvolvedRotary(Convolved, Rotary):
    """The same with rotary positions."""


class ShiftedTokens(Block):
    """RWKV's token shift: half of what was one step before."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(x + 0.5 * F.pad(x, (0, 0, 1, 0))[:, :-1], keep, past)


class LinearAttention(nn.Module):
    """elu + 1 features and running sums: no softmax anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in self.qkv(x).chunk(3, -1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        sums = torch.einsum("bthk,bthv->bthkv", k, v).cumsum(1)
        context = torch.einsum("bthk,bthkv->bthv", q, sums) / (q * k.cumsum(1)).sum(-1, keepdim=True)
        return self.out(context.flatten(2)), (x[:, None], x)


class ChunkedWindow(Window):
    """Declared: eight keys."""


class InRoomMasked(nn.Module):
    """A cache of a fixed length whose free slots are hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Attention()

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        a = self.inner
        q, k, v = (a.split(project(x)) for project in (a.q, a.k, a.v))
        room, at = (k.new_zeros(2, *k.shape[:2], 64, k.size(3)), 0) if past is None else past
        room = room.clone()
        end = at + k.size(2)
        room[0, :, :, at:end], room[1, :, :, at:end] = k, v
        hidden = torch.arange(64) > torch.arange(at, end)[:, None]
        weights = a.scores(q, room[0]).masked_fill(hidden, -torch.inf).softmax(-1)
        return a.out(a.join(weights @ room[1])), (room, end)


def poisoned(cache: Any) -> Any:
    found = []
    for room, at in cache:
        room = room.clone()
        room[..., at:, :] = 1e3
        found.append((room, at))
    return found


class Scaled(GPT):
    """Tokens are multiplied by √d, as in the paper and in Gemma."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) * math.sqrt(WIDTH) + self.positions(torch.arange(start, start + ids.size(1)))


def plain(**more: Any) -> Spec:
    return Spec(kind="decoder", **more)


def reordered(cache: Any, rows: Tensor) -> Any:
    return [(k[rows], v[rows]) for k, v in cache]


def _is(name: str, reference: str, build: Any, **more: Any) -> Healthy:
    return Healthy(name=name, reference=reference, family="decoder", build=build, **more)


def _rotary(kind: Any, **more: Any) -> Any:
    return lambda: (GPT(kind, learned=False), gpt_spec(**more))


HEALTHY = (
    _is("a plain decoder", "GPT-2", lambda: (GPT(), gpt_spec(reorder=reordered))),
    _is("a decoder of which nothing is said", "GPT-2", lambda: (GPT(), None)),
    _is("PyTorch's own initialisation", "nn.Linear", lambda: (GPT(std=None), plain())),
    _is("outputs that begin at zero", "nanochat", lambda: (ZeroGPT(), gpt_spec())),
    _is("sub-layers that begin at zero", "ReZero", lambda: (GPT(block=ZeroOutputs, std=None), gpt_spec())),
    _is("a mask of -1e9", "the annotated Transformer", lambda: (GPT(Fill), gpt_spec())),
    _is("a mask of -1e4 with room", "GPT-2", lambda: (GPT(FillTenThousand), gpt_spec())),
    _is("masked again after the softmax", "CPM-Ant", lambda: (GPT(MaskedAgain), gpt_spec())),
    _is("-1e4 added", "BERT", lambda: (GPT(AddedTenThousand), gpt_spec())),
    _is("a mask of the lowest number", "transformers", lambda: (GPT(FillLowest), gpt_spec())),
    _is("a triangle in a buffer", "minGPT", lambda: (GPT(BufferMask), gpt_spec())),
    _is("a mask made when needed", "fairseq", lambda: (GPT(LazyMask), gpt_spec())),
    _is("rotary tables in attributes", "Llama", _rotary(LazyTable)),
    _is("rotary halves", "GPT-NeoX", _rotary(Rotary, positions="rotary")),
    _is("rotary pairs", "GPT-J", _rotary(Pairs)),
    _is("rotary complex numbers", "Llama", _rotary(Complex)),
    _is("partial rotary", "Phi", _rotary(Partial)),
    _is("a rotary base of half a million", "Llama 3", _rotary(LongBase)),
    _is("rotary in one layer of two", "Cohere 2", lambda: (GPT(Rotary, Attention, learned=False), gpt_spec())),
    _is("rotary in the second layer alone", "SmolLM 3", lambda: (GPT(Attention, Rotary, learned=False), gpt_spec())),
    _is("ALiBi", "MPT", _rotary(Alibi, positions="alibi")),
    _is("a learned bias of distance", "T5", _rotary(Buckets)),
    _is("sinusoids", "Vaswani et al. 2017", lambda: (Sinusoidal(), gpt_spec())),
    _is("no positions", "Kazemnejad et al. 2023", lambda: (GPT(learned=False), gpt_spec(declare={"no_positions"}))),
    _is("no positions, undeclared", "Kazemnejad et al. 2023", lambda: (GPT(learned=False), gpt_spec())),
    _is("grouped keys", "Llama 2", lambda: (GPT(Grouped), gpt_spec())),
    _is("one head of keys", "PaLM", lambda: (GPT(Multi), gpt_spec())),
    _is("values that are keys", "Reformer", lambda: (GPT(SharedKV), gpt_spec(shared=("*.attention.[kv].*",)))),
    _is("a window in all layers", "Mistral", lambda: (GPT(ChunkedWindow), gpt_spec(window=8))),
    _is("a window in every second layer", "Gemma 2", lambda: (GPT(ChunkedWindow, Attention), gpt_spec(window=(8, 0)))),
    _is("a window, undeclared", "Mistral", lambda: (GPT(ChunkedWindow), gpt_spec())),
    _is("a prefix", "UniLM", lambda: (GPT(PrefixSeen), Spec(kind="prefix", prefix=4))),
    _is("scores with a cap", "Gemma 2", lambda: (GPT(SoftCapped), gpt_spec())),
    _is("norms of queries and keys", "Qwen 3", _rotary(QKNormed)),
    _is("cosines over a learned temperature", "Swin 2", lambda: (GPT(Cosine), gpt_spec())),
    _is("a scale of 1/d", "muP", lambda: (GPT(MuP), gpt_spec())),
    _is("no scale, declared", "T5", lambda: (GPT(Unscaled), gpt_spec(scale=1.0))),
    _is("attention sinks", "GPT-OSS", lambda: (GPT(Sinks), gpt_spec())),
    _is("softmax with one added", "Miller 2023", lambda: (GPT(OffByOne), gpt_spec(declare={"not_softmax"}))),
    _is("talking heads", "Shazeer et al. 2020", lambda: (GPT(TalkingHeads), gpt_spec())),
    _is("differences of softmaxes", "Ye et al. 2024", lambda: (GPT(Differences), gpt_spec())),
    _is("gated attention", "Qwen 3 Next", lambda: (GPT(Gated), gpt_spec())),
    _is("noise in evaluation mode, declared", "Noisy Top-K", lambda: (GPT(Noisy), gpt_spec(declare={"stochastic"}))),
    _is("linear attention", "Katharopoulos et al. 2020", lambda: (GPT(LinearAttention), plain())),
    _is("scores without a softmax, declared", "RetNet", lambda: (GPT(NoSoftmax), plain(declare={"not_softmax"}))),
    _is("a causal convolution in attention", "Primer", lambda: (GPT(Convolved, learned=False), plain())),
    _is("a causal convolution and rotary positions", "Canon layers", lambda: (GPT(ConvolvedRotary, learned=False), plain())),
    _is("a token shift", "RWKV", lambda: (GPT(block=ShiftedTokens, learned=False), plain())),
    _is("a cache of fixed length", "gpt-fast", lambda: (InRoom(InRoomMasked), gpt_spec(poison=poisoned))),
    _is("padded on the left", "generation in batches", lambda: (Padded(Blind), padded_spec(pad_sides=("left",)))),
    _is("embeddings times √d", "Gemma", lambda: (Scaled(), gpt_spec())),
    _is("dropout", "GPT-2", lambda: (GPT(dropout=0.2), gpt_spec())),
    _is("two tokens", "bits", lambda: (GPT(vocab=2), gpt_spec())),
    _is("five tokens", "DNA", lambda: (GPT(vocab=5), gpt_spec())),
    _is("one layer", "toy models", lambda: (GPT(layers=1), gpt_spec())),
    _is("four layers", "GPT-2", lambda: (GPT(Rotary, layers=4, learned=False), gpt_spec())),
    _is("as large as a small real one", "GPT-2", lambda: (GPT(layers=3, vocab=997), gpt_spec()), slow=True),
)  # fmt: skip
