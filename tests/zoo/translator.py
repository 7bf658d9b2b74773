"""An encoder–decoder as people write one: plain PyTorch, pre-norm, learned positions, a cache of keys and values.

Each method is a place where the zoo's faults are made. Shapes: B batch, T target, S source, D d_model, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Spec

VOCAB, PAD, BOS, EOS = 60, 0, 1, 2


@dataclass
class Cache:
    """Keys and values of both kinds of attention in each layer, and what the source's padding is."""

    source_keep: Tensor | None
    cross: list[tuple[Tensor, Tensor]]
    past: list[tuple[Tensor, Tensor] | None] = field(default_factory=list)
    length: int = 0


class Attention(nn.Module):
    """Queries of one sequence, keys and values of another or of the same."""

    def __init__(self, d_model: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, H, T, D / H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.k(memory)), self.split(self.v(memory))

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], allowed: Tensor | None) -> Tensor:
        found = F.scaled_dot_product_attention(self.split(self.q(x)), *keys, attn_mask=allowed)
        return self.o(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    def __init__(self, d_model: int = 32) -> None:
        super().__init__(nn.Linear(d_model, 2 * d_model), nn.GELU(), nn.Linear(2 * d_model, d_model))


class EncoderLayer(nn.Module):
    def __init__(self, d_model: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention, self.feed_forward = Attention(d_model), FeedForward(d_model)

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, self.attention.keys(y), allowed)
        return x + self.feed_forward(self.norm2(x))


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.self_attention, self.cross_attention = Attention(d_model), Attention(d_model)
        self.feed_forward = FeedForward(d_model)

    def cross(self, y: Tensor, keys: tuple[Tensor, Tensor], allowed: Tensor | None) -> Tensor:
        return self.cross_attention(y, keys, allowed)

    def forward(self, x: Tensor, keys: Any, allowed: Tensor | None, memory: Any, visible: Tensor | None) -> Tensor:
        x = x + self.self_attention(self.norm1(x), keys, allowed)
        x = x + self.cross(self.norm2(x), memory, visible)
        return x + self.feed_forward(self.norm3(x))


class Translator(nn.Module):
    """``forward`` gives (B, T, V); ``start`` and ``step`` write with a cache."""

    decoder_layer: type[DecoderLayer] = DecoderLayer
    encoder_layer: type[EncoderLayer] = EncoderLayer

    def __init__(self, d_model: int = 32, layers: int = 2, longest: int = 64) -> None:
        super().__init__()
        self.source_embedding, self.target_embedding = nn.Embedding(VOCAB, d_model), nn.Embedding(VOCAB, d_model)
        self.source_positions, self.target_positions = nn.Embedding(longest, d_model), nn.Embedding(longest, d_model)
        self.encoder = nn.ModuleList(self.encoder_layer(d_model) for _ in range(layers))
        self.decoder = nn.ModuleList(self.decoder_layer(d_model) for _ in range(layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, VOCAB)

    # ---- masks: True where a query may look --------------------------------------------------

    def source_mask(self, keep: Tensor | None) -> Tensor | None:
        """(B, 1, 1, S): of the encoder's own attention."""
        return None if keep is None else keep[:, None, None, :]

    def memory_mask(self, source_keep: Tensor | None, keep: Tensor | None, ids: Tensor, size: int) -> Tensor | None:
        """(B, 1, 1, S): of the decoder's attention to the source."""
        return None if source_keep is None else source_keep[:, None, None, :]

    def target_mask(self, queries: int, keys: int, keep: Tensor | None) -> Tensor:
        """(T, T) or (B, 1, T, T): the past; the queries are the last of the keys."""
        past = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        return past if keep is None else past & keep[:, None, None, :]

    # ---- both halves -------------------------------------------------------------------------

    def encode(self, source: Tensor, keep: Tensor | None) -> Tensor:
        x = self.source_embedding(source) + self.source_positions(torch.arange(source.size(1)))
        for layer in self.encoder:
            x = layer(x, self.source_mask(keep))
        return self.encoder_norm(x)

    def memory(self, source: Tensor, ids: Tensor, keep: Tensor | None) -> Tensor:
        return self.encode(source, keep)

    def memory_keys(self, layer: Any, memory: Tensor) -> tuple[Tensor, Tensor]:
        return layer.cross_attention.keys(memory)

    def embed(self, ids: Tensor, first: int) -> Tensor:
        return self.target_embedding(ids) + self.target_positions(torch.arange(first, first + ids.size(1)))

    def decode(self, ids: Tensor, cache: Cache, keep: Tensor | None) -> Tensor:
        x = self.embed(ids, cache.length)
        cache.length += ids.size(1)
        allowed = self.target_mask(ids.size(1), cache.length, keep)
        for i, layer in enumerate(self.decoder):
            keys = layer.self_attention.keys(layer.norm1(x))
            if (past := cache.past[i]) is not None:
                keys = torch.cat([past[0], keys[0]], 2), torch.cat([past[1], keys[1]], 2)
            cache.past[i] = keys
            visible = self.memory_mask(cache.source_keep, keep, ids, cache.cross[i][0].size(2))
            x = layer(x, keys, allowed, cache.cross[i], visible)
        return self.head(self.decoder_norm(x))

    def forward(
        self, source: Tensor, ids: Tensor, source_keep: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        cache = self.start(self.memory(source, ids, source_keep), source_keep)
        return self.decode(ids, cache, keep)

    # ---- writing -----------------------------------------------------------------------------

    def start(self, memory: Tensor, source_keep: Tensor | None) -> Cache:
        cross = [self.memory_keys(layer, memory) for layer in self.decoder]
        return Cache(source_keep, cross, [None] * len(self.decoder))

    def step(self, batch: Batch, cache: Cache | None) -> tuple[Tensor, Cache]:
        if cache is None:
            assert batch.source is not None
            cache = self.start(self.memory(batch.source, batch.ids, batch.source_keep), batch.source_keep)
        return self.decode(batch.ids, cache, batch.keep), cache

    def reorder(self, cache: Cache, rows: Tensor) -> Cache:
        chosen = lambda pair: (pair[0][rows], pair[1][rows])  # noqa: E731
        keep = None if cache.source_keep is None else cache.source_keep[rows]
        past = [None if pair is None else chosen(pair) for pair in cache.past]
        return Cache(keep, [chosen(pair) for pair in cache.cross], past, cache.length)


def shifted(ids: Tensor) -> Tensor:
    """What the decoder reads when it is asked for ``ids``: the start, then all but the last."""
    return torch.cat([torch.full_like(ids[:, :1], BOS), ids[:, :-1]], dim=1)


def asked(batch: Batch) -> Tensor:
    """(B, T): the ids, with -100 where they are padding."""
    return batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)


def taught(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Teacher forcing: the decoder reads what stands before what it is asked."""
    logits = model(batch.source, shifted(batch.ids), batch.source_keep)
    return F.cross_entropy(logits.flatten(0, 1), asked(batch).flatten()), logits


def translating(**more: Any) -> Spec:
    """The spec that its user would write."""
    return Spec(**{
        "kind": "encoder_decoder", "vocab_size": VOCAB, "pad_id": PAD, "bos_id": BOS, "eos_id": EOS, "masked": True,
        "call": lambda model, batch: model(batch.source, batch.ids, batch.source_keep, batch.keep),
        "step": lambda model, batch, cache: model.step(batch, cache),
        "loss": taught, "labels": "same", **more,
    })  # fmt: skip


def built(kind: type[Translator], **more: Any) -> tuple[Translator, Spec]:
    """A model and its spec, whose cache is reordered by the model's own method."""
    model = kind()
    return model, translating(**{"reorder": model.reorder, **more})
