"""One small healthy decoder, called in the many ways that people call theirs."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, WIDTH, LONGEST = 61, 32, 64


class Layer(nn.Module):
    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.causal = causal

    def forward(self, x, keep=None):
        q, k, v = (y.unflatten(-1, (4, -1)).transpose(1, 2) for y in self.qkv(self.n1(x)).chunk(3, -1))
        allowed = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device)
        allowed = allowed.tril() if self.causal else allowed
        if keep is not None:
            allowed = allowed & keep[:, None, None, :] | torch.eye(x.size(1), dtype=torch.bool)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, allowed).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Body(nn.Module):
    """What all of them compute."""

    def __init__(self, causal: bool = True, longest: int = LONGEST) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(VOCAB, WIDTH), nn.Embedding(longest, WIDTH)
        self.layers = nn.ModuleList(Layer(causal) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        nn.init.normal_(self.tok.weight, std=0.1)
        nn.init.normal_(self.pos.weight, std=0.1)

    def logits(self, ids, keep=None):
        x = self.tok(ids) + self.pos(torch.arange(ids.size(1), device=ids.device))
        for layer in self.layers:
            x = layer(x, keep)
        return self.head(self.norm(x))


class Plain(Body):
    def forward(self, ids):
        return self.logits(ids)


class LastOnly(Body):
    """nanoGPT: the last position alone unless there are targets."""

    def forward(self, idx, targets=None):
        if targets is None:
            return self.logits(idx)[:, [-1]], None
        logits = self.logits(idx)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class LossFirst(Body):
    """minGPT turned round: the loss comes first."""

    def forward(self, idx, targets=None):
        logits = self.logits(idx)
        return None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits


class Required(Body):
    def forward(self, idx, targets):
        logits = self.logits(idx)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class ByName(Body):
    def forward(self, *, input_ids, attention_mask=None):
        return {"logits": self.logits(input_ids, None if attention_mask is None else attention_mask.bool())}


class Attribute(Body):
    def forward(self, input_ids):
        return SimpleNamespace(logits=self.logits(input_ids), hidden=None)


class Anything(Body):
    def forward(self, *arguments, **named):
        return self.logits(*arguments)


class IdsSecond(Body):
    def forward(self, temperature=1.0, tokens=None):
        return self.logits(tokens) / temperature


class KeepMask(Body):
    """True keeps."""

    def forward(self, x, mask=None):
        return self.logits(x, mask)


class DropMask(Body):
    """True hides."""

    def forward(self, x, mask=None):
        return self.logits(x, None if mask is None else ~mask)


class WideMask(Body):
    """(B, 1, 1, T), as the annotated Transformer has it."""

    def forward(self, x, mask=None):
        return self.logits(x, None if mask is None else mask[:, 0, 0] != 0)


class NumberMask(Body):
    """Numbers, subtracted from one: a boolean would raise."""

    def forward(self, ids, attention_mask=None):
        return self.logits(ids, None if attention_mask is None else (1.0 - attention_mask) == 0)


class Bare(nn.Module):
    """Its table of words is a parameter, and so is that of positions, which is short."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Parameter(torch.randn(VOCAB, WIDTH) / 10), nn.Parameter(torch.randn(1, 20, WIDTH) / 10)
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, ids):
        x = self.wte[ids] + self.wpe[:, : ids.size(1)]
        for layer in self.layers:
            x = layer(x)
        return x @ self.wte.mT


class Reader(Body):
    """Sees all."""

    def __init__(self) -> None:
        super().__init__(causal=False)

    def forward(self, ids):
        return self.logits(ids)


class Pooled(Reader):
    def forward(self, ids, keep=None):
        hidden = self.logits(ids, keep)
        keep = torch.ones_like(ids) if keep is None else keep.long()
        return (hidden * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)


class TimeFirst(nn.Module):
    """(T, B) in, (T, B, V) out: the language model of PyTorch's tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64)
        self.core = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, src, src_mask=None):
        if src_mask is None:
            src_mask = nn.Transformer.generate_square_subsequent_mask(len(src))
        return self.head(self.core(self.tok(src) + self.pos(torch.arange(len(src)))[:, None], src_mask))


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inward, self.layers = nn.Linear(7, WIDTH), nn.ModuleList(Layer(causal=False) for _ in range(2))

    def forward(self, x):
        x = self.inward(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Pair(nn.Module):
    """Source and target of two vocabularies."""

    def __init__(self) -> None:
        super().__init__()
        self.src_emb, self.tgt_emb = nn.Embedding(VOCAB, WIDTH), nn.Embedding(VOCAB + 9, WIDTH)
        self.pos = nn.Embedding(LONGEST, WIDTH)
        self.core = nn.Transformer(WIDTH, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB + 9)

    def run(self, src, tgt, src_mask=None):
        causal = torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool).triu(1)
        drop = None if src_mask is None else ~src_mask
        x, y = (
            table(ids) + self.pos(torch.arange(ids.size(1)))
            for table, ids in ((self.src_emb, src), (self.tgt_emb, tgt))
        )
        return self.head(self.core(x, y, tgt_mask=causal, src_key_padding_mask=drop, memory_key_padding_mask=drop))


class SourceTarget(Pair):
    def forward(self, src, tgt, src_mask=None):
        return self.run(src, tgt, src_mask)


class TargetSource(Pair):
    def forward(self, tgt, memory):
        return self.run(memory, tgt)


class Annotated(Pair):
    """Its masks must be given, and only its caller knows how they are made."""

    def forward(self, src, tgt, src_mask, tgt_mask):
        return self.run(src, tgt, src_mask[:, 0])


class LossAlone(Body):
    def forward(self, ids):
        return F.cross_entropy(self.logits(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


class Separate(Body):
    """Mixes no positions, so that nothing says what it is."""

    def forward(self, ids):
        return self.head(self.norm(self.tok(ids)))
