"""Small decoders, a language for them, and their training under watch."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from families import VOCAB
from torch import nn

import pellucid as pl

FOLLOWS = torch.randint(VOCAB, (VOCAB, 3), generator=torch.Generator().manual_seed(5))


class Layer(nn.Module):
    """A decoder layer as people write it, with faults to be chosen."""

    def __init__(self, d_model, *, scale=None, post=False, residual=True, dropout=0.1):
        super().__init__()
        self.first, self.second = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        self.scale, self.post, self.residual, self.dropout = scale, post, residual, nn.Dropout(dropout)

    def forward(self, x):
        rows, length, width = x.shape
        q, k, v = (
            self.qkv(x if self.post else self.first(x)).view(rows, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        x = self.dropout(self.out(seen.transpose(1, 2).reshape(x.shape))) + (x if self.residual else 0)
        x = self.first(x) if self.post else x
        y = self.down(F.relu(self.up(x if self.post else self.second(x))))
        y = self.dropout(y) + (x if self.residual else 0)
        return self.second(y) if self.post else y


class Decoder(nn.Module):
    def __init__(self, d_model=32, layers=2, **faults):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, d_model), nn.Embedding(64, d_model)
        self.layers = nn.ModuleList(Layer(d_model, **faults) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, VOCAB)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Restless(Decoder):
    """Has a state, and draws from every source of random numbers."""

    def __init__(self):
        super().__init__()
        self.balance, self.calls, self.kept = nn.BatchNorm1d(32), 0, []
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        self.seen += 1.0
        self.kept.append(float(ids.sum()))
        x = self.tokens(ids) * (1 + 0.01 * random.random() + 0.01 * np.random.rand())
        x = x + 0.01 * torch.rand_like(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.balance(self.norm(x).transpose(1, 2)).transpose(1, 2)) + 1e-3 * self.calls


def text(step, rows=16, length=33):
    """(rows, length + 1) of a language in which three tokens may follow each: its entropy is ln 3."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.randint(VOCAB, (rows, 1), generator=draw)
    for _ in range(length):
        ids = torch.cat([ids, FOLLOWS[ids[:, -1], torch.randint(3, (rows,), generator=draw)][:, None]], dim=1)
    return ids


def train(model, *, steps=60, rate=1e-3, warmup=10, every=10, optimizer=torch.optim.AdamW, called=None, **options):
    """Trains it under watch; what was watched. ``every=0``: nobody watches."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(3)
    trains = optimizer(model.parameters(), lr=rate)
    called = model if called is None else called
    watched = pl.doctor.watch(called, trains, every, **options) if every else None
    for step in range(steps):
        for group in trains.param_groups:
            group["lr"] = rate * min(1, (step + 1) / max(1, warmup))
        ids = text(step)
        loss = F.cross_entropy(called(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        trains.zero_grad()
        loss.backward()
        trains.step()
        if watched:
            watched.step(loss)
    if watched:
        watched.close()
    return watched


def fresh(kind=Decoder, seed=0, **given):
    torch.manual_seed(seed)
    return kind(**given)


def found(watched):
    return {(finding.check, finding.status) for finding in watched.findings}


def hooks(model, optimizer):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_model = sum(len(getattr(module, name)) for module in model.modules() for name in names)
    everywhere = len(nn.modules.module._has_any_global_hook())
    return of_model + everywhere + len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
