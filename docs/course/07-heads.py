# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Heads
#
# Attention gives each position one weighted mean of values. A position that needs two things from two places gets a
# mixture of both. Several heads are several means, each with weights of its own.
#
# *You will see* what a mean forgets, how heads are cut out of the channels, that they run apart and are added up, and
# a trained model that uses them. *You need* lesson 4, queries, keys and values. It runs in a few seconds.

# %% [markdown]
# ## What a mean forgets
#
# A position needs to know what stands at places 0 and 1, in this order. A single head can look at both, and the order
# is lost; unequal weights would keep it, in sizes alone. Two heads look at one place each, and what they find is put
# side by side. Vaswani et al. 2017, §3.2.2: with a single head, averaging inhibits looking at several places.

# %%
import torch

A, B, C = torch.eye(3)
one_head = torch.tensor([0.5, 0.5, 0.0])
two_heads = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
for text, values in ("A B C", torch.stack([A, B, C])), ("B A C", torch.stack([B, A, C])):
    print(text, " ", (one_head @ values).tolist(), " ", (two_heads @ values).flatten().tolist())

# %% [markdown]
# ## Heads are pieces of the channels
#
# In a model a head is not a module. Queries, keys and values are projected as for one head of width $D$, and head $h$
# takes channels $hK$ to $(h + 1)K$ of them, where $K = D / H$. So $H$ heads have as many parameters as one.


# %%
def attend(q, k, v):
    """One causal head: (B, T, K) each."""
    T = q.size(1)
    scores = (q @ k.mT / q.size(-1) ** 0.5).masked_fill(~torch.ones(T, T).tril().bool(), -torch.inf)
    return scores.softmax(-1) @ v


def heads_apart(q, k, v, H):
    """What each head gathers, (B, T, K), from all that was projected, (B, T, D)."""
    return [attend(*own) for own in zip(*(x.chunk(H, dim=-1) for x in (q, k, v)), strict=True)]


# %% [markdown]
# ## In a model
#
# In pellucid `q`, `k`, `v` and `context` have an axis for the heads, (B, H, T, K). The law: heads that were computed
# apart and put side by side give what the module gives.

# %%
import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.parts import Attention, FeedForward, Stack

stack = Stack(d_model=32, num_layers=1, attention=Attention(num_heads=4), feed_forward=FeedForward(d_ff=64))
torch.manual_seed(0)
model = pl.build(Decoder(front=Tokens(vocab_size=20), stack=stack)).eval()
attention = model.blocks[0].self_attention

ids = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
with torch.no_grad():
    tape = pl.trace(model, ids)
    x = tape["blocks.0.residual_pre"]
    apart = heads_apart(attention.query(x), attention.key(x), attention.value(x), H=4)
    side_by_side = torch.cat(apart, dim=-1)
    assert torch.allclose(attention.out(side_by_side), tape["blocks.0.self_attention.out"], atol=1e-5)
print("context", list(tape["blocks.0.self_attention.context"].shape), "side by side", list(side_by_side.shape))

# %% [markdown]
# The last projection mixes the heads, or so it looks. A product with vectors put side by side is a sum of products, so
# each head has its own $K$ columns of `out`, and writes by itself to the *residual stream*, the vector that every layer
# adds to (lesson 9). Taking one away takes away what it wrote and nothing else.

# %%
from pellucid.trace import Where, zero

with torch.no_grad():
    written = [gathered @ W.T for gathered, W in zip(apart, attention.out.weight.split(8, dim=1), strict=True)]
    assert torch.allclose(sum(written) + attention.out.bias, tape["blocks.0.self_attention.out"], atol=1e-5)
    without = pl.trace(model, ids, edits={"blocks.0.self_attention.context": zero(Where(heads=[2]))})
gone = tape["blocks.0.self_attention.out"] - without["blocks.0.self_attention.out"]
assert torch.allclose(gone, written[2], atol=1e-5)

# %% [markdown]
# ## In one that was trained
#
# The model that `pellucid explore` opens reads dates in many languages. In the second layer of its encoder, the first
# piece of the weekday has three heads to look with. Here is where they look, in a date in French.

# %%
from pellucid.explorer.opening import SHIPPED
from pellucid.inference.reading import read

run = pl.load(SHIPPED)
reading = read(run, "vendredi 13 mars 2071")
weights = pl.trace(run.model, reading.inputs, watch="*.weights")["encoder.blocks.1.self_attention.weights"]
print("piece   ", *(f"{piece:>5}" for piece in reading.pieces))
for h, row in enumerate(weights[0, :, 0]):
    print(f"head {h}  ", *(f"{weight:5.2f}" for weight in row.tolist()))

# %% [markdown]
# ## A mistake that runs
#
# To do all heads at once they become an axis. Between (B, H, T, K) and (B, T, H·K) two axes must change places before
# any are joined. Without that the shapes fit all the same and no error is raised. Here each number says which position
# it is of.

# %%
H, T, K = 2, 4, 2
context = torch.arange(T)[:, None].expand(1, H, T, K)
print(context.transpose(1, 2).reshape(1, T, H * K)[0])
print(context.reshape(1, T, H * K)[0])

# %% [markdown]
# In the second, position 0 goes on with what position 1 has gathered: pieces of several positions, and of the future.
# The doctor knows the mistake, on the way in and on the way out, as `attn.heads`.

# %% [markdown]
# ## Exercise: the split
#
# Write the way in, from (B, T, D) to (B, H, T, K), head $h$ having channels $hK$ to $(h + 1)K$, as a view: nothing is
# copied. What stands there gives the right shape, and the heads share out the text in place of the channels.


# %%
def split(x, H):
    B, T, D = x.shape
    return x.view(B, H, T, D // H)  # your turn


def judge(split):
    """Numbers every channel of every position, and looks where the numbers went."""
    torch.manual_seed(0)
    for B, T, H, K in [(1, 2, 2, 2), (2, 4, 4, 4), *torch.randint(2, 6, (8, 4)).tolist()]:
        x = torch.arange(B * T * H * K).view(B, T, H * K)
        case = f"not yet: B {B}, T {T}, H {H}, K {K}:"
        right = torch.stack(x.chunk(H, dim=-1), dim=1)
        try:
            found = split(x, H)
            if found.shape != right.shape:
                return print(f"{case} the shape is {list(found.shape)}, and should be {list(right.shape)}")
            for b, h, t, i in (found != right).nonzero().tolist():
                _, position, channel = (x == found[b, h, t, i]).nonzero()[0].tolist()
                has = f"head {h} has channel {channel} of position {position} at position {t}"
                return print(f"{case} {has}, in place of its channel {h * K + i}")
            if found.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
                return print(f"{case} this is a copy and no view")
        except Exception as error:
            return print(f"{case} {type(error).__name__}: {error}")
    print("right")


judge(split)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(x, H):
    B, T, D = x.shape
    return x.view(B, T, H, D // H).transpose(1, 2)


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid lab heads`: one layer is to name the tokens three and seven places back, with one head and with several.
# - `pellucid explore` shows what every head looks at, and what becomes of the answer without it.
# - Fewer heads for keys and values than for queries: Shazeer 2019, Ainslie et al. 2023; `num_kv_heads` of
#   `pellucid.config.parts.Attention`. How many heads can be taken away: Michel et al. 2019.
