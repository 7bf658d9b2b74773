"""Faults of encoder–decoders: what the decoder may see of the source, of itself, and what of both is kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Spec
from zoo.entry import Bug
from zoo.translator import (
    EOS,
    PAD,
    VOCAB,
    Cache,
    DecoderLayer,
    EncoderLayer,
    Translator,
    asked,
    built,
    shifted,
)


class CrossMaskOfTarget(Translator):
    def memory_mask(self, source_keep: Any, keep: Any, ids: Tensor, size: int) -> Tensor | None:
        keep = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep
        return F.pad(keep, (0, max(0, size - keep.size(1))), value=True)[:, None, None, :size]


class CausalCrossMask(Translator):
    def memory_mask(self, source_keep: Any, keep: Any, ids: Tensor, size: int) -> Tensor | None:
        return torch.ones(ids.size(1), size, dtype=torch.bool).tril()


class NoMemoryMask(Translator):
    def memory_mask(self, *_: Any) -> None:
        return None


class CrossReadsItself(DecoderLayer):
    def cross(self, y: Tensor, keys: Any, allowed: Any) -> Tensor:
        past = torch.ones(y.size(1), y.size(1), dtype=torch.bool).tril()
        return self.cross_attention(y, self.cross_attention.keys(y), past)


class CrossIgnored(DecoderLayer):
    def forward(self, x: Tensor, keys: Any, allowed: Any, memory: Any, visible: Any) -> Tensor:
        x = x + self.self_attention(self.norm1(x), keys, allowed)
        self.cross(self.norm2(x), memory, visible)
        return x + self.feed_forward(self.norm3(x))


class ReadsItself(Translator):
    decoder_layer = CrossReadsItself


class IgnoresCross(Translator):
    decoder_layer = CrossIgnored


class SourceCut(Translator):
    """Both are cut to one length, as a loader of parallel text does."""

    def memory(self, source: Tensor, ids: Tensor, keep: Tensor | None) -> Tensor:
        size = ids.size(1)
        return self.encode(source[:, :size], None if keep is None else keep[:, :size])

    def forward(self, source: Tensor, ids: Tensor, source_keep: Any = None, keep: Any = None) -> Tensor:
        memory = self.memory(source, ids, source_keep)
        return self.decode(
            ids, self.start(memory, None if source_keep is None else source_keep[:, : ids.size(1)]), keep
        )


class EncodesTarget(Translator):
    def memory(self, source: Tensor, ids: Tensor, keep: Tensor | None) -> Tensor:
        return self.encode(ids, None)

    def memory_mask(self, *_: Any) -> None:
        return None


class NoCausalMask(Translator):
    def target_mask(self, queries: int, keys: int, keep: Any) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool)


class PaddingMaskInPlaceOfCausal(Translator):
    def target_mask(self, queries: int, keys: int, keep: Any) -> Tensor:
        return super().target_mask(queries, keys, None) if keep is None else keep[:, None, None, :]


class TopLeftCausal(Translator):
    def target_mask(self, queries: int, keys: int, keep: Any) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool).tril()


class FirstRowsMemory(Translator):
    """The cache keeps the keys of one source for the whole batch."""

    def step(self, batch: Batch, cache: Cache | None) -> tuple[Tensor, Cache]:
        if cache is None:
            found, cache = super().step(batch, None)
            cache.cross = [(k[:1].expand_as(k), v[:1].expand_as(v)) for k, v in cache.cross]
            return found, cache
        return super().step(batch, cache)


class StepForgetsSourceMask(Translator):
    def step(self, batch: Batch, cache: Cache | None) -> tuple[Tensor, Cache]:
        found, cache = super().step(batch, cache)
        cache.source_keep = None
        return found, cache


class PositionsRestart(Translator):
    def embed(self, ids: Tensor, first: int) -> Tensor:
        return super().embed(ids, 0)


class ReorderForgetsMemory(Translator):
    def reorder(self, cache: Cache, rows: Tensor) -> Cache:
        return Cache(cache.source_keep, cache.cross, super().reorder(cache, rows).past, cache.length)


class ReorderKeepsValues(Translator):
    def reorder(self, cache: Cache, rows: Tensor) -> Cache:
        found = super().reorder(cache, rows)
        found.past = [(k, old[1]) for (k, _), old in zip(found.past, cache.past, strict=True)]  # type: ignore[misc]
        return found


class ReorderRepeatsMemory(Translator):
    """Beams are laid out [a, a, b, b], and the source's keys [a, b, a, b]."""

    def reorder(self, cache: Cache, rows: Tensor) -> Cache:
        found = super().reorder(cache, rows)
        other = rows.sort().values
        found.cross = [(k[other], v[other]) for k, v in cache.cross]
        return found


class CausalEncoder(Translator):
    def source_mask(self, keep: Tensor | None) -> Tensor:
        size = 17 if keep is None else keep.size(1)
        past = torch.ones(size, size, dtype=torch.bool).tril()
        return past if keep is None else past & keep[:, None, None, :]

    def encode(self, source: Tensor, keep: Tensor | None) -> Tensor:
        return super().encode(source, torch.ones_like(source, dtype=torch.bool) if keep is None else keep)


class EncoderSeesPadding(Translator):
    def source_mask(self, keep: Tensor | None) -> None:
        return None


class MemoryDetached(Translator):
    def memory(self, source: Tensor, ids: Tensor, keep: Tensor | None) -> Tensor:
        with torch.no_grad():
            return self.encode(source, keep)


class PaddingOnQueries(Translator):
    """``keep`` broadcast over the wrong axis: padded queries are blind, padded keys are seen."""

    def source_mask(self, keep: Tensor | None) -> Tensor | None:
        return None if keep is None else keep[:, None, :, None] | torch.eye(keep.size(1), dtype=torch.bool)


class UntransposedHeads(DecoderLayer):
    def cross(self, y: Tensor, keys: Any, allowed: Any) -> Tensor:
        module = self.cross_attention
        q = module.q(y).reshape(y.size(0), module.heads, y.size(1), -1)  # (B, T, D) read as (B, H, T, D / H)
        found = F.scaled_dot_product_attention(q, *keys, attn_mask=allowed)
        return module.o(found.transpose(1, 2).flatten(2))


class MixesHeads(Translator):
    decoder_layer = UntransposedHeads


class EncoderSeesTarget(Translator):
    def memory(self, source: Tensor, ids: Tensor, keep: Tensor | None) -> Tensor:
        x = self.source_embedding(source) + self.source_positions(torch.arange(source.size(1)))
        x = x + self.target_embedding(ids).mean(1, keepdim=True)
        for layer in self.encoder:
            x = layer(x, self.source_mask(keep))
        return self.encoder_norm(x)


class NormOverTime(EncoderLayer):
    """The source's padding takes part in the statistics."""

    def forward(self, x: Tensor, allowed: Any) -> Tensor:
        x = x / x.pow(2).mean((1, 2), keepdim=True).sqrt()
        return super().forward(x, allowed)


class StatisticsOfPadding(Translator):
    encoder_layer = NormOverTime


class Torch(nn.Module):
    """Around ``nn.Transformer``, whose masks are all optional."""

    causal, memory_masked, inverted = True, True, False

    def __init__(self, d_model: int = 32) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCAB, d_model), nn.Embedding(VOCAB, d_model)
        self.positions = nn.Embedding(64, d_model)
        self.transformer = nn.Transformer(d_model, 4, 2, 2, 64, dropout=0.1, batch_first=True)
        self.head = nn.Linear(d_model, VOCAB)

    def forward(self, source: Tensor, ids: Tensor, source_keep: Tensor | None = None) -> Tensor:
        x, y = (table(z) + self.positions(torch.arange(z.size(1))) for table, z in
                ((self.source, source), (self.target, ids)))  # fmt: skip
        hidden = None if source_keep is None else source_keep if self.inverted else ~source_keep
        mask = torch.ones(ids.size(1), ids.size(1), dtype=torch.bool).triu(1) if self.causal else None
        found = self.transformer(
            x, y, tgt_mask=mask, src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden if self.memory_masked else None,
        )  # fmt: skip
        return self.head(found)


class TorchLeaks(Torch):
    causal = False


class TorchSeesPaddedMemory(Torch):
    memory_masked = False


class TorchInverted(Torch):
    """True keeps in ``attention_mask``, and drops in ``key_padding_mask``."""

    inverted = True


def torch_built(kind: type[Torch]) -> tuple[nn.Module, Spec]:
    return kind(), Spec(
        kind="encoder_decoder", vocab_size=VOCAB, pad_id=PAD, masked=True,
        call=lambda model, batch: model(batch.source, batch.ids, batch.source_keep),
    )  # fmt: skip


def unshifted(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.source, batch.ids, batch.source_keep)
    return F.cross_entropy(logits.flatten(0, 1), asked(batch).flatten()), logits


def rolled(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.source, batch.ids.roll(1, dims=1), batch.source_keep)
    return F.cross_entropy(logits.flatten(0, 1), asked(batch).flatten()), logits


def started_twice(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch.source, shifted(shifted(batch.ids)), batch.source_keep)
    return F.cross_entropy(logits.flatten(0, 1), asked(batch).flatten()), logits


def shifted_both(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The input is shifted to the right, and the labels to the left as well."""
    logits = model(batch.source, shifted(batch.ids), batch.source_keep)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), asked(batch)[:, 1:].flatten()), logits


def end_ignored(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The end is ignored, as if it were padding."""
    logits = model(batch.source, shifted(batch.ids), batch.source_keep)
    labels = asked(batch).masked_fill(batch.ids == EOS, -100)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits


def bug(name: str, reference: str, kind: type[Translator], *checks: str, level: Any = "quick", **more: Any) -> Bug:
    return Bug(
        name=name, reference=reference, family="encoder_decoder", checks=checks, build=lambda: built(kind, **more),
        level=level,
    )  # fmt: skip


def around(name: str, reference: str, kind: type[Torch], *checks: str) -> Bug:
    return Bug(name=name, reference=reference, family="encoder_decoder", checks=checks, build=lambda: torch_built(kind))


BUGS = (
    bug("cross-attention takes the target's padding", "#24", CrossMaskOfTarget, "cross.memory"),
    bug("a causal mask on cross-attention", "#26", CausalCrossMask, "attn.mask", "cross.source"),
    bug("cross-attention reads the decoder itself", "keras-io#1046", ReadsItself, "cross.source"),
    bug("the result of cross-attention is thrown away", "#64", IgnoresCross, "cross.source"),
    bug("padding of the memory is not hidden", "#23", NoMemoryMask, "cross.memory"),
    bug("the source is cut to the length of the target", "#25", SourceCut, "cross.source", "prefix.length_invariance"),
    bug("the encoder is given the target", "#49", EncodesTarget, "cross.source"),
    bug("the encoder is told the mean of the target", "#14", EncoderSeesTarget, "cross.encoder_alone",
        "causal.prefix_invariance"),
    bug("the decoder's mask is forgotten", "#14", NoCausalMask, "causal.prefix_invariance"),
    bug("a padding mask takes the place of the causal one", "#5", PaddingMaskInPlaceOfCausal, "pad.invariance",
        "causal.prefix_invariance"),
    bug("the causal mask is aligned with the first key", "#39", TopLeftCausal, "kv.parity"),
    bug("the cache keeps the source of one row for all", "#22", FirstRowsMemory, "kv.parity"),
    bug("steps forget the padding of the source", "#25", StepForgetsSourceMask, "kv.parity"),
    bug("positions restart at every step", "#37", PositionsRestart, "kv.parity"),
    bug("reordering forgets the memory", "#44", ReorderForgetsMemory, "decode.reorder"),
    bug("reordering forgets the values", "#44", ReorderKeepsValues, "decode.reorder"),
    bug("beams repeat the memory in another order", "#44", ReorderRepeatsMemory, "decode.reorder"),
    bug("the encoder is causal", "#10", CausalEncoder, "attn.mask"),
    bug("the encoder sees padding, the decoder does not", "#21", EncoderSeesPadding, "pad.invariance", "cross.memory"),
    bug("padding is hidden from queries in place of keys", "#21", PaddingOnQueries, "pad.invariance", "cross.memory"),
    bug("statistics of the encoder count padding", "#9", StatisticsOfPadding, "pad.invariance"),
    bug("the encoder runs without gradient", "#68", MemoryDetached, "params.coverage", level="standard"),
    bug("heads of cross-attention are split without a transpose", "#58", MixesHeads, "prefix.length_invariance",
        "causal.prefix_invariance"),
    around("nn.Transformer without tgt_mask", "#14", TorchLeaks, "causal.prefix_invariance"),
    around("nn.Transformer without memory_key_padding_mask", "#23", TorchSeesPaddedMemory, "cross.memory"),
    around("key_padding_mask the wrong way round", "#10", TorchInverted, "pad.invariance", "cross.memory"),
    bug("teacher forcing without a shift", "#47", Translator, "loss.alignment", level="standard", loss=unshifted),
    bug("the decoder's input is rolled: it begins with the end", "#49", Translator, "loss.alignment",
        level="standard", loss=rolled),
    bug("the decoder's input starts twice", "#49", Translator, "loss.alignment", level="standard", loss=started_twice),
    bug("input and labels are both shifted", "#46", Translator, "loss.alignment", level="standard", loss=shifted_both),
    bug("the end is never asked", "#53", Translator, "loss.alignment", level="standard", loss=end_ignored),
)  # fmt: skip
