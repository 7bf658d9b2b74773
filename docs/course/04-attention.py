# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · Attention
#
# What a token means depends on others. Attention lets each position gather from all of them, and choose of which: by
# what it asks for, its query, and by what they offer, their keys. What they hand over are their values.
#
# *You will see* one head of attention in four lines, the same head in a trained model, and one of its numbers taken
# apart. *You need* lesson 3, positions. It runs in a few seconds.

# %% [markdown]
# ## A soft look-up
#
# A dictionary finds the key that equals the query, and gives its value. Attention compares the query with every key, by
# their product, and gives a mean of all values in which those of the best keys weigh most. The products are divided by
# $\sqrt{d_k}$, where $d_k$ is how many numbers a key has; why, is the subject of lesson 5.

# %%
import math

import torch

torch.set_printoptions(precision=2, sci_mode=False)
k = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0]])
v = torch.tensor([[1.0], [10.0], [100.0]])
for q in torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]):
    scores = k @ q / math.sqrt(2)
    weights = scores.exp() / scores.exp().sum()  # softmax: positive, and together 1
    print(f"q {q.tolist()}   scores {scores}   weights {weights}   context {weights @ v}")

# %% [markdown]
# The first query finds the first key, the second one two of them, and the last nothing: it gets the mean of all values.
# From here on the softmax is `.softmax()`, which subtracts the largest score first, so that `exp` cannot overflow.
#
# With a row for each query, key and value that is equation 1 of Vaswani et al. 2017:
#
# $$\text{Attention}(Q, K, V) = \text{softmax}\Big(\frac{Q K^\top}{\sqrt{d_k}}\Big)\, V$$
#
# ## In a trained model
#
# The model that comes along with the package reads a date and writes it as numbers. What it has written so far asks,
# the tokens that it reads answer: *cross-attention*. There are three heads, each with queries, keys and values of its
# own; this is the first.

# %%
import pellucid as pl
from pellucid.explorer.opening import SHIPPED
from pellucid.inference.reading import read

run = pl.load(SHIPPED)
reading = read(run, "vendredi 13 mars 2071")
tape = pl.trace(run.model, reading.inputs)
site = "decoder.blocks.0.cross_attention"

q, k, v = (tape[f"{site}.{name}"][0, 0] for name in "qkv")  # (T, K), (S, K), (S, K)
weights = (q @ k.T / math.sqrt(k.size(-1))).softmax(-1)
print(f"{len(q)} queries, {len(k)} keys; the weights of each query add up to", weights.sum(-1))
assert torch.allclose(weights, tape[f"{site}.weights"][0, 0], atol=1e-5)
assert torch.allclose(weights @ v, tape[f"{site}.context"][0, 0], atol=1e-5)

# %%
# %matplotlib inline
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 3.4), layout="constrained")
ax = figure.subplots()
ax.imshow(weights.detach(), cmap="Blues", vmin=0, vmax=1)
ax.set_xticks(range(len(k)), reading.pieces, rotation=45)
ax.set_yticks(range(len(q)), reading.target)
ax.set(xlabel="key: a token that was read", ylabel="query: written so far")
figure

# %% [markdown]
# After `<s>` the year is due, after the first dash the month, after the second the day. Each time the query finds the
# token that tells it. Nobody told the model where in the text the month stands: the query asks for one, and the key of
# `mars` says that it is one.
#
# ## Where they come from
#
# From three matrices that are learned. Queries are projected from the states of the target, keys and values from those
# of the source. In *self-attention* both are the same text.

# %%
part = run.model.get_submodule(site)
asking = tape["decoder.blocks.0.cross_attention_residual.before.out"][0]
answering = tape["encoder.final_norm.out"][0]
K = part.head_dim
for found, layer, states in (q, part.query, asking), (k, part.key, answering), (v, part.value, answering):
    assert torch.allclose(found, states @ layer.weight[:K].T + layer.bias[:K], atol=1e-4)
    print(f"({len(states)}, {states.size(-1)}) @ ({states.size(-1)}, {K}) gives ({found.size(0)}, {found.size(1)})")

# %% [markdown]
# ## One number, explained
#
# Why the third query (the first dash) looks at key 6 (`mars`): the sum of products that is its score, and what the
# softmax makes of it. The place is batch, head, query, key; the largest terms come first.

# %%
print(tape.explain(f"{site}.scores", (0, 0, 2, 6), terms=4))
print(tape.explain(f"{site}.weights", (0, 0, 2, 6), terms=4))

# %% [markdown]
# A sum has no order. Keys and values shuffled alike give the same context, which is why positions have to be told
# (lesson 3).

# %%
order = torch.randperm(len(k))
assert torch.allclose((q @ k[order].T / math.sqrt(K)).softmax(-1) @ v[order], weights @ v, atol=1e-4)

# %% [markdown]
# ## Exercise: attention
#
# Write equation 1. `q` is (B, H, T, K), `k` and `v` are (B, H, S, K): batch, heads, positions, numbers of a head. What
# stands there has the softmax on the wrong axis: the weights of a key add up to 1, and those of a query to anything.


# %%
import torch.nn.functional as F


def attention(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
    return scores.softmax(-2) @ v  # your turn


def judge(attention):
    """Whether values that are all 1 give 1, and others the context: the model's, and PyTorch's at random sizes."""
    torch.manual_seed(0)
    tape, cases = pl.trace(run.model, read(run, "3 June 1999").inputs), []
    for site in "encoder.blocks.0.self_attention", "decoder.blocks.0.cross_attention":
        cases.append((site, *(tape[f"{site}.{name}"].detach() for name in ("q", "k", "v", "context"))))
    for B, H, T, S, K in torch.randint(1, 20, (5, 5)).tolist():
        q, k, v = torch.randn(B, H, T, K), torch.randn(B, H, S, K), torch.randn(B, H, S, K)
        cases.append((f"K = {K}, {T} queries, {S} keys", q, k, v, F.scaled_dot_product_attention(q, k, v)))
    for where, q, k, v, context in cases:
        try:
            ones, found = attention(q, k, torch.ones_like(v)), attention(q, k, v)
            shapes = ones.shape, found.shape
        except Exception as error:
            return print(f"not yet: {where}: {type(error).__name__}: {error}")
        if shapes != (context.shape, context.shape):
            return print(f"not yet: {where}: the shape should be {tuple(context.shape)}, and is {tuple(found.shape)}")
        if not torch.allclose(ones, torch.ones_like(ones), atol=1e-4):
            return print(f"not yet: {where}: of values that are all 1 it makes {ones.min():.2g} to {ones.max():.2g}")
        if not torch.allclose(found, context, atol=1e-4):
            return print(f"not yet: {where}: the context is {(found - context).abs().max():.2g} off")
    print("right")


judge(attention)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
    return scores.softmax(-1) @ v


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid explore`: this model in the browser; a click on a weight explains it. More ways to look:
#   [the guide to tracing](../guides/tracing.md).
# - `pellucid lab recall`: what attention finds many tokens back, and an LSTM does not.
# - Names of these tensors in other libraries: [the glossary](../GLOSSARY.md).
# - Vaswani et al. 2017, §3.2.1; before it, Bahdanau et al. 2015. Next: [why $\sqrt{d_k}$](05-scale.py).
