"""Attention that is computed wrongly: scales, heads, axes, weights."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Spec
from zoo.base import BERT, GPT, HEADS, WIDTH, Attention, Rotary, bert_spec
from zoo.entry import Bug


class NoScale(Attention):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)


class OfTheModel(Attention):
    """1/√d_model."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(self.q.out_features)


class Twice(Attention):
    """Queries are scaled, and the kernel scales again."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        q = q * q.size(-1) ** -0.5
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))), (k, v)


class TwiceInSteps(Attention):
    """Queries are scaled, and scores again."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        q = q / math.sqrt(q.size(-1))
        return q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))


class Inverse(Attention):
    """Multiplied by the root in place of divided."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) * math.sqrt(q.size(-1))


class OfHeads(Attention):
    """1/√heads."""

    def __init__(self) -> None:
        super().__init__(heads=2)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(self.heads)


class OfLength(Attention):
    """q.size(2) in place of q.size(3): 1/√T."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(q.size(2))


class Squared(Attention):
    """Divided by the width of a head and then by its root once more."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / q.size(-1) ** 1.5


class KernelUnscaled(Attention):
    """scale=1.0 of a layout that norms queries and keys, in one that does not."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0))), (k, v)


class Negative(Attention):
    """What fits least is seen most."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return -super().scores(q, k)


class ScaleAfter(Attention):
    """Weights are divided, not scores."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1) / math.sqrt(WIDTH // HEADS)


class SplitByView(Attention):
    """(B, T, D) viewed as (B, H, T, K)."""

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0), self.heads, x.size(1), -1)


class JoinByView(Attention):
    """(B, H, T, K) viewed as (B, T, D)."""

    def join(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0), x.size(2), -1)


class BothByView(Attention):
    """Wrong both ways: heads are then pieces of the text."""

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0), self.heads, x.size(1), -1)

    def join(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0), x.size(2), -1)


class HeadsAsBatch(Attention):
    """Folded with batches first, unfolded with heads first."""

    def split(self, x: Tensor) -> Tensor:
        return super().split(x).flatten(0, 1)[:, None]

    def join(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        return x.view(self.heads, -1, *x.shape[1:]).permute(1, 2, 0, 3).flatten(2)


class KeysTransposed(Attention):
    """k.reshape for k.transpose."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.reshape(*k.shape[:2], k.size(3), k.size(2)) / math.sqrt(q.size(-1))


class OverHeadsNotKeys(nn.Module):
    """(B, T, H, K): every token's heads attend to one another."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (part.view(*x.shape[:2], HEADS, -1) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).flatten(2)), (x[:, None], x)


class OverBatch(nn.Module):
    """nn.MultiheadAttention without batch_first: rows attend to one another."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return self.inner(x, x, x, need_weights=False)[0], (x[:, None], x)


class KeysAsValues(Attention):
    """weights @ k; values are projected and forgotten."""

    def mixed(self, weights: Tensor, v: Tensor) -> Tensor:
        return weights @ self.kept

    def remembered(self, k: Tensor, v: Tensor, past: Any) -> tuple[Tensor, Tensor]:
        self.kept = k
        return super().remembered(k, v, past)


class QueriesAsKeys(Attention):
    """q @ q.T; the projection of keys is not used."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ q.transpose(-2, -1) / math.sqrt(q.size(-1))


class WeightsNotApplied(Attention):
    """The mean of all values: weights are computed and dropped."""

    def mixed(self, weights: Tensor, v: Tensor) -> Tensor:
        return (weights > 0).to(v) @ v / (weights > 0).sum(-1, keepdim=True)


class NoSoftmax(Attention):
    """Scores are taken for weights."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores.tril(scores.size(-1) - scores.size(-2))

    def weights(self, scores: Tensor) -> Tensor:
        return scores


class SumsToLess(Attention):
    """Dropped by hand, and never scaled back: in evaluation mode as well."""

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1) * 0.9


class AlwaysDropping(Attention):
    """F.dropout without training=self.training."""

    def weights(self, scores: Tensor) -> Tensor:
        return F.dropout(scores.softmax(-1), 0.1)


class KernelDropping(Attention):
    """scaled_dot_product_attention drops in evaluation mode too."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1)
        return self.out(self.join(context)), (k, v)


class Noisy(Attention):
    """Noise for exploration stayed in."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        scores = super().scores(q, k)
        return scores + 0.01 * torch.randn_like(scores)


class AnotherInTraining(Attention):
    """The path that training takes lacks the scale."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(q, k) * (math.sqrt(q.size(-1)) if self.training else 1.0)


class OnlyOwn(Attention):
    """The window is one: nobody sees anything but itself."""

    def allowed(self, queries: int, keys: int) -> Tensor:
        return torch.eye(queries, keys, dtype=torch.bool)


class FirstAlone(Attention):
    """A mask meant for padding hides all but the first key."""

    def allowed(self, queries: int, keys: int) -> Tensor:
        allowed = torch.zeros(queries, keys, dtype=torch.bool)
        allowed[:, 0] = True
        return allowed


class ReadsBlind(Attention):
    """(T, T) where (T, S) was meant: a decoder that hides the text's second half."""

    def allowed(self, queries: int, keys: int) -> Tensor:
        allowed = super().allowed(queries, keys).clone()
        allowed[:, keys // 2 :] &= torch.eye(queries, keys, dtype=torch.bool)[:, keys // 2 :]
        return allowed


class GroupedWrongly(nn.Module):
    """Two heads of keys for four of queries, repeated over the text and not over the heads."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        rows, length, _ = x.shape
        q = self.q(x).view(rows, length, HEADS, -1).transpose(1, 2)
        k, v = (part.reshape(rows, length, 2, -1) for part in self.kv(x).chunk(2, -1))
        k, v = (part.repeat_interleave(2, 1).reshape(rows, HEADS, length, -1) for part in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)), (k, v)


class OverQueries(Attention):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-2)


class SoftmaxTwice(Attention):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1).softmax(-1)


class OverRows(Attention):
    """F.softmax(scores, dim=0)."""

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(0)


class Logarithms(Attention):
    """F.log_softmax for F.softmax."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores.masked_fill(~self.allowed(*scores.shape[-2:]), -30.0)

    def weights(self, scores: Tensor) -> Tensor:
        return scores.log_softmax(-1)


class Fused(Attention):
    """One projection for queries, keys and values, of which the keys are taken for values."""

    def __init__(self) -> None:
        super().__init__()
        del self.q, self.k, self.v
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, _ = (self.split(part) for part in self.qkv(x).chunk(3, -1))
        return self.out(self.join(F.scaled_dot_product_attention(q, k, k, is_causal=True))), (k, k)


class RotaryByView(Rotary):
    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.size(0), self.heads, x.size(1), -1)


def plain(**more: Any) -> Spec:
    return Spec(kind="decoder", **more)


SCALE, SPLIT, AXIS = ("attn.scale",), ("prefix.length_invariance",), ("attn.softmax_axis",)
DROP = ("eval.deterministic",)


def _bug(name: str, reference: str, build: Any, checks: tuple[str, ...], family: Any = "decoder", **more: Any) -> Bug:
    return Bug(name=name, reference=reference, family=family, checks=checks, build=build, **more)


BUGS = (
    _bug("scores are not scaled", "#60 mlc-ai/mlc-llm#3426", lambda: (GPT(NoScale), plain()), SCALE),
    _bug("scores are not scaled in one layer", "#60", lambda: (GPT(Attention, NoScale), plain()), SCALE),
    _bug("scaled by the width of the model", "#61 omihub777/ViT-CIFAR#12", lambda: (GPT(OfTheModel), plain()), SCALE),
    _bug("scaled before the kernel and by it", "#60", lambda: (GPT(Twice), plain()), SCALE),
    _bug("scaled twice in steps", "#60", lambda: (GPT(TwiceInSteps), plain()), SCALE),
    _bug("multiplied by the root", "#60", lambda: (GPT(Inverse), plain()), SCALE),
    _bug("scaled by the number of heads", "#61", lambda: (GPT(OfHeads), plain()), SCALE),
    _bug("scaled by the length of the text", "#61", lambda: (GPT(OfLength), plain()), SCALE),
    _bug("scaled by the third power of the root", "#60", lambda: (GPT(Squared), plain()), SCALE),
    _bug("a kernel is told scale=1", "#62 huggingface/transformers#45676", lambda: (GPT(KernelUnscaled), plain()), SCALE),
    _bug("scores of the wrong sign", "#60", lambda: (GPT(Negative), plain()), SCALE),
    _bug("weights are scaled and scores are not", "#60", lambda: (GPT(ScaleAfter), plain()), (*SCALE, *AXIS)),
    _bug("another scale than declared", "#60", lambda: (GPT(), plain(scale=1.0)), SCALE),
    _bug("an encoder's scores are not scaled", "#60", lambda: (BERT(NoScale), bert_spec()), SCALE, "encoder"),
    _bug("an encoder's scale is that of the model", "#61 FrancescoSaverioZuppichini/ViT#1", lambda: (BERT(OfTheModel), bert_spec()), SCALE, "encoder"),
    _bug("heads are split without a transpose", "#58 jsbaan/transformer-from-scratch#6", lambda: (GPT(SplitByView), plain()), (*SPLIT, "causal.prefix_invariance")),
    _bug("heads are joined without a transpose", "#58 ajhalthor/Transformer-Neural-Network#4", lambda: (GPT(JoinByView), plain()), (*SPLIT, "causal.prefix_invariance")),
    _bug("heads are split and joined without a transpose", "#58 ajhalthor#8", lambda: (GPT(BothByView), plain()), (*SPLIT, "causal.prefix_invariance")),
    _bug("heads are unfolded in another order", "#22 lsdefine#36", lambda: (GPT(HeadsAsBatch), plain()), ("batch.independence",)),
    _bug("keys are reshaped and not transposed", "#58", lambda: (GPT(KeysTransposed), plain()), (*SPLIT, "causal.prefix_invariance")),
    _bug("heads attend to one another", "#58", lambda: (GPT(OverHeadsNotKeys), plain()), ("influence.map",)),
    _bug("rows attend to one another", "#18 batch_first", lambda: (GPT(OverBatch), plain()), ("batch.independence",)),
    _bug("an encoder's rows attend to one another", "#18 batch_first", lambda: (BERT(OverBatch), bert_spec(masked=False)), ("batch.independence",), "encoder"),
    _bug("softmax over the rows of the batch", "#59", lambda: (GPT(OverRows), plain()), AXIS),
    _bug("log_softmax for softmax", "#59", lambda: (GPT(Logarithms), plain()), AXIS),
    _bug("a fused projection's keys are taken for values", "#64", lambda: (GPT(Fused), plain()), ("params.coverage",), level="standard"),
    _bug("keys are taken for values", "#64", lambda: (GPT(KeysAsValues), plain()), ("params.coverage",), level="standard"),
    _bug("queries are taken for keys", "#64", lambda: (GPT(QueriesAsKeys), plain()), ("params.coverage",), level="standard"),
    _bug("weights are computed and not applied", "#64", lambda: (GPT(WeightsNotApplied), plain()), ("params.coverage",), level="standard"),
    _bug("no softmax", "#59", lambda: (GPT(NoSoftmax), plain()), AXIS),
    _bug("weights that sum to nine tenths", "#63", lambda: (GPT(SumsToLess), plain()), AXIS),
    _bug("dropout in evaluation mode", "#63 karpathy/nanoGPT#240", lambda: (GPT(AlwaysDropping), plain()), DROP),
    _bug("the kernel's dropout in evaluation mode", "#63 huggingface/pytorch-image-models#1978", lambda: (GPT(KernelDropping), plain()), DROP),
    _bug("noise in evaluation mode", "#63", lambda: (GPT(Noisy), plain()), DROP),
    _bug("another scale in training", "#15 karpathy/nanoGPT#331", lambda: (GPT(AnotherInTraining), plain()), ("backend.parity",), level="standard"),
    _bug("nobody sees anything but itself", "#29", lambda: (GPT(OnlyOwn), plain()), ("influence.map", "attn.mask")),
    _bug("nobody sees anything but the first", "#21", lambda: (GPT(FirstAlone), plain()), ("attn.mask", "influence.map")),
    _bug("the second half of the text is hidden", "#24", lambda: (GPT(ReadsBlind), plain()), ("prefix.length_invariance", "attn.mask")),
    _bug("shared keys are repeated over the text", "#58", lambda: (GPT(GroupedWrongly), plain()), (*SPLIT, "causal.prefix_invariance")),
    _bug("an encoder's softmax is over the queries", "#59 jadore801120#52", lambda: (BERT(OverQueries), bert_spec()), AXIS, "encoder"),
    _bug("an encoder's softmax is taken twice", "#11", lambda: (BERT(SoftmaxTwice), bert_spec()), AXIS, "encoder"),
    _bug("rotary heads are split without a transpose", "#58", lambda: (GPT(RotaryByView, learned=False), plain()), (*SPLIT, "causal.prefix_invariance")),
    _bug("an encoder's heads are joined without a transpose", "#58 FuxiCTR#30", lambda: (BERT(JoinByView), bert_spec()), ("pad.invariance", "attn.heads"), "encoder"),
    _bug("an encoder's heads are split without a transpose", "#58 649453932#10", lambda: (BERT(SplitByView), bert_spec()), ("pad.invariance", "attn.heads"), "encoder"),
)  # fmt: skip
