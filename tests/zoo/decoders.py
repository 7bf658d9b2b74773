"""Decoders that see what comes after: masks, norms, mixings and routings that leak, and masks that hide too much."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Spec
from zoo.base import GPT, HEADS, VOCAB, WIDTH, Attention, Block, gpt_spec
from zoo.entry import Bug


class Unmasked(Attention):
    def allowed(self, queries: int, keys: int) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool)


class OneAhead(Attention):
    def allowed(self, queries: int, keys: int) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries + 1)


class NotItself(Attention):
    """tril(-1): the first query sees nothing, and with a finite fill everything."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        queries, keys = scores.shape[-2:]
        return scores.masked_fill(~torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries - 1), -1e9)


class TurnedRound(Attention):
    """The mask of what is hidden, given to a function that asks for what may be seen."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        hidden = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu()
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, attn_mask=hidden))), (k, v)


class TorchsOwn(nn.Module):
    """nn.MultiheadAttention with tril as its mask: there True is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        mask = torch.ones(x.size(1), x.size(1), dtype=torch.bool).tril(-1)
        return self.inner(x, x, x, attn_mask=mask, need_weights=False)[0], (x[:, None], x)


class TorchsForgotten(nn.Module):
    """nn.MultiheadAttention that was given no mask at all."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return self.inner(x, x, x, need_weights=False)[0], (x[:, None], x)


class AfterSoftmax(Attention):
    """What is hidden has its share of the sum all the same."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1).tril(scores.size(-1) - scores.size(-2))


class Multiplied(Attention):
    """Zeros for scores that are hidden: a zero is a score like any other."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores * torch.ones_like(scores).tril(scores.size(-1) - scores.size(-2))


class TinyFill(Attention):
    """1e-9 in place of -1e9."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores.masked_fill(~self.allowed(*scores.shape[-2:]), 1e-9)


class SmallFill(Attention):
    """-10 hides little."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores.masked_fill(~self.allowed(*scores.shape[-2:]), -10.0)


class GrownBelow(Attention):
    """-1e4 in a model whose scores have grown as large: minGPT's, after training."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 3e5

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(self.gain * q, k) - 9990.0

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores.masked_fill(~self.allowed(*scores.shape[-2:]), -1e4)


class InEvaluationAlone(Attention):
    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if self.training else super().masked(scores, keep)


class InTrainingAlone(Attention):
    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return super().masked(scores, keep) if self.training else scores


class WithDropoutAnother(Attention):
    """The branch for dropout was written later, and without the mask."""

    rate = 0.1

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        if self.training and self.rate > 0:
            weights = F.dropout(self.scores(q, k).softmax(-1), self.rate)
            return self.out(self.join(weights @ v)), (k, v)
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))), (k, v)


class FirstSixteen(Attention):
    """The mask was made for another length: beyond it everything is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(16, 16, dtype=torch.bool).tril(), persistent=False)

    def allowed(self, queries: int, keys: int) -> Tensor:
        if queries <= 16:
            return self.mask[:queries, :queries]
        return F.pad(self.mask, (0, keys - 16, 0, queries - 16), value=True)


class OnlyWithAnother(Attention):
    """The causal flag is looked at only where padding was masked as well."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if keep is None else super().masked(scores, keep)


class OverQueries(Attention):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-2)


class OverHeads(Attention):
    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores.masked_fill(~self.allowed(*scores.shape[-2:]), -1e9)

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(1)


class SoftmaxTwice(Attention):
    """The second softmax gives what the first one hid exp(0)."""

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1).softmax(-1)


class BestOfAll(Attention):
    """The best keys are chosen before the mask: which of the past are seen depends on the future."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        chosen = scores >= scores.topk(min(6, scores.size(-1)), -1).values[..., -1:]
        own = torch.eye(*scores.shape[-2:], dtype=torch.bool)
        return super().masked(scores, keep).masked_fill(~(chosen | own), -torch.inf)


class LastChunk(Attention):
    """Masked by blocks of eight: inside its own block a query sees the future."""

    def allowed(self, queries: int, keys: int) -> Tensor:
        return (torch.arange(queries)[:, None] // 8) >= (torch.arange(keys) // 8)


class LowRank(Attention):
    """Linformer's projection of all keys to eight, in a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.Parameter(torch.randn(8, 64) * 0.1)

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores

    def remembered(self, k: Tensor, v: Tensor, past: Any) -> tuple[Tensor, Tensor]:
        shrink = self.shrink[:, : k.size(2)]
        return shrink @ k, shrink @ v


class Summaries(Block):
    """The mean of a block of eight is added to all in it."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        chunks = x.split(8, 1)
        means = torch.cat([c.mean(1, keepdim=True).expand_as(c) for c in chunks], 1)
        return super().forward(x + 0.1 * means, keep, past)


class Centred(Block):
    """Every channel has its mean over the text taken off."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(x - x.mean(1, keepdim=True), keep, past)


class Convolved(Block):
    """A convolution that is padded on both sides."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(x + self.conv(x.transpose(1, 2)).transpose(1, 2), keep, past)


class Circular(Block):
    """A filter over time by a Fourier transform without zeros after the text: its end reaches its beginning."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.filter = nn.Parameter(torch.randn(WIDTH, 8) * 0.1)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        length = x.size(1)
        turned = torch.fft.rfft(x.transpose(1, 2), length) * torch.fft.rfft(self.filter, length)
        return super().forward(x + torch.fft.irfft(turned, length).transpose(1, 2), keep, past)


class ShiftedAhead(Block):
    """A token shift, as RWKV's, to the wrong side."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(x + 0.5 * F.pad(x, (0, 0, 0, 1))[:, 1:], keep, past)


class NormOverTime(Block):
    """Statistics over positions and channels."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(F.layer_norm(x, x.shape[1:]), keep, past)


class NormOfTime(Block):
    """An InstanceNorm: statistics of each channel over time."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.extra = nn.InstanceNorm1d(WIDTH, affine=True)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(self.extra(x.transpose(1, 2)).transpose(1, 2), keep, past)


class BatchNormed(Block):
    """In training mode every position's statistics are those of all positions and rows."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.extra = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(self.extra(x.transpose(1, 2)).transpose(1, 2), keep, past)


class ExpertsChoose(Block):
    """Each expert takes the tokens that fit it best, of the whole text."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.router = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(2))

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        x, cache = super().forward(x, keep, past)
        gates = self.router(x).softmax(-1)
        for i, expert in enumerate(self.experts):
            chosen = gates[..., i].topk(x.size(1) // 2, dim=1)
            index = chosen.indices[..., None].expand(-1, -1, x.size(-1))
            x = x.scatter_add(1, index, expert(x.gather(1, index)) * chosen.values[..., None])
        return x, cache


class Capacity(Block):
    """An expert has room for so many tokens of the batch, and takes the highest gates first."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.router, self.expert = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        x, cache = super().forward(x, keep, past)
        gate = self.router(x).softmax(-1)[..., 0]
        flat = gate.flatten()
        room = flat >= flat.topk(flat.numel() // 3).values[-1]
        return x + self.expert(x) * (gate * room.view_as(gate))[..., None], cache


class Reversed(GPT):
    """Read from the right, as for a bidirectional model, and not turned back."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        logits, cache = super().step(ids.flip(1), cache, keep)
        return logits.flip(1), cache


class LastToken(GPT):
    """A summary of the text, its last state, is added everywhere."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        x = self.embedded(ids)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x + x[:, -1:])), [(x[:, None], x)]


class PrefixSeen(Attention):
    """The first four positions see one another, and nobody declared it."""

    def allowed(self, queries: int, keys: int) -> Tensor:
        allowed = super().allowed(queries, keys).clone()
        allowed[:, :4] = True
        return allowed


class Window(Attention):
    """Sees the last ``width`` keys."""

    width = 8

    def allowed(self, queries: int, keys: int) -> Tensor:
        return super().allowed(queries, keys).triu(keys - queries - self.width + 1)


class WindowAhead(Attention):
    """The window stands around the query in place of before it."""

    def allowed(self, queries: int, keys: int) -> Tensor:
        return (torch.arange(queries)[:, None] - torch.arange(keys)).abs() < 8


class WindowWider(Window):
    width = 9


class WindowBeyond(Attention):
    """Additive windows multiplied by the triangle: Gemma-2's way, zeros where -inf should be."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        near = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(-7)
        bias = torch.zeros(scores.shape[-2:]).masked_fill(~(near & self.allowed(*scores.shape[-2:])), -1e9)
        return scores + bias.tril()


class StateBack(Block):
    """A recurrence over chunks of six whose states are summed over all chunks, not those before."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        sums = torch.stack([chunk.sum(1) for chunk in x.split(6, 1)], 1)
        states = sums.sum(1, keepdim=True) - sums
        each = torch.cat([states[:, i : i + 1].expand_as(c) for i, c in enumerate(x.split(6, 1))], 1)
        return super().forward(x + 0.05 * each, keep, past)


class QuietLeak(Attention):
    """Only one head of four forgets the mask."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return torch.cat([super().masked(scores[:, 1:], keep), scores[:, :1]], 1)


class NextEmbedded(GPT):
    """The embedding of the next token is added for an auxiliary head, and stayed."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return super().embedded(ids, start) + 0.01 * self.tokens(ids.roll(-1, 1))


def plain(**more: Any) -> Spec:
    """A decoder of which no cache is told."""
    return Spec(kind="decoder", **more)


LEAK = ("causal.prefix_invariance",)


def _leak(name: str, reference: str, build: Any, checks: tuple[str, ...] = LEAK) -> Bug:
    return Bug(name=name, reference=reference, family="decoder", checks=checks, build=build)


def bare_transformer() -> tuple[nn.Module, Spec]:
    """nn.TransformerEncoder as a decoder, without its mask."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(64, WIDTH)
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(WIDTH, VOCAB)
            nn.init.normal_(self.head.weight, std=0.02)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tokens(ids) * math.sqrt(WIDTH) + self.positions(torch.arange(ids.size(1)))
            return self.head(self.layers(x))

    return Decoder(), plain()


BUGS = (
    _leak("no causal mask", "#1 huggingface/transformers#48745", lambda: (GPT(Unmasked), gpt_spec())),
    _leak("no causal mask in the last layer", "#31673 Gemma-2", lambda: (GPT(Attention, Unmasked), gpt_spec())),
    _leak("no causal mask in one head of four", "#10", lambda: (GPT(Attention, QuietLeak), gpt_spec())),
    _leak("the mask is one off to the right: tril(1)", "#10", lambda: (GPT(OneAhead), gpt_spec())),
    _leak("the mask hides the query itself: tril(-1)", "#10", lambda: (GPT(NotItself), plain()), (*LEAK, "attn.mask")),
    _leak("the mask is of the wrong polarity", "#10 rasbt/LLMs-from-scratch#1061", lambda: (GPT(TurnedRound), plain())),
    _leak("nn.MultiheadAttention is given what may be seen", "#10 pytorch/pytorch#170400", lambda: (GPT(TorchsOwn), plain())),
    _leak("nn.MultiheadAttention is given no mask", "#14 pytorch/tutorials#719", lambda: (GPT(TorchsForgotten), plain())),
    _leak("nn.TransformerEncoder as a decoder without its mask", "#14 pytorch/pytorch#31567", bare_transformer),
    _leak("masked after the softmax", "#11 lucidrains/memory-compressed-attention#2", lambda: (GPT(AfterSoftmax), plain())),
    _leak("scores are multiplied by the mask", "#3 huggingface/transformers#31673", lambda: (GPT(Multiplied), plain())),
    _leak("the fill is 1e-9 in place of -1e9", "#4", lambda: (GPT(TinyFill), plain())),
    _leak("the fill is -10", "#4 karpathy/minGPT#75", lambda: (GPT(SmallFill), plain()), (*LEAK, "attn.mask")),
    _leak("scores have grown below the fill of -1e4", "#4 karpathy/minGPT#75", lambda: (GPT(GrownBelow), plain()), (*LEAK, "attn.mask")),
    _leak("masked in evaluation mode alone", "#2 keras-team/keras#23038", lambda: (GPT(InEvaluationAlone), plain())),
    _leak("masked in training mode alone", "#15 karpathy/nanoGPT#331", lambda: (GPT(InTrainingAlone), plain())),
    _leak("the branch with dropout has no mask", "#2 keras-team/keras#23038", lambda: (GPT(WithDropoutAnother, dropout=0.1), plain())),
    _leak("the mask was made for sixteen positions", "#5", lambda: (GPT(FirstSixteen), plain(max_length=64))),
    _leak("causal only where padding is masked as well", "#5 facebookresearch/xformers#103", lambda: (GPT(OnlyWithAnother), plain())),
    _leak("softmax over the queries", "#59 labmlai/annotated#146", lambda: (GPT(OverQueries), plain()), ("attn.softmax_axis",)),
    _leak("softmax over the heads", "#59", lambda: (GPT(OverHeads), plain()), ("attn.softmax_axis",)),
    _leak("softmax taken twice", "#11", lambda: (GPT(SoftmaxTwice), plain())),
    _leak("the best keys are chosen before the mask", "#12", lambda: (GPT(BestOfAll), plain())),
    _leak("blocks of eight see one another", "#6 karpathy/nanochat#844", lambda: (GPT(LastChunk), plain())),
    _leak("Linformer's projection in a decoder", "#8 tatp22/linformer-pytorch#25", lambda: (GPT(LowRank), plain())),
    _leak("means of blocks of eight", "#6 karpathy/nanochat#844", lambda: (GPT(block=Summaries), plain())),
    _leak("channels are centred over time", "#9", lambda: (GPT(block=Centred), plain())),
    _leak("a convolution padded on both sides", "#6", lambda: (GPT(block=Convolved), plain())),
    _leak("a circular filter", "#6 karpathy/nanochat#844", lambda: (GPT(block=Circular), plain())),
    _leak("a token shift to the wrong side", "#6", lambda: (GPT(block=ShiftedAhead), plain())),
    _leak("LayerNorm over positions and channels", "#9 deepmind/dm-haiku#700", lambda: (GPT(block=NormOverTime), plain())),
    _leak("InstanceNorm over time", "#9", lambda: (GPT(block=NormOfTime), plain())),
    _leak("BatchNorm in a decoder, in training", "#9", lambda: (GPT(block=BatchNormed), plain())),
    _leak("experts choose their tokens", "#12 OLMoE#46", lambda: (GPT(block=ExpertsChoose), plain())),
    _leak("an expert's room is given by rank in the batch", "#12", lambda: (GPT(block=Capacity), plain()), (*LEAK, "batch.independence")),
    _leak("read from the right", "#10", lambda: (Reversed(), plain())),
    _leak("the last state is added everywhere", "#6", lambda: (LastToken(), plain())),
    _leak("a prefix sees itself, undeclared", "#1", lambda: (GPT(PrefixSeen), plain())),
    _leak("a window around the query", "#29", lambda: (GPT(WindowAhead), plain(window=8))),
    _leak("a window one wider than declared", "#29 unslothai/unsloth#8253", lambda: (GPT(WindowWider), plain(window=8)), ("attn.mask", "influence.map")),
    _leak("the window is ignored", "#29 huggingface/transformers#40700", lambda: (GPT(), plain(window=8)), ("influence.map", "attn.mask")),
    _leak("the window is ignored in one layer", "#29", lambda: (GPT(Window, Attention), plain(window=8)), ("attn.mask", "influence.map")),
    _leak("a window added and multiplied by the triangle", "#3 huggingface/transformers#31673", lambda: (GPT(WindowBeyond), plain(window=8))),
    _leak("states of all chunks, not of those before", "#7 huggingface/transformers#47475", lambda: (GPT(block=StateBack), plain())),
    _leak("the next token's embedding is added", "#47", lambda: (NextEmbedded(), plain())),
)  # fmt: skip
