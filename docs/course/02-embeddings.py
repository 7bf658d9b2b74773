# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Embeddings
#
# The id of a token is a name and no quantity: token 8 is not twice token 4. A model gives each token a vector, its
# embedding, and learns what stands in it. With the same vectors it reads and writes.
#
# *You will see* that a look-up is a product, why the product is scaled, and what a trained table has learned. *You
# need* lesson 1, tokens. It runs in a few seconds.

# %% [markdown]
# ## A row for each token
#
# The table has $V$ rows of $d_\text{model}$ numbers, and a token picks its row. Written as a vector of $V$ numbers, all
# 0 but a 1 in its place (*one-hot*), it picks the row by a product. So the table is a matrix of weights like any other.
# Its gradient is 0 in the rows that were not read.

# %%
import torch
import torch.nn.functional as F

torch.manual_seed(0)
table = torch.randn(5, 3, requires_grad=True)  # 5 tokens, 3 numbers each
ids = torch.tensor([4, 1, 4])
one_hot = F.one_hot(ids, 5).float()
assert torch.equal(one_hot @ table, table[ids])
print(one_hot)
(one_hot @ table).sum().backward()
table.grad

# %% [markdown]
# ## In a model
#
# The paper multiplies the embedding by $\sqrt{d_\text{model}}$ (Vaswani et al. 2017, §3.4); in pellucid that is
# `scaled=True`. `pl.trace` runs the model once and returns a *tape*: the tensors of that run, by name.
# `embedding.tokens` is what comes out, before positions are added.

# %%
import math

import pellucid as pl
from pellucid.config.model import Decoder, Tokens, XavierInit
from pellucid.config.parts import Attention, FeedForward, Stack

V, D = 500, 64
stack = Stack(d_model=D, num_layers=1, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=128))
model = pl.build(Decoder(front=Tokens(vocab_size=V, scaled=True), stack=stack, init=XavierInit())).eval()
E = model.embedding.table.weight.detach()

ids = torch.randint(V, (4, 50))
tape = pl.trace(model, ids)
assert torch.allclose(tape["embedding.tokens"], F.one_hot(ids, V).float() @ E * math.sqrt(D))
print(tape.explain("embedding.tokens", (0, 1, 5)))

# %% [markdown]
# ## One table at both ends
#
# At the end of a decoder stands a score for each token: the product of the last state with a vector of this token. The
# paper takes the table of embeddings for that as well (§3.4; Press & Wolf 2017). It is then one parameter under two
# names.

# %%
assert model.head.project.weight is model.embedding.table.weight
assert torch.allclose(tape["logits"], tape["blocks.0.residual_post"] @ E.T, atol=1e-5)

# %% [markdown]
# The two ends want numbers of different size. A state has $d_\text{model}$ numbers of deviation 1. For scores of
# deviation 1 those of the table must deviate by $1 / \sqrt{d_\text{model}}$, and so the paper's code (tensor2tensor)
# draws them. Read as they are, they would be drowned by the position that is added to them; $\sqrt{d_\text{model}}$
# makes up for that.


# %%
def size(x):
    return f"{x.square().mean().sqrt():.2f}"


print("scores                ", size(tape["logits"]))
print("the table             ", size(E))
print("scaled, what is read  ", size(tape["embedding.tokens"]))
print("positions added to it ", size(tape["embedding.positions"] - tape["embedding.tokens"]))

# %% [markdown]
# Without any layer in between, a score is $\sqrt{d_\text{model}}\, E E^\top$: how alike two tokens are. Such a model
# cannot say that `b` follows `a` and `a` does not follow `b`. Telling them apart is left to the layers.
#
# An *edit* puts another tensor in the place of a named one: here the layer is skipped and no position is added.

# %%
from pellucid.trace import replace, skip

edits = {**skip("blocks.0"), "embedding.positions": replace(tape["embedding.tokens"])}
bare = pl.trace(model, ids, watch="logits", edits=edits)["logits"]
alike = math.sqrt(D) * E @ E.T
assert torch.allclose(bare, alike[ids], atol=1e-5)
assert torch.allclose(alike, alike.T)

# %% [markdown]
# ## What is learned
#
# The model that comes along with the package reads dates in 281 languages. Two vectors are near where the cosine of the
# angle between them is large.

# %%
from pellucid.explorer.opening import SHIPPED

run = pl.load(SHIPPED)
directions = F.normalize(run.model.encoder.embedding.table.weight.detach(), dim=-1)
for text in " mars", "03", "2071":
    (token,) = run.tokenizer.encode(text)
    cosines, nearest = (directions @ directions[token]).topk(6)
    pairs = zip(run.tokenizer.pieces(nearest[1:].tolist()), cosines[1:].tolist(), strict=True)
    print(f"{text:>5}:", ",  ".join(f"{piece.strip()} {cosine:.2f}" for piece, cosine in pairs))

# %% [markdown]
# Beside `mars` stand names of the same month in Urdu, Hindi, Persian and others. Nobody told the model that they mean
# the same; they ask for the same answer, `03`.
#
# ## Exercise: not quite sure
#
# A product can do what a look-up cannot: read a mixture. `p` is (B, T, V), and says for each position how much of each
# token stands there. Write its embedding, at the scale of the paper. What stands there looks up the token of which
# there is most, as it is in the table.


# %%
def embed(p, table):
    return table[p.argmax(-1)]  # your turn


def judge(embed):
    """Whether it is what models of pellucid read, of sizes drawn at random; and whether halves give the mean of two."""
    torch.manual_seed(0)
    for V, D, T in torch.randint(2, 40, (6, 3)).tolist():
        stack = Stack(d_model=4 * D, num_layers=1, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=8))
        model = pl.build(Decoder(front=Tokens(vocab_size=V, scaled=True), stack=stack))
        ids = torch.randint(V, (2, 3, T))
        first, second = (pl.trace(model, each)["embedding.tokens"] for each in ids)
        share = torch.rand(3, T, 1)
        p, q = F.one_hot(ids, V).float()
        table = model.embedding.table.weight.detach()
        for what, mixture, right in (
            ("of one token each", p, first),
            ("of two tokens at each position", share * p + (1 - share) * q, share * first + (1 - share) * second),
        ):
            try:
                found = embed(mixture, table)
                same, times = found.shape == right.shape, found.norm() / right.norm()
            except Exception as error:
                return print(f"not yet: {type(error).__name__}: {error}")
            if not same:
                return print(f"not yet: the shape should be {tuple(right.shape)}, and is {tuple(found.shape)}")
            if not torch.allclose(found, right, atol=1e-6):
                apart = (found - right).abs().max()
                return print(f"not yet: d_model {4 * D}, {what}: {times:.3g} times as long, up to {apart:.2g} apart")
    print("right")


judge(embed)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(p, table):
    return p @ table * math.sqrt(table.size(1))


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid explore` has the table as a view: neighbours of any token, and the state of each layer read as tokens.
# - A product with one-hot vectors is right and slow; models look rows up. That it is one is what gradients of the input
#   need: `pellucid.analysis` has integrated gradients (Sundararajan et al. 2017).
# - Vaswani et al. 2017, §3.4; Press & Wolf 2017, *Using the Output Embedding to Improve Language Models*.
# - A token is read alike wherever it stands. That is mended by [positions](03-positions.py).
