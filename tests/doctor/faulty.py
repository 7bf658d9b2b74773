"""Three small Transformers in plain torch, each of which can be made with one fault, or healthy: ``GPT("leak")``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

V, D, H, LONGEST = 61, 32, 4, 64
PAD, EOS = 0, 1


class Attention(nn.Module):
    def __init__(self, fault="", causal=True):
        super().__init__()
        self.fault, self.causal = fault, causal
        self.q, self.k, self.v, self.out = (nn.Linear(D, D) for _ in range(4))
        self.rate = 0.1

    def split(self, x):
        if self.fault == "view":
            return x.reshape(x.size(0), H, x.size(1), D // H)
        return x.view(*x.shape[:2], H, D // H).transpose(1, 2)

    def forward(self, x, memory=None, keep=None, cache=None):
        memory = x if memory is None else memory
        q, k, v = self.split(self.q(x)), self.split(self.k(memory)), self.split(self.v(memory))
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        scores = q @ k.transpose(-2, -1) * {"scale": 1.0, "scale of all": D**-0.5}.get(self.fault, (D // H) ** -0.5)
        T, S = scores.shape[-2:]
        if self.causal:
            allowed = torch.ones(T, S, dtype=torch.bool).tril(0 if self.fault == "top left" else S - T)
            if self.fault == "leak" or (self.fault == "training leak" and self.training):
                allowed[:] = True
            scores = scores.masked_fill(~allowed, -5.0 if self.fault == "fill" else -torch.inf)
        if keep is not None and self.fault != "padding":
            scores = scores.masked_fill(~keep[:, None, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-2 if self.fault == "axis" else -1)
        if self.fault == "dropout":
            weights = F.dropout(weights, self.rate)
        mixed = (weights @ v).transpose(1, 2).reshape(*x.shape[:2], D)
        return self.out(mixed), (k, v)


class Block(nn.Module):
    def __init__(self, fault="", causal=True, reads=False):
        super().__init__()
        self.attention = Attention(fault, causal)
        self.cross = Attention("padding" if fault == "memory" else "", causal=False) if reads else None
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(3 if reads else 2))
        self.mlp = nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D))
        self.fault = fault

    def forward(self, x, keep=None, cache=None, memory=None, memory_keep=None):
        read = self.norms[0](x)
        if self.fault == "time norm":
            read = F.layer_norm(x, x.shape[1:])
        mixed, cache = self.attention(read, keep=keep, cache=cache)
        x = x + mixed
        if self.cross is not None:
            seen = self.cross(self.norms[1](x), memory, memory_keep)[0]
            x = x if self.fault == "ignored" else x + seen
        return x + self.mlp(self.norms[-1](x)), cache


class GPT(nn.Module):
    """A decoder; ``GPT(fault)(ids, targets)`` gives logits, and the loss of targets."""

    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault
        self.tokens, self.positions = nn.Embedding(V, D), nn.Embedding(LONGEST, D)
        made = [Block(fault) for _ in range(2)]
        self.blocks = [*made] if fault == "list" else nn.ModuleList([made[0]] * 2 if fault == "one layer" else made)
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, V, bias=False)
        self.extra = nn.Linear(D, D)
        for each in (self.tokens, self.positions):
            nn.init.normal_(each.weight, std=0.02)
        if fault == "wide":
            nn.init.normal_(self.head.weight, std=8.0)
        self.register_buffer("seen", torch.zeros(D), persistent=False)

    def places(self, ids, keep, past):
        if keep is None:
            return torch.arange(past, past + ids.size(1)).expand_as(ids)
        if self.fault == "left positions":
            return torch.arange(keep.size(1)).expand_as(keep)[:, -ids.size(1) :]
        return (keep.cumsum(1) - 1).clamp(min=0)[:, -ids.size(1) :]

    def features(self, ids, keep=None, caches=None):
        past = 0 if caches is None else caches[0][0].size(2)
        x = self.tokens(ids)
        if self.fault == "positions along the batch":
            x = x + self.positions(torch.arange(ids.size(0)))[:, None]
        elif self.fault != "no positions":
            x = x + self.positions(self.places(ids, keep, 0 if self.fault == "restart" else past))
        if self.fault == "batch norm":
            x = x + x.mean(0, keepdim=True)
        if self.fault == "state":
            x = x + self.seen
            self.seen.copy_(x.detach().mean((0, 1)))
        kept = []
        for i, block in enumerate(self.blocks):
            x, cache = block(x, keep, None if caches is None else caches[i])
            kept.append(cache)
        if self.fault != "unused":
            x = x + self.extra(x)
        return self.norm(x), kept

    def forward(self, ids, targets=None, keep=None):
        logits = self.head(self.features(ids, keep)[0])
        if self.fault == "softmax":
            logits = logits.softmax(-1)
        if targets is None:
            return logits
        asked, told = (logits, targets) if self.fault == "unshifted" else (logits[:, :-1], targets[:, 1:])
        if self.fault == "shifted twice":
            asked, told = logits[:, :-2], targets[:, 2:]
        ignored = -100 if self.fault == "padding asked" else PAD
        return logits, F.cross_entropy(asked.flatten(0, 1), told.flatten(), ignore_index=ignored)

    def step(self, ids, caches, keep=None):
        x, caches = self.features(ids, keep, caches)
        return self.head(x), caches


class BERT(nn.Module):
    """An encoder with padding."""

    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault
        self.tokens, self.positions = nn.Embedding(V, D), nn.Embedding(LONGEST, D)
        self.blocks = nn.ModuleList(Block(fault, causal=fault == "causal") for _ in range(2))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, V)

    def forward(self, ids, attention_mask=None):
        keep = None if attention_mask is None else attention_mask.bool()
        x = self.tokens(ids)
        if self.fault != "no positions":
            x = x + self.positions(torch.arange(ids.size(1)))
        for block in self.blocks:
            x, _ = block(x, keep)
        return self.head(self.norm(x))


class Translator(nn.Module):
    """An encoder–decoder."""

    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault
        self.source, self.target, self.positions = nn.Embedding(V, D), nn.Embedding(V, D), nn.Embedding(LONGEST, D)
        self.encoder = nn.ModuleList(Block(causal=False) for _ in range(2))
        self.decoder = nn.ModuleList(Block(fault, reads=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, V)

    def forward(self, src, tgt, src_keep=None):
        if self.fault == "cut source":
            src, src_keep = src[:, :10], None if src_keep is None else src_keep[:, :10]
        memory = self.source(src) + self.positions(torch.arange(src.size(1)))
        if self.fault == "target in the encoder":
            memory = memory + self.target(tgt).mean(1, keepdim=True)
        for block in self.encoder:
            memory, _ = block(memory, src_keep)
        x = self.target(tgt) + self.positions(torch.arange(tgt.size(1)))
        for block in self.decoder:
            x, _ = block(x, memory=memory, memory_keep=src_keep)
        return self.head(self.norm(x))


class Sinusoidal(nn.Module):
    """A decoder's front and head alone with a table of sines, for checks of the table."""

    def __init__(self, fault=""):
        super().__init__()
        exponent = torch.arange(0, D, 2) / D
        t = torch.arange(LONGEST)[:, None]
        table = torch.zeros(LONGEST, D)
        table[:, 0::2] = torch.sin(t / 10000**exponent)
        table[:, 1::2] = torch.cos(t / 10000 ** ((torch.arange(1, D, 2) / D) if fault == "exponent" else exponent))
        self.register_buffer("table", table)
        self.tokens, self.block, self.head = nn.Embedding(V, D), Block(), nn.Linear(D, V)

    def forward(self, ids):
        return self.head(self.block(self.tokens(ids) * math.sqrt(D) + self.table[: ids.size(1)])[0])
