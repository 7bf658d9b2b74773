"""Encoders: padding that matters, masks that hide the wrong thing, poolings that count too much."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Spec
from zoo.base import BERT, HEADS, VOCAB, WIDTH, Attention, Block, Classifier, bert_spec
from zoo.entry import Bug


class Ignored(Attention):
    """The mask is taken, and not used."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores


class TurnedRound(Attention):
    """True was meant to hide."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if keep is None else scores.masked_fill(keep[:, None, None], -1e9)


class OfQueries(Attention):
    """unsqueeze(1).unsqueeze(3): queries of padding see nothing, and keys of padding are seen."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if keep is None else scores.masked_fill(~keep[:, None, :, None], -1e9)


class AfterSoftmax(Attention):
    """Weights of padding are set to zero and the others not scaled up."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        self.keep = keep
        return super().forward(x, None, past)

    def weights(self, scores: Tensor) -> Tensor:
        weights = scores.softmax(-1)
        return weights if self.keep is None else weights * self.keep[:, None, None]


class Added(Attention):
    """Ones and zeros are added: real tokens are liked a little more."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if keep is None else scores + keep[:, None, None]


class Multiplied(Attention):
    """Scores of padding become zero, not small."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if keep is None else scores * keep[:, None, None]


class SmallFill(Attention):
    """-5 hides little."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if keep is None else scores.masked_fill(~keep[:, None, None], -5.0)


class OfFirstRow(Attention):
    """Every row has the mask of the first."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return scores if keep is None else scores.masked_fill(~keep[:1, None, None], -torch.inf)


class FoldedWrongly(Attention):
    """Heads are folded into the batch, and masks repeated in the other order."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        if keep is None:
            return scores
        rows, heads = scores.shape[:2]
        folded = keep.repeat(heads, 1)[:, None]  # (H·B, 1, S), where scores are (B·H, T, S)
        return scores.reshape(rows * heads, *scores.shape[2:]).masked_fill(~folded, -1e9).view_as(scores)


class OfFirstBatch(Attention):
    """A mask is kept for all batches of its shape."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.kept: dict[Any, Tensor] = {}

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        return super().masked(scores, None if keep is None else self.kept.setdefault(keep.shape, keep))


class InFirstLayer(BERT):
    """Only the first layer is given the mask."""

    def encoded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        x = self.embedded(ids, keep)
        for i, layer in enumerate(self.layers):
            x, _ = layer(x, keep if i == 0 else None)
        return self.norm(x)


class TokensZeroed(BERT):
    """Padding is made zero at the input, and attended to."""

    def encoded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        x = self.embedded(ids, keep)
        x = x if keep is None else x * keep[..., None]
        for layer in self.layers:
            x, _ = layer(x)
        return self.norm(x)


class NormOverTime(Block):
    """Statistics over positions, those of padding included."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(F.layer_norm(x, x.shape[1:]), keep, past)


class BatchStatistics(Block):
    """A BatchNorm that keeps no statistics, and takes those of the batch in evaluation mode."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.extra = nn.BatchNorm1d(WIDTH, track_running_stats=False)

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(self.extra(x.transpose(1, 2)).transpose(1, 2), keep, past)


class AcrossRows(Block):
    """The mean over the batch is taken off."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        return super().forward(x - 0.1 * x.mean(0, keepdim=True), keep, past)


class Causal(Attention):
    """The mask of a decoder stayed in."""

    def __init__(self, **more: Any) -> None:
        super().__init__(causal=True)


class CausalKernel(Attention):
    """is_causal=True stayed in."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))), (k, v)


class WindowUndeclared(Attention):
    """Sees four to both sides where eight were declared."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        apart = torch.arange(scores.size(-2))[:, None] - torch.arange(scores.size(-1))
        return super().masked(scores.masked_fill(apart.abs() >= 12, -torch.inf), keep)


class NotItself(Attention):
    """A position is hidden from itself."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        own = torch.eye(scores.size(-2), scores.size(-1), dtype=torch.bool)
        return super().masked(scores.masked_fill(own, -torch.inf), keep)


class NoMixing(Attention):
    """A padding mask broadcast over queries and keys lets each see itself alone."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        own = torch.eye(scores.size(-2), scores.size(-1), dtype=torch.bool)
        return scores.masked_fill(~own, -torch.inf)


class MeanOverAll(Classifier):
    """The mean counts padding."""

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return x.mean(1)


class MeanOverLength(Classifier):
    """Padding is left out of the sum and not of the count."""

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return x.mean(1) if keep is None else (x * keep[..., None]).mean(1)


class MaxOverAll(Classifier):
    """The largest of each channel may be that of padding."""

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return x.amax(1)


class LastOfAll(Classifier):
    """The last position, which may be padding."""

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return x[:, -1]


class MeanOfBatch(Classifier):
    """Divided by the number of real tokens in the whole batch."""

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        if keep is None:
            return x.sum(1) / x.size(1)
        return (x * keep[..., None]).sum(1) / keep.sum() * keep.size(0)


class PooledOverRows(Classifier):
    """softmax(0): the weights of attention pooling are taken over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        scores = self.score(x)
        scores = scores if keep is None else scores.masked_fill(~keep[..., None], -1e9)
        return (scores.softmax(0) * x).sum(1)


class BagOfWords(Classifier):
    """A classifier that is told no order."""

    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        return self.tokens(ids)


class Dropping(Classifier):
    """Dropout before the classifier does not ask for the mode."""

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return F.dropout(super().pooled(x, keep), 0.1)


class NaNOfEmpty(Attention):
    """One row of padding alone makes NaN, and a norm over the batch spreads it."""

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        out, cache = super().forward(x, keep, past)
        return out - 0.0 * out.mean(0, keepdim=True), cache


class Torchs(nn.Module):
    """nn.TransformerEncoder, whose ``src_key_padding_mask`` is given what is real."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(64, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        return self.head(self.encoder(x, src_key_padding_mask=attention_mask))


class TorchsOverRows(Torchs):
    """Without batch_first."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        return self.head(self.encoder(x))


class TorchsCausal(Torchs):
    """With the square mask of the tutorial on language models."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        return self.head(self.encoder(x, mask=mask))


class LengthScaled(BERT):
    """Tokens are divided by the root of the length, padding included."""

    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        return super().embedded(ids, keep) / ids.size(1) ** 0.5 + self.positions(torch.arange(ids.size(1)))


class PadEmbedded(BERT):
    """A count of padding is added to every token: a length that is none of the text's."""

    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        x = super().embedded(ids, keep)
        return x if keep is None else x + 0.05 * (~keep).sum(1)[:, None, None] * self.positions.weight[1]


def told(**more: Any) -> Spec:
    """The user says how the mask is given."""
    return bert_spec(masked=True, call=lambda model, batch: model(batch.ids, batch.keep), **more)


PAD, BATCH, SEES = ("pad.invariance",), ("batch.independence",), ("attn.mask", "influence.map")


def _bug(name: str, reference: str, build: Any, checks: tuple[str, ...] = PAD, **more: Any) -> Bug:
    return Bug(name=name, reference=reference, family="encoder", checks=checks, build=build, **more)


BUGS = (
    _bug("the padding mask is ignored", "#18", lambda: (BERT(Ignored), told())),
    _bug("the padding mask is turned round", "#10 TransformerEngine#614", lambda: (BERT(TurnedRound), told())),
    _bug("the padding mask is that of queries", "#21 hyunwoongko/transformer#40", lambda: (BERT(OfQueries), told())),
    _bug("padding is hidden after the softmax", "#11", lambda: (BERT(AfterSoftmax), told())),
    _bug("the padding mask is added as ones and zeros", "#21", lambda: (BERT(Added), told())),
    _bug("scores are multiplied by the padding mask", "#3", lambda: (BERT(Multiplied), told())),
    _bug("padding is hidden by -5", "#4", lambda: (BERT(SmallFill), told())),
    _bug("every row has the first row's mask", "#22", lambda: (BERT(OfFirstRow), told())),
    _bug("masks are repeated in another order than heads", "#22 lsdefine/attention-is-all-you-need-keras#36", lambda: (BERT(FoldedWrongly), told())),
    _bug("the first batch's mask is kept", "#22", lambda: (BERT(OfFirstBatch), told()), ("forward.stateless", *PAD)),
    _bug("only the first layer masks padding", "#18", lambda: (InFirstLayer(), told())),
    _bug("one of two layers masks padding", "#18", lambda: (BERT(Attention, Ignored), told())),
    _bug("padding is zeroed and seen", "#18", lambda: (TokensZeroed(), told())),
    _bug("a norm counts padding", "#9", lambda: (BERT(block=NormOverTime), told())),
    _bug("tokens are scaled by the padded length", "#17", lambda: (LengthScaled(), told())),
    _bug("the amount of padding is added", "#27", lambda: (PadEmbedded(), told())),
    _bug("statistics of the batch in evaluation mode", "#9", lambda: (BERT(block=BatchStatistics), bert_spec()), BATCH),
    _bug("the mean over the batch is taken off", "#22", lambda: (BERT(block=AcrossRows), bert_spec()), BATCH),
    _bug("an encoder with a causal mask", "#24", lambda: (BERT(Causal), bert_spec()), SEES),
    _bug("an encoder with is_causal", "#39", lambda: (BERT(CausalKernel), bert_spec(masked=False)), SEES),
    _bug("an encoder whose window is wider than declared", "#29", lambda: (BERT(WindowUndeclared), told(window=8)), SEES),
    _bug("an encoder's positions are hidden from themselves", "#10", lambda: (BERT(NotItself), told()), SEES),
    _bug("an encoder's positions see themselves alone", "#21", lambda: (BERT(NoMixing), told()), SEES),
    _bug("mean pooling over padding", "#27 huggingface/transformers#17463", lambda: (MeanOverAll(), told())),
    _bug("mean pooling divides by the padded length", "#27 LightRAG#3675", lambda: (MeanOverLength(), told())),
    _bug("max pooling over padding", "#27", lambda: (MaxOverAll(), told())),
    _bug("the last position is pooled", "#27 UER-py#190", lambda: (LastOfAll(), told())),
    _bug("pooling divides by the whole batch's tokens", "#27", lambda: (MeanOfBatch(), told()), (*PAD, *BATCH)),
    _bug("pooling weights over the batch", "#59", lambda: (PooledOverRows(), told()), BATCH),
    _bug("a classifier without order", "#33", lambda: (BagOfWords(), told()), ("pos.present",)),
    _bug("a classifier's dropout in evaluation mode", "#63", lambda: (Dropping(), told()), ("eval.deterministic",)),
    _bug("a row of padding makes NaN in others", "#20 pytorch/pytorch#24816", lambda: (BERT(NaNOfEmpty), told())),
    _bug("nn.TransformerEncoder is given what is real as what is padding", "#10", lambda: (Torchs(), told())),
    _bug("nn.TransformerEncoder without batch_first", "#18", lambda: (TorchsOverRows(), bert_spec()), BATCH),
    _bug("nn.TransformerEncoder with a causal mask", "#24", lambda: (TorchsCausal(), bert_spec()), SEES),
)  # fmt: skip
