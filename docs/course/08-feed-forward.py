# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8 · The feed-forward layer
#
# Attention moves things between positions, and once its weights are there, it only adds up. What is to be made of what
# was gathered is the work of the feed-forward layer. It looks at one position at a time.
#
# *You will see* what two linear layers can do with a bend between them, that positions do not meet there, and what a
# single unit is for. *You need* lesson 7, heads. It runs in a few seconds.

# %% [markdown]
# ## A bend between two linear layers
#
# $$\text{FFN}(x) = \max(0,\; x W_1 + b_1)\, W_2 + b_2$$
#
# is equation 2 of Vaswani et al. 2017. The columns of $W_1$ are *units*: each asks a question of $x$ and is silent when
# the answer is negative. Two of them tell whether exactly one of two features is on.

# %%
import torch

x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
W1, b1 = torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([0.0, -1.0])  # "any?" and "both?"
W2, b2 = torch.tensor([[1.0], [-2.0]]), torch.tensor([0.0])
hidden = (x @ W1 + b1).relu()
for features, units, out in zip(x.tolist(), hidden.tolist(), (hidden @ W2 + b2).tolist(), strict=True):
    print(features, "→ units", units, "→", out)

# %% [markdown]
# Without the bend two layers are one, since $(x W_1) W_2 = x (W_1 W_2)$, and the best that one can do here is to say a
# half of everything.

# %%
with_ones = torch.cat([x, torch.ones(4, 1)], dim=1)
best = torch.linalg.lstsq(with_ones, torch.tensor([[0.0], [1.0], [1.0], [0.0]])).solution
print((with_ones @ best).flatten().round(decimals=3).abs().tolist())

# %% [markdown]
# ## In a model
#
# In pellucid the first product is `pre`, what passes the bend `hidden`, $W_1$ is `up`, and $W_2$ `down`. Weights of
# `nn.Linear` are (outputs, inputs).

# %%
import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.parts import Attention, FeedForward, Stack

stack = Stack(d_model=32, num_layers=2, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=128))
torch.manual_seed(0)
model = pl.build(Decoder(front=Tokens(vocab_size=20), stack=stack)).eval()
layer = model.blocks[0].feed_forward

ids = torch.tensor([[3, 1, 4, 1, 5]])
with torch.no_grad():
    tape = pl.trace(model, ids)
    x = tape["blocks.0.residual_mid"]
    by_hand = (x @ layer.up.weight.mT + layer.up.bias).relu() @ layer.down.weight.mT + layer.down.bias
assert torch.allclose(by_hand, tape["blocks.0.feed_forward.out"], atol=1e-5)
print("hidden", list(tape["blocks.0.feed_forward.hidden"].shape), "out", list(by_hand.shape))

# %% [markdown]
# ## Each position alone
#
# The same weights serve every position, and no position sees another. Hence two laws. A text in another order gives the
# same vectors in that order. And a position gives by itself what it gives among others.

# %%
order = torch.tensor([4, 2, 0, 3, 1])
with torch.no_grad():
    assert torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-5)
    assert torch.allclose(layer(x[:, 2:3]), layer(x)[:, 2:3], atol=1e-5)

# %% [markdown]
# The second law says more. Attention without mask and positions keeps the first, and not the second: what a position
# gathers depends on who else is there.


# %%
def gather(x):
    return (x @ x.mT / x.size(-1) ** 0.5).softmax(-1) @ x


assert torch.allclose(gather(x[:, order]), gather(x)[:, order], atol=1e-5)
print(f"apart {(gather(x[:, 2:3]) - gather(x)[:, 2:3]).abs().max():.2f}")

# %% [markdown]
# ## What a unit does
#
# A unit that fires writes its own column of `down` to the residual stream, as loudly as it fires. All that the layer
# says is the sum of these. Geva et al. 2021 read a layer as a memory: what a unit asks for is a key, what it writes is
# a value.

# %%
with torch.no_grad():
    written = tape["blocks.0.feed_forward.hidden"][..., None] * layer.down.weight.mT  # B T F D
assert torch.allclose(written.sum(2) + layer.down.bias, tape["blocks.0.feed_forward.out"], atol=1e-5)

# %% [markdown]
# In the model that `pellucid explore` opens, which reads dates in many languages, few units fire at a time. Unit 129 of
# the encoder's second layer fires on years.

# %%
from pellucid.explorer.opening import SHIPPED
from pellucid.inference.reading import read

run, name = pl.load(SHIPPED), "encoder.blocks.1.feed_forward.hidden"
for text in "vendredi 13 mars 2071", "7 de junio de 2012", "Sonntag, 22. Juli 1945":
    reading = read(run, text)
    hidden = pl.trace(run.model, reading.inputs, watch=name)[name][0]
    print(f"{(hidden > 0).float().mean():4.0%} fire; 129:", end="")
    for piece, loud in zip(reading.pieces, hidden[:, 129].tolist(), strict=True):
        print(f"  {piece.strip() or '␣'} {loud:.1f}", end="")
    print()

# %% [markdown]
# ## Exercise: the k loudest
#
# Some models let only the `k` loudest units of each position speak. Write such a layer: all other units of `hidden` are
# set to 0. What stands there counts the units of a whole batch together, so that a loud position silences the others.


# %%
def loudest(x, W1, b1, W2, b2, k):
    """The layer's outputs (B, T, D) for inputs (B, T, D); W1 is (D, F), W2 (F, D)."""
    hidden = (x @ W1 + b1).relu()
    most = k * hidden.size(0) * hidden.size(1)  # your turn
    least = hidden.flatten().topk(most).values[-1]
    return hidden.where(hidden >= least, 0) @ W2 + b2


def judge(layer):
    """The two laws, that rows do not meet either, and the sum of k units, for sizes drawn at random."""
    torch.manual_seed(0)
    for B, T, D, k in torch.randint(2, 7, (8, 4)).tolist():
        F = 4 * D
        x, others = torch.randn(B, T, D), [torch.randn(*size) for size in ((D, F), (F,), (F, D), (D,))]
        x[:, 0] *= 5
        case, order = f"not yet: B {B}, T {T}, D {D}, F {F}, k {k}:", torch.randperm(T)
        try:
            out = layer(x, *others, k)
            if out.shape != x.shape:
                return print(f"{case} the shape is {list(out.shape)}, and should be {list(x.shape)}")
            if not torch.allclose(layer(x[:, order], *others, k), out[:, order], atol=1e-4):
                return print(f"{case} positions in another order give other outputs")
            for b, t in torch.cartesian_prod(torch.arange(B), torch.arange(T)).tolist():
                alone = layer(x[b : b + 1, t : t + 1], *others, k)[0, 0]
                if (apart := (alone - out[b, t]).abs().max()) > 1e-4:
                    return print(f"{case} by itself, position {t} of row {b} gives something else, by {apart:.2f}")
                W1, b1, W2, b2 = others
                units = sorted(((x[b, t] @ W1 + b1).relu()[i].item(), i) for i in range(F))[-k:]
                right = sum(loud * W2[i] for loud, i in units) + b2
                if (apart := (right - out[b, t]).abs().max()) > 1e-4:
                    return print(f"{case} position {t} of row {b} is not the sum of its {k} loudest, by {apart:.2f}")
        except Exception as error:
            return print(f"{case} {type(error).__name__}: {error}")
    print("right")


judge(loudest)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(x, W1, b1, W2, b2, k):
    hidden = (x @ W1 + b1).relu()
    least = hidden.topk(k, dim=-1).values[..., -1:]
    return hidden.where(hidden >= least, 0) @ W2 + b2


judge(solution)

# %% [markdown]
# ## Further
#
# - Two thirds of a block's parameters are here, with $F = 4D$: [the stack](10-the-stack.py) counts them.
# - `FeedForward(d_ff=..., gated=True, activation="silu")` multiplies by a second projection (Shazeer 2020), as Llama.
# - Units that never fire again: the doctor asks `health.ffn`, [also while training](../guides/training.md).
# - Vaswani et al. 2017, §3.3; Geva et al. 2021, *Transformer Feed-Forward Layers Are Key-Value Memories*.
