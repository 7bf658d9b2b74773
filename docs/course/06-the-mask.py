# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6 · The mask
#
# A decoder is trained on all positions of a text at once: at each it has to say what comes next. What comes next stands
# in the same row, one place to the right. Were it allowed to look there, it would learn to copy and nothing else.
#
# *You will see* what a mask is, what is left of attention under it, and what a model that was trained without one says.
# *You need* lesson 4, queries, keys and values. It runs in a few seconds.

# %% [markdown]
# ## A rule, asked of every pair
#
# A mask answers one question: may position $t$ look at position $s$? For a decoder the answer is $s \le t$. As a
# matrix, with a row for each query and a column for each key, that is the lower triangle.

# %%
import torch

T = 6
query, key = torch.arange(T)[:, None], torch.arange(T)
past = key <= query
past.int()

# %% [markdown]
# ## Before the softmax, not after it
#
# A hidden score becomes $-\infty$. Since $e^{-\infty} = 0$, it gets no weight, and the softmax shares what there is
# among the others: every row still adds up to 1.

# %%
torch.manual_seed(0)
scores = torch.randn(T, T)
weights = scores.masked_fill(~past, -torch.inf).softmax(-1)
print(weights.round(decimals=2))
weights.sum(-1)

# %% [markdown]
# Setting weights to zero *after* the softmax looks alike and is not. The rows no longer add up to 1, and what they add
# up to depends on the scores that were to be hidden: the future shines through.

# %%
late = scores.softmax(-1) * past
louder = scores.clone()
louder[0, 5] += 3  # a score that position 0 must not see
print(f"adds up to {late[0].sum():.3f}; when the hidden score grows, to {(louder.softmax(-1) * past)[0].sum():.3f}")

# %% [markdown]
# ## In a model
#
# The names below are those of every decoder in pellucid. `scores` are recorded after the mask, so that what is
# hidden is $-\infty$ there too.

# %%
import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.parts import Attention, FeedForward, Stack

stack = Stack(d_model=32, num_layers=2, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=64))
model = pl.build(Decoder(front=Tokens(vocab_size=20), stack=stack)).eval()

ids = torch.tensor([[3, 1, 4, 1, 5]])
tape = pl.trace(model, ids, watch="blocks.0.self_attention.*")
print(tape["blocks.0.self_attention.scores"][0, 0].round(decimals=2))
print(tape["blocks.0.self_attention.weights"][0, 0].round(decimals=2))

# %% [markdown]
# The law that follows can be tested without looking inside: *what comes later changes nothing before it*.

# %%
other = ids.clone()
other[:, 3:] = 7  # another future
assert torch.equal(model(ids)[:, :3], model(other)[:, :3])
assert not torch.equal(model(ids)[:, 3:], model(other)[:, 3:])

# %% [markdown]
# ## Without it
#
# A decoder of plain PyTorch whose mask is a function that one can exchange. Trained without a mask on letters drawn at
# random, in which nothing can be foreseen, it seems to foresee everything. The loss (lesson 11) is in *nats*: $-\ln$ of
# the probability given to the right letter, on average.

# %%
import math

import torch.nn.functional as F
from torch import nn


class GPT(nn.Module):
    """One layer of one head; `mask` gives for T positions who may look where, (T, T), True where allowed."""

    def __init__(self, mask, vocab=20, d_model=32):
        super().__init__()
        self.mask = mask
        self.table, self.places = nn.Embedding(vocab, d_model), nn.Embedding(64, d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.norm, self.project = nn.LayerNorm(d_model), nn.Linear(d_model, vocab)

    def forward(self, ids):
        x = self.table(ids) + self.places.weight[: ids.size(1)]
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        scores = q @ k.mT / math.sqrt(q.size(-1))
        weights = scores.masked_fill(~self.mask(ids.size(1)), -math.inf).softmax(-1)
        return self.project(x + self.out(weights @ v))


def causal(T):
    return torch.ones(T, T, dtype=torch.bool).tril()


def everywhere(T):
    return torch.ones(T, T, dtype=torch.bool)


def trained(mask, steps=300):
    torch.manual_seed(0)
    model = GPT(mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        ids = torch.randint(20, (32, 16))
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, loss.item()


print(f"nothing can be known: {math.log(20):.2f} nats")
for mask in causal, everywhere:
    leaking, loss = trained(mask)
    print(f"{mask.__name__:10}  {loss:.2f} nats")

# %% [markdown]
# A loss lower than the data allow is the surest sign of a leak. With real data nobody knows what they allow; the loss
# only seems good. The doctor does not look at the loss: it changes the future and watches the past.

# %%
print(pl.doctor(leaking, only=["causal", "attn.mask"]))

# %% [markdown]
# ## Exercise: a window
#
# Mistral's decoder lets each position see the last `W` keys only, itself included. Write the mask for `W = 4`. What
# stands there hides the distant past as it should, and shows something that must not be seen.


# %%
def window(T, W=4):
    query, key = torch.arange(T)[:, None], torch.arange(T)
    return (key - query).abs() < W  # your turn


def judge(mask):
    """What the doctor says of the future and of the window; then whether every query sees just what it should."""
    torch.manual_seed(0)
    try:
        report = pl.doctor(GPT(mask), pl.Spec(kind="decoder", window=4), only=["causal", "attn.mask"])
        if wrong := report.of("FAIL"):
            return print("not yet: " + "; ".join(f"{finding.check}: {finding.seen}" for finding in wrong))
        for T in 3, 8, 11:
            found, ones = mask(T), torch.ones(T, T, dtype=torch.bool)
            if found.shape != ones.shape or ((found != 0) != (ones.tril() & ~ones.tril(-4))).any():
                return print(f"not yet: of {T} positions some query does not see exactly the last 4 keys")
    except Exception as error:
        return print(f"not yet: {type(error).__name__}: {error}")
    print("right")


judge(window)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(T, W=4):
    query, key = torch.arange(T)[:, None], torch.arange(T)
    return (key <= query) & (query - key < W)


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid lab mask`: the same with text, and what such a model writes.
# - Padding is hidden in the same way; the doctor asks `pad.invariance`. It may stand on either side, and
#   [the glossary](../GLOSSARY.md) says which libraries mean True by "real" and which by "padding".
# - Vaswani et al. 2017, §3.2.3; windows: Jiang et al. 2023, *Mistral 7B*.
