# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3 · Positions
#
# Attention, the subject of the next lesson, takes the vectors of a text as a set: it cannot tell which came first. So
# each vector has to say where it stands.
#
# *You will see* what a model without positions mixes up, the sines and cosines of the paper, and why with them the step
# from one place to another is a rotation. *You need* lesson 2, embeddings. It runs in a few seconds.

# %% [markdown]
# ## Without them
#
# Three encoders read the same tokens in two orders. One of them is told no positions: what it makes of a token is the
# same in both. `dog bites man` and `man bites dog` are one text to it.

# %%
import torch

import pellucid as pl
from pellucid.config.model import Encoder, Tokens, XavierInit
from pellucid.config.parts import Attention, FeedForward, NoPositions, Rotary, Sinusoidal, Stack

V, D = 20, 64


def encoder(positions):
    torch.manual_seed(0)
    shape = {"d_model": D, "num_layers": 1, "attention": Attention(num_heads=2), "feed_forward": FeedForward(d_ff=128)}
    front, stack = Tokens(vocab_size=V, scaled=True), Stack(**shape, positions=positions)
    return pl.build(Encoder(front=front, stack=stack, init=XavierInit())).eval()


ids, order = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]]), torch.tensor([4, 2, 7, 1, 0, 5, 3, 6])
for positions in NoPositions(), Sinusoidal(), Rotary():
    model = encoder(positions)
    apart = (model(ids)[:, order] - model(ids[:, order])).abs().max().item()
    print(f"{type(positions).__name__:12} {apart:.5f} apart")

# %% [markdown]
# ## Sines and cosines
#
# The paper adds to each embedding a vector that depends on the position alone (Vaswani et al. 2017, §3.5). Its numbers
# come in pairs, and pair $i$ has the frequency $\omega_i$:
#
# $$PE(p, 2i) = \sin(\omega_i\, p) \quad PE(p, 2i+1) = \cos(\omega_i\, p) \quad \omega_i = 10000^{-2i/d_\text{model}}$$
#
# The first pair turns by one radian a position, the last by about a ten-thousandth: hands of a clock, fast and slow.

# %%
p = torch.arange(100).double()
omega = 10000 ** -(torch.arange(0, D, 2).double() / D)
angle = p[:, None] * omega
PE = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)

tape = pl.trace(encoder(Sinusoidal()), torch.zeros(1, 100, dtype=torch.long), watch="embedding.*")
added = tape["embedding.positions"] - tape["embedding.tokens"]
assert torch.allclose(added[0], PE.float(), atol=1e-5)

# %%
# %matplotlib inline
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 2.6), layout="constrained")
ax = figure.subplots()
ax.imshow(PE.T, aspect="auto", cmap="RdBu", interpolation="nearest")
ax.set(xlabel="position", ylabel="number of the vector")
figure

# %% [markdown]
# ## A step is a rotation
#
# Going $k$ places on turns pair $i$ by the angle $\omega_i k$, wherever one begins. So $PE(p + k) = R_k\, PE(p)$, with
# a matrix that depends on $k$ alone. The paper chose sinusoids in the hope that this makes it easy to attend by
# relative positions.


# %%
def rotation(k):
    """(D, D): turns every pair (sin, cos) by its frequency times k."""
    blocks = [torch.tensor([[c, s], [-s, c]]) for c, s in zip((omega * k).cos(), (omega * k).sin(), strict=True)]
    return torch.block_diag(*blocks)


for k in 1, 7, -30:
    assert torch.allclose(PE[40:60] @ rotation(k).T, PE[40 + k : 60 + k])

# %% [markdown]
# What follows: the product of two of them depends on their distance alone, $PE(p) \cdot PE(q) = \sum_i \cos(\omega_i
# (p - q))$. It is largest at distance 0. Along each diagonal of the matrix of all products stands one number.

# %%
products = PE @ PE.T
assert torch.allclose(products[1:, 1:], products[:-1, :-1])
print("distance", *(f"{distance:5}" for distance in (0, 1, 2, 4, 8, 16, 32, 64)))
print("product ", *(f"{products[0, distance]:5.1f}" for distance in (0, 1, 2, 4, 8, 16, 32, 64)))
assert torch.allclose(products[0], (p[:, None] * omega).cos().sum(-1))

# %% [markdown]
# ## Turning queries and keys
#
# In a model tokens and positions are added before anything is multiplied, and products of the one with the other come
# in. *Rotary* positions (Su et al. 2021, §3.2) add nothing. They turn the two vectors whose product says how much one
# position looks at another, its query $q$ and the other's key $k$, by the rotations above:
#
# $$(R_p\, q) \cdot (R_s\, k) = q \cdot R_{s-p}\, k$$
#
# The product then depends on the two tokens and on their distance. That is seen best where one token stands everywhere.

# %%
torch.set_printoptions(precision=1, sci_mode=False)
same = torch.full((1, 6), 3)
for positions in Sinusoidal(), Rotary():
    tape = pl.trace(encoder(positions), same, watch="blocks.0.self_attention.scores")
    scores = tape["blocks.0.self_attention.scores"][0, 0]
    print(type(positions).__name__, scores, sep="\n")
assert torch.allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-5)

# %% [markdown]
# ## Exercise: the table
#
# Write the table of sines and cosines, (length, d_model). What stands there takes the $2i$ of the formula for twice the
# number of the column. It looks right, and many have written it so. `pl.doctor` examines models for faults
# (lesson 20); it is shown one that holds the table.


# %%
from torch import nn

from pellucid.nn.positions import SinusoidalPositions


def sinusoids(length, d_model):
    p, column = torch.arange(length)[:, None], torch.arange(d_model)
    angle = p * 10000.0 ** -(2 * column / d_model)  # your turn
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


class Reader(nn.Module):
    """Adds a table to its embeddings and scores each token by itself."""

    def __init__(self, table):
        super().__init__()
        self.tokens, self.project = nn.Embedding(V, table.size(1)), nn.Linear(table.size(1), V)
        self.register_buffer("table", table)

    def forward(self, ids):
        return self.project(self.tokens(ids) + self.table[: ids.size(1)])


def judge(sinusoids):
    """What the doctor says of the table, and whether it is what pellucid adds."""
    for length, d_model in (100, 64), (80, 6), (300, 128):
        case = f"not yet: d_model {d_model}:"
        try:
            table = torch.as_tensor(sinusoids(length, d_model)).float()
            if table.shape != (length, d_model):
                return print(f"{case} the shape should be {(length, d_model)}, and is {tuple(table.shape)}")
            finding = pl.doctor(Reader(table), pl.Spec(kind="encoder"), only=["pos.sinusoid"])["pos.sinusoid"]
        except Exception as error:
            return print(f"{case} {type(error).__name__}: {error}")
        if finding.status == "FAIL":
            return print(f"{case} {finding.seen}")
        right = SinusoidalPositions(d_model, base=10000.0, interleaved=True).code(torch.arange(length))
        if (wrong := ~((table - right).abs() < 1e-3)).any():
            p, n = wrong.nonzero()[0].tolist()
            return print(f"{case} number {n} of position {p} is {table[p, n]:.4f}, and should be {right[p, n]:.4f}")
    print("right")


judge(sinusoids)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(length, d_model):
    """Both of a pair have one frequency, and i counts pairs."""
    p, pair = torch.arange(length)[:, None], torch.arange(d_model // 2)
    angle = p * 10000.0 ** -(2 * pair / d_model)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid lab positions`: no positions, learned ones, sinusoids, rotary, ALiBi and T5's bias, in texts as long as in
#   training and four times as long.
# - `model.stack.positions=rotary` on the command line of `pellucid train`: [the guide](../guides/training.md).
# - Vaswani et al. 2017, §3.5; Su et al. 2021, *RoFormer*, §3.2 and §3.4; Press et al. 2022, *ALiBi*.
# - Where scores come from, and what is done with them: [attention](04-attention.py).
