"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017) in 100 lines: it learns to turn words round."""

import math

import torch
import torch.nn.functional as F
from torch import nn

PAD, START, END, A, VOCAB = 0, 1, 2, 3, 29  # a to z are 3 to 28


class Attention(nn.Module):  # §3.2: softmax(QKᵀ/√d_k)V, in several heads
    def __init__(self, d_model, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, source, mask):
        projected = self.query(x), self.key(source), self.value(source)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)  # (B, heads, T, d_k)
        scores = (q @ k.mT / math.sqrt(q.size(-1))).masked_fill(~mask, -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):  # §3.1: LayerNorm(x + Sublayer(x)), two or three times
    def __init__(self, d_model, heads, d_ff, reads_source):
        super().__init__()
        self.attention, self.cross = Attention(d_model, heads), Attention(d_model, heads) if reads_source else None
        self.feed_forward = nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))  # §3.3
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2 + reads_source))

    def forward(self, x, mask, source=None, source_mask=None):
        first, *middle, last = self.norms
        x = first(x + self.dropped(self.attention(x, x, mask)))
        for norm in middle:
            x = norm(x + self.dropped(self.cross(x, source, source_mask)))
        return last(x + self.dropped(self.feed_forward(x)))

    def dropped(self, x):  # §5.4
        return F.dropout(x, 0.1, self.training)


class Transformer(nn.Module):  # figure 1
    def __init__(self, d_model=64, layers=2, heads=4, d_ff=256):
        super().__init__()
        self.table = nn.Embedding(VOCAB, d_model)  # §3.4: one for both sides and for the output
        nn.init.normal_(self.table.weight, std=d_model**-0.5)
        self.encoder = nn.ModuleList(Layer(d_model, heads, d_ff, False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(d_model, heads, d_ff, True) for _ in range(layers))

    def forward(self, source, target):  # (B, S) and (B, T) -> (B, T, V)
        keep = (source != PAD)[:, None, None]  # nobody looks at padding,
        past = torch.ones(target.size(1), target.size(1)).tril().bool()  # nor a target at what comes after it
        x, y = self.embed(source), self.embed(target)
        for layer in self.encoder:
            x = layer(x, keep)
        for layer in self.decoder:
            y = layer(y, past, x, keep)
        return y @ self.table.weight.T

    def embed(self, tokens):  # §3.4, and the sinusoids of §3.5
        size = self.table.embedding_dim
        angles = torch.arange(tokens.size(1)).double()[:, None] / 10000 ** (torch.arange(0, size, 2) / size)
        positions = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()
        return F.dropout(self.table(tokens) * math.sqrt(size) + positions, 0.1, self.training)


def batch(rows):  # words of up to 12 letters, and the same turned round
    words = [torch.randint(A, VOCAB, (length,)).tolist() for length in torch.randint(1, 13, (rows,)).tolist()]
    pairs = [[torch.tensor(word), torch.tensor([START, *word[::-1], END])] for word in words]
    return (nn.utils.rnn.pad_sequence(side, batch_first=True) for side in zip(*pairs, strict=True))  # PAD is 0


def train(model, steps=2500, warmup=400):
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    for step in range(1, steps + 1):
        source, target = batch(64)
        logits = model(source, target[:, :-1])  # teacher forcing
        loss = F.cross_entropy(logits.mT, target[:, 1:], ignore_index=PAD, label_smoothing=0.1)
        optimizer.param_groups[0]["lr"] = 64**-0.5 * min(step**-0.5, step * warmup**-1.5)  # §5.3, eq. 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step:4}  loss {loss:.3f}", end="\n" if step % 100 == 0 else "\r")


@torch.no_grad()
def write(model, source):  # greedily
    target = torch.full((len(source), 1), START)
    for _ in range(source.size(1) + 1):
        target = torch.cat([target, model(source, target)[:, -1:].argmax(-1)], dim=1)
    return target


if __name__ == "__main__":
    train(model := Transformer())
    source, target = batch(1000)
    right = ((write(model.eval(), source) == target) | (target == PAD)).all(1)
    print(f"{right.float().mean():.1%} of 1,000 words turned round")
