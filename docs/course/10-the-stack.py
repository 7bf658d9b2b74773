# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · The stack
#
# All parts are there: embeddings, positions, attention under a mask, heads, feed-forward layers, residual connections
# and norms. A decoder is a stack of equal blocks of them.
#
# *You will see* a whole decoder in a few lines, which gives the same as one of pellucid with the same weights; how many
# parameters it has and where; and what they cost. *You need* lesson 9, residuals and norms. It runs in a few seconds.

# %% [markdown]
# ## A decoder, put together
#
# First the model: small, and like GPT-2, with learned positions and norms before the sub-layers, in all but the
# activation: this is the exact GELU, which GPT-2 approximates (lesson 19).

# %%
import torch

import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.parts import Attention, FeedForward, Learned, Stack


def shape(V, D, L, F, H, length, tied=True):
    parts = {"attention": Attention(num_heads=H), "feed_forward": FeedForward(d_ff=F, activation="gelu")}
    stack = Stack(d_model=D, num_layers=L, **parts, positions=Learned(max_length=length), placement="pre")
    return Decoder(front=Tokens(vocab_size=V), stack=stack, tie=("target", "output") if tied else ())


config = shape(V=50, D=32, L=3, F=128, H=4, length=64)
torch.manual_seed(0)
model = pl.build(config).eval()
weights = model.state_dict()
for name, weight in weights.items():
    if not name.startswith(("blocks.1", "blocks.2")):
        print(f"{name:47} {list(weight.shape)}")

# %% [markdown]
# Then the same by hand, with these weights under these names. Everything that happens to the stream `x` is in two lines
# that begin with `x = x +`.

# %%
from torch.nn import functional


def linear(x, name):
    return x @ weights[f"{name}.weight"].mT + weights[f"{name}.bias"]


def norm(x, name):
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def decoder(ids, L=3, H=4):
    B, T = ids.shape
    future = ~torch.ones(T, T).tril().bool()
    x = weights["embedding.table.weight"][ids] + weights["embedding.positions.table.weight"][:T]
    for block in (f"blocks.{i}" for i in range(L)):
        y = norm(x, f"{block}.self_attention_residual.before")
        projected = (linear(y, f"{block}.self_attention.{name}") for name in ("query", "key", "value"))
        q, k, v = (each.view(B, T, H, -1).transpose(1, 2) for each in projected)
        scores = (q @ k.mT / q.size(-1) ** 0.5).masked_fill(future, -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{block}.self_attention.out")
        y = norm(x, f"{block}.feed_forward_residual.before")
        x = x + linear(functional.gelu(linear(y, f"{block}.feed_forward.up")), f"{block}.feed_forward.down")
    return norm(x, "final_norm") @ weights["head.project.weight"].mT


ids = torch.randint(50, (2, 10))
with torch.no_grad():
    assert torch.allclose(decoder(ids), model(ids), atol=1e-5)
    print(f"apart by {(decoder(ids) - model(ids)).abs().max():.1g}")

# %% [markdown]
# ## Where the parameters are
#
# `pl.size` works out from a config what the built model has. The matrix of the head is *tied*: it is the embedding
# table once more, and counts once. Here is GPT-2, whose paper says 117M; its published weights are these.

# %%
size = pl.size("gpt2")
for part in size.parts:
    print(f"{part.name:40} {part.parameters:11,}   {part.parameters / size.parameters:5.1%}", "tied" * part.tied)
print(f"{'in all':40} {size.parameters:11,}")

# %% [markdown]
# Attention has four matrices of $D^2$ in each layer, the feed-forward layer two of $DF$. With $F = 4D$ that is the rule
# of thumb $N \approx 12 L D^2$, to which comes the table of $VD$.

# %%
for name in "gpt2", "gpt2-xl", "gpt3-175b":
    found, stack = pl.size(name), pl.preset(name).model.stack
    blocks = 12 * stack.num_layers * stack.d_model**2
    print(f"{name:10} {found.parameters:15,}   12·L·D² is {blocks / found.parameters:5.1%} of them")

# %% [markdown]
# ## What they cost
#
# Each number of a matrix is multiplied and added once for each position: two floating-point operations. On top of it
# come the two products of attention, $4TD$ a position and layer. PyTorch counts what really runs, and finds the same.

# %%
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counted:
    decoder(torch.randint(50, (1, 64)))
flops = pl.size(config, length=64).flops
assert counted.get_total_flops() == flops.forward
print(f"{flops.weights:,} with weights + {flops.attention:,} in attention = {flops.forward:,}")

# %% [markdown]
# The backward pass takes two products for each one of the forward pass, so that training takes about $6N$ operations a
# token (Kaplan et al. 2020, §2.1). GPT-3 read 300 billion tokens, and its paper names $3.14 \cdot 10^{23}$ operations
# (Brown et al. 2020, appendix D).

# %%
gpt3 = pl.size("gpt3-175b")
print(f"6·N·tokens {6 * gpt3.parameters * 300e9:.3g}")
print(f"attention and head counted too {gpt3.flops.per_token(gpt3.flops.training) * 300e9:.3g}")

# %% [markdown]
# ## Exercise: the number of parameters
#
# Write the exact number, as a formula, for any model of `shape`. The list at the top has all there is to count. The
# number of heads does not matter (lesson 7). What stands there is the rule of thumb.


# %%
def parameters(V, D, L, F, length, tied):
    return 12 * L * D**2 + V * D  # your turn


def judge(parameters):
    """Counts what is built, for sizes drawn at random."""
    torch.manual_seed(0)
    for case in range(10):
        V, L, length = torch.randint(3, 60, (3,)).tolist()
        heads, L, D = 1 + case % 3, 1 + L % 5, 12 * (1 + case % 4)
        F, tied = (4 * D, 3 * D + 1)[case % 2], case % 3 > 0
        built = sum(p.numel() for p in pl.build(shape(V, D, L, F, heads, length, tied)).parameters())
        says = f"V {V}, D {D}, L {L}, F {F}, length {length}, {'tied' if tied else 'not tied'}"
        try:
            found = parameters(V, D, L, F, length, tied)
            if found != built:
                return print(f"not yet: {says}: {found:,}, and built it has {built:,}: {built - found:+,}")
        except Exception as error:
            return print(f"not yet: {says}: {type(error).__name__}: {error}")
    print("right")


judge(parameters)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(V, D, L, F, length, tied):
    attention = 4 * (D * D + D)
    feed_forward = D * F + F + F * D + D
    norm = 2 * D
    tables = (V if tied else 2 * V) * D + length * D
    return tables + L * (attention + feed_forward + 2 * norm) + norm


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid size gpt3-175b --machine h100`: the same with memory and time; any preset, run or folder, and settings to
#   change: `pellucid size gpt2 model.stack.num_layers=24`.
# - [The architecture](../ARCHITECTURE.md) walks through one pass of pellucid's own code.
# - Kaplan et al. 2020, §2.1; Vaswani et al. 2017, Table 1, has the cost of a layer against the length of the text.
