# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · Why √d_k
#
# Scores are products of queries and keys, divided by $\sqrt{d_k}$. That is one number, and easily left out or taken
# wrong: the model runs all the same, and learns badly.
#
# *You will see* how products grow with the width of a head, what that does to the softmax, and what comes back through
# it. *You need* lesson 4, attention. It runs in a few seconds.

# %% [markdown]
# ## Products grow
#
# Let the numbers of a query and of a key be independent, of mean 0 and variance 1. Then each term of $q \cdot k =
# \sum_i q_i k_i$ has variance 1, and the sum of $d_k$ of them variance $d_k$ (Vaswani et al. 2017, footnote 4). Divided
# by $\sqrt{d_k}$ it has variance 1 at any width.

# %%
import torch

torch.manual_seed(0)
for d_k in 4, 16, 64, 256, 1024:
    q, k = torch.randn(4000, d_k), torch.randn(4000, d_k)
    products = (q * k).sum(-1)
    print(f"d_k {d_k:4}   variance {products.var():6.1f}   divided {(products / d_k**0.5).var():.2f}")

# %% [markdown]
# ## The softmax saturates
#
# The softmax looks at differences between scores. Let them grow, and one weight takes all. A gradient, on its way back,
# is multiplied by the derivatives of weights $w$ by scores $s$:
#
# $$\frac{\partial w_i}{\partial s_j} = w_i\, (\delta_{ij} - w_j)$$
#
# Where every weight is 0 or 1, all of them are 0.


# %%
def derivatives(weights):
    """(…, S, S), of the weights (…, S) by their scores."""
    return torch.diag_embed(weights) - weights[..., :, None] * weights[..., None, :]


for factor in 1, 4, 16:
    scores = factor * torch.tensor([1.0, 0.5, -0.5, -1.0])
    weights = scores.softmax(-1)
    slopes = derivatives(weights)
    assert torch.allclose(slopes, torch.autograd.functional.jacobian(lambda s: s.softmax(-1), scores), atol=1e-6)
    print(f"times {factor:2}   weights", *(f"{w:.4f}" for w in weights), f"  largest slope {slopes.abs().max():.4f}")

# %% [markdown]
# Random queries look at 64 random keys, in heads of more and more numbers. Left, the largest weight of a query; right,
# how large its derivatives are together. Both are medians: of half of the queries it is more, of half less.

# %%
# %matplotlib inline
from matplotlib.figure import Figure


def largest(weights):
    return weights.amax(-1).median().item()


def passed_back(weights):
    return derivatives(weights).norm(dim=(-2, -1)).median().item()


sizes = [1, 4, 16, 64, 256, 1024]
figure = Figure(figsize=(6.4, 2.6), layout="constrained")
axes = figure.subplots(1, 2)
for label, power in ("not divided", 0), ("divided by √d_k", -0.5):
    found = [(torch.randn(256, d_k) @ torch.randn(64, d_k).T * d_k**power).softmax(-1) for d_k in sizes]
    axes[0].plot(sizes, [largest(weights) for weights in found], label=label)
    axes[1].plot(sizes, [passed_back(weights) for weights in found], label=label)
for ax, what in zip(axes, ("largest weight", "size of derivatives"), strict=True):
    ax.set(xscale="log", xlabel="d_k", ylabel=what)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
figure

# %% [markdown]
# Undivided, a wide head has made up its mind before it has learned anything: at 1024 half of its queries get next to
# nothing back that could change it. A narrow one does not suffer, which the paper says as well (§3.2.1).
#
# ## In a model
#
# Two encoders with the same weights, fresh, and one head of 256. Their queries have the variance of footnote 4. One of
# them does not divide.

# %%
import pellucid as pl
from pellucid.config.model import Encoder, Tokens, XavierInit
from pellucid.config.parts import Attention, FeedForward, Stack


def encoder(scale):
    torch.manual_seed(0)
    shape = {"attention": Attention(num_heads=1, scale=scale), "feed_forward": FeedForward(d_ff=64)}
    stack = Stack(d_model=256, num_layers=1, **shape, placement="pre")
    return pl.build(Encoder(front=Tokens(vocab_size=50, scaled=True), stack=stack, init=XavierInit())).eval()


ids, site, scores = torch.randint(50, (4, 64)), "blocks.0.self_attention", {}
for scale in None, 1.0:
    with torch.no_grad():
        tape = pl.trace(encoder(scale), ids, watch=f"{site}.*")
    q, scores[scale], weights = (tape[f"{site}.{name}"] for name in ("q", "scores", "weights"))
    print(f"scale {scale}: deviation of q {q.std():.2f}, of scores {scores[scale].std():5.2f};", end=" ")
    print(f"largest weight {largest(weights):.2f}, derivatives {passed_back(weights):.3f}")
assert torch.allclose(scores[None], scores[1.0] / 256**0.5, atol=1e-5)

# %% [markdown]
# ## Exercise: the scale
#
# Attention of several heads, in plain PyTorch. `scale(q)` is given the queries, (B, H, T, K): batch, heads, positions,
# numbers of a head. What it returns multiplies the products. What stands there takes the width of all heads together,
# and is right only where there is one. The doctor reads the scale off products and scores, before anything is trained.


# %%
from torch import nn


def scale(q):
    return (q.size(1) * q.size(3)) ** -0.5  # your turn


class Model(nn.Module):
    """An encoder of one layer whose scale is a function that one can exchange."""

    def __init__(self, scale, num_heads, head_dim, vocab=20):
        super().__init__()
        self.scale, self.split = scale, (3, num_heads, head_dim)
        self.table, self.qkv = nn.Embedding(vocab, 32), nn.Linear(32, 3 * num_heads * head_dim)
        self.out, self.project = nn.Linear(num_heads * head_dim, 32), nn.Linear(32, vocab)

    def forward(self, ids):
        x = self.table(ids)
        q, k, v = self.qkv(x).unflatten(-1, self.split).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * self.scale(q)).softmax(-1)
        return self.project(x + self.out((weights @ v).transpose(1, 2).flatten(2)))


def judge(scale):
    """What the doctor says of models with heads of several numbers and widths. It has to pass, not only not to fail."""
    for num_heads, head_dim in (2, 8), (1, 12), (4, 4), (3, 20), (8, 16):
        torch.manual_seed(0)
        case = f"not yet: {num_heads} heads of {head_dim}:"
        try:
            float(scale(torch.randn(2, num_heads, 5, head_dim)))  # one number for all, whatever is asked
            spec = pl.Spec(kind="encoder", vocab_size=20)
            finding = pl.doctor(Model(scale, num_heads, head_dim), spec, only=["attn.scale"])["attn.scale"]
        except Exception as error:
            return print(f"{case} {type(error).__name__}: {error}")
        if finding.status != "PASS":
            return print(f"{case} {finding.seen or finding.status}")
    print("right")


judge(scale)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(q):
    return q.size(-1) ** -0.5


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid lab scale` trains both: with heads of 256 the one that divides learns to copy in 200 steps, the other does
#   not. [The guide to the lab](../guides/lab.md) has the numbers.
# - `pellucid doctor file.py:Model` asks this and many other questions: [the guide](../guides/doctor.md).
# - T5 does not divide, and starts with smaller queries instead (Raffel et al. 2020): `pl.Spec(scale=1.0)` says so.
# - Vaswani et al. 2017, §3.2.1. Next: who may look where, [the mask](06-the-mask.py).
