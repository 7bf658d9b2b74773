"""A small GPT and a small BERT in plain torch, every step a method of its own, so that a bug can get one of them wrong.

Shapes: B batch, T queries, S keys, H heads, K head_dim, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Spec
from zoo.entry import Bug, Healthy

__all__ = ["BERT", "GPT", "Attention", "Block", "Bug", "Healthy", "Rotary", "bert_spec", "gpt_spec", "rotated"]

VOCAB, WIDTH, HEADS, LAYERS, LONGEST = 67, 32, 4, 2, 64
Cache = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """softmax(q kᵀ / √K) v over heads, with a cache of keys and values."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, keep: Tensor | None = None, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        q, k, v = self.placed(q, k, v, 0 if past is None else past[0].size(2))
        k, v = self.remembered(k, v, past)
        weights = self.weights(self.masked(self.scores(q, k), keep))
        return self.out(self.join(self.mixed(weights, v))), (k, v)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, H, T, K)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """(B, H, T, K) → (B, T, D)."""
        return x.transpose(1, 2).flatten(2)

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Told their positions, from ``start`` on; nothing here."""
        return q, k, v

    def remembered(self, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """With those of the cache before them."""
        return (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, T, S)."""
        return q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))

    def allowed(self, queries: int, keys: int) -> Tensor:
        """(T, S), True where a query may look: the queries are the last T of S."""
        return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        """With -inf where a query may not look; ``keep`` (B, S)."""
        if self.causal:
            scores = scores.masked_fill(~self.allowed(*scores.shape[-2:]), -torch.inf)
        return scores if keep is None else scores.masked_fill(~keep[:, None, None], -torch.inf)

    def weights(self, scores: Tensor) -> Tensor:
        """(B, H, T, S)."""
        return scores.softmax(-1)

    def mixed(self, weights: Tensor, v: Tensor) -> Tensor:
        """(B, H, T, K)."""
        return weights @ v


def angles(length: int, width: int, start: int = 0, base: float = 10000.0) -> Tensor:
    """(T, K/2): of each position and pair."""
    frequencies = base ** (-torch.arange(0, width, 2) / width)
    return torch.arange(start, start + length)[:, None] * frequencies


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    """(…, T, K), its halves turned by (T, K/2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Rotary(Attention):
    """Queries and keys are rotated by the angles of their positions."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        angle = self.angles(q.size(2), q.size(3), start)
        return rotated(q, angle), rotated(k, angle), v

    def angles(self, length: int, width: int, start: int) -> Tensor:
        """(T, K/2)."""
        return angles(length, width, start)


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, attention: nn.Module, width: int = WIDTH, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = attention
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor | None = None, past: Any = None) -> tuple[Tensor, Any]:
        attended, cache = self.attention(self.norm_1(x), keep, past)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.norm_2(x))), cache


def sinusoids(length: int = LONGEST, width: int = WIDTH) -> Tensor:
    """(T, D), sines and cosines side by side: Vaswani et al. 2017, §3.5."""
    angle = angles(length, width)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class GPT(nn.Module):
    """A decoder with learned positions, or with none where the attention has its own.

    Args:
        attention: makes the attention of a layer; several are cycled over the layers.
        block: makes a layer around an attention.
        learned: whether there is a table of positions.
        std: of all matrices; ``None`` leaves PyTorch's own.
    """

    def __init__(
        self,
        *attention: Callable[[], nn.Module],
        block: Callable[..., nn.Module] = Block,
        layers: int = LAYERS,
        learned: bool = True,
        dropout: float = 0.0,
        vocab: int = VOCAB,
        width: int = WIDTH,
        std: float | None = 0.02,
    ) -> None:
        super().__init__()
        made = attention or (Attention,)
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(LONGEST, width) if learned else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(block(made[i % len(made)](), width, dropout=dropout) for i in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        if std is not None:
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=std)

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        """(B, T, D)."""
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + ids.size(1)))
        return self.dropout(x)

    def forward(self, ids: Tensor) -> Tensor:
        return self.step(ids, None)[0]

    def step(self, ids: Tensor, cache: Cache | None, keep: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Outputs (B, T, V) of new ids, and the cache with them."""
        x, grown = self.embedded(ids, self.start(cache)), []
        for i, block in enumerate(self.blocks):
            x, one = block(x, keep, None if cache is None else cache[i])
            grown.append(one)
        return self.head(self.norm(x)), grown

    def start(self, cache: Cache | None) -> int:
        """The position of the first new token."""
        return 0 if cache is None else cache[0][0].size(2)


class BERT(nn.Module):
    """An encoder with a head over the vocabulary; ``attention_mask`` (B, T) is True where a token is real."""

    def __init__(
        self, *attention: Callable[..., nn.Module], block: Callable[..., nn.Module] = Block, layers: int = LAYERS,
        dropout: float = 0.0, vocab: int = VOCAB, width: int = WIDTH,
    ) -> None:  # fmt: skip
        super().__init__()
        made = attention or (Attention,)
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(LONGEST, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            block(made[i % len(made)](causal=False), width, dropout=dropout) for i in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab)

    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        """(B, T, D)."""
        return self.dropout(self.tokens(ids) + self.positions(torch.arange(ids.size(1))))

    def encoded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        """(B, T, D), normed."""
        x = self.embedded(ids, keep)
        for layer in self.layers:
            x, _ = layer(x, keep)
        return self.norm(x)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.encoded(ids, None if attention_mask is None else attention_mask.bool()))


class Classifier(BERT):
    """One output for a text: the mean of what is real, then a linear layer over three labels."""

    def __init__(self, *attention: Callable[..., nn.Module], **more: Any) -> None:
        super().__init__(*attention, **more)
        self.head = nn.Linear(self.head.in_features, 3)

    def pooled(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """(B, D)."""
        if keep is None:
            return x.mean(1)
        return (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        keep = None if attention_mask is None else attention_mask.bool()
        return self.head(self.pooled(self.encoded(ids, keep), keep))


def gpt_spec(**more: Any) -> Spec:
    """What the user of a :class:`GPT` would say: it is a decoder, and steps so."""
    said: dict[str, Any] = {"kind": "decoder", "step": lambda model, batch, cache: model.step(batch.ids, cache)}
    return Spec(**said | more)


def bert_spec(**more: Any) -> Spec:
    """What the user of a :class:`BERT` would say: it is an encoder; how its mask is given is found out."""
    return Spec(**{"kind": "encoder"} | more)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Each position is asked for the next token."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
