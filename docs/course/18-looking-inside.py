# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 18 · Looking inside
#
# What a trained model does is in its weights, and nobody wrote it there. It can be found out as anything is found out:
# by looking, by measuring, and by changing one thing and seeing what becomes of the rest.
#
# *You will see* two layers learn to copy, the head that does it, and the head of the layer below that it depends on.
# *You need* lesson 7, heads, and lesson 13, the decoder. It runs in some ten seconds.

# %% [markdown]
# ## A model that copies
#
# Some letters drawn at random, and the same once more. In the first copy nothing can be known, in the second nearly
# all. The first layer has a window of four letters (lesson 6): with it, seconds of training are enough.

# %%
import torch
import torch.nn.functional as F

import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.optimisation import Cosine, Training
from pellucid.config.parts import Attention, FeedForward, Rotary, Stack
from pellucid.config.run import Causal
from pellucid.data.batch import IGNORE, Batch


def drawn(rows=32):
    """Twice the same letters, 4 to 16 of them; asked for is the second copy."""
    length = int(torch.randint(4, 17, ()))
    tokens = torch.randint(26, (rows, length)).repeat(1, 2)
    labels = tokens[:, 1:].clone()
    labels[:, :length] = IGNORE
    return Batch(tokens[:, :-1], labels)


torch.manual_seed(1)
shape = {"attention": Attention(num_heads=2), "feed_forward": FeedForward(d_ff=64, activation="gelu")}
stack = Stack(d_model=32, num_layers=2, **shape, positions=Rotary(base=100.0), windows=(4, 0), placement="pre")
model = pl.build(Decoder(front=Tokens(vocab_size=26), stack=stack))
training = Training(steps=500, schedule=Cosine(peak=8e-3, warmup_steps=50))
losses = [step.loss for step in pl.train(model, [drawn() for _ in range(500)], Causal(), training)]
print("nats a letter:", *(f"{loss:.2f}" for loss in losses[::100]), f"{losses[-1]:.2f}")

# %% [markdown]
# ## See
#
# Ten letters, all different, and once more. For each letter of the second copy: where the heads of the second layer
# look most, and what the model expects next.

# %%
text = "qfzkwmbxto" * 2
tokens = torch.tensor([[ord(letter) - ord("a") for letter in text]])
tape = pl.trace(model.eval(), tokens)
weights = tape["blocks.1.self_attention.weights"]  # (1, heads, queries, keys)
print("letter  ", *text[10:])
for head in 0, 1:
    print(f"head {head}  ", *(text[key] for key in weights[0, head, 10:].argmax(-1)))
print("expected", *(chr(letter + ord("a")) for letter in tape["logits"][0, 10:].argmax(-1)))

# %%
# %matplotlib inline
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 4), layout="constrained")
ax = figure.subplots()
ax.imshow(weights[0, 0], cmap="Blues", vmin=0, vmax=1)
ax.set_xticks(range(20), text)
ax.set_yticks(range(20), text)
ax.set_xlabel("key")
ax.set_ylabel("query")
figure

# %% [markdown]
# On a letter of the second copy a head looks at the letter that *followed* it the first time. What it finds there is
# what comes next. Such a head is called an *induction head* (Elhage et al. 2021; Olsson et al. 2022).
#
# ## Measure
#
# With a period of ten the letter that followed stands nine places back. The weights on these places are a diagonal.

# %%
from pellucid.analysis.attention import induction_score

for layer in 0, 1:
    weights = tape[f"blocks.{layer}.self_attention.weights"]
    before, followed = weights.diagonal(-1, 2, 3).mean(-1), weights.diagonal(-9, 2, 3)[..., 1:].mean(-1)
    assert torch.allclose(followed, induction_score(weights, period=10))
    for head in 0, 1:
        told = f"{before[0, head]:.2f} on the letter before, {followed[0, head]:.2f} on what followed"
        print(f"layer {layer} head {head}: {told}")

# %% [markdown]
# ## Explain
#
# One score, from the second `z` to the first `k`, down to the products that it was summed from. The query stands on a
# `z`. The key stands on a `k`, and yet it has to say that a `z` came before.

# %%
print(tape.explain("blocks.1.self_attention.scores", (0, 0, 12, 3), terms=3))

# %% [markdown]
# ## Change
#
# Only a head of the first layer can have told it. To take one away is to make its `context` zero. By hand that is the
# same as making zero the columns of the output projection that read it.

# %%
import copy

from pellucid.trace import Where, zero


def without(head):
    return pl.trace(model, tokens, edits={"blocks.0.self_attention.context": zero(Where(heads=[head]))})


other = copy.deepcopy(model)
with torch.no_grad():
    other.blocks[0].self_attention.out.weight[:, :16] = 0  # head 0 of two, each 16 wide
    assert torch.allclose(other(tokens), without(0)["logits"], atol=1e-4)

for name, changed in ("nothing", tape), ("head 0", without(0)), ("head 1", without(1)):
    scores = induction_score(changed["blocks.1.self_attention.weights"], period=10)[0].tolist()
    loss = F.cross_entropy(changed["logits"][0, 10:-1], tokens[0, 11:])
    print(f"{name:8} taken away: what followed {scores[0]:.2f} {scores[1]:.2f}, {loss:.2f} nats a letter")

# %% [markdown]
# The head with the most weight on the letter before is the one that the induction heads cannot do without. One layer
# alone cannot have this circuit, since nobody would have told its keys what came before them.
#
# ## Exercise: a score for any text
#
# The diagonal needs a period that is known. Write the score for any tokens, (B, T), and any weights, (B, H, T, T). A
# query counts if its token came before, at whatever places: all weights on the tokens right after those places are
# summed. Wanted is for each head, (H,), the mean over all queries that count. What stands there looks at the same token
# itself, not at what came after it.


# %%
def score(weights, tokens):
    same = (tokens[:, :, None] == tokens[:, None]).tril(-1)  # (B, query, key): the same token, earlier
    found = (weights * same[:, None]).sum(-1)
    return found.sum((0, 2)) / same.any(-1).sum()  # your turn


def fault(score):
    """On heads made by hand, and on random ones where the period is known."""
    torch.manual_seed(0)
    text = "abracadabra"
    ids = torch.tensor([[ord(letter) for letter in text]])
    places = {
        "what followed the last time": [text.rfind(letter, 0, t) + 1 for t, letter in enumerate(text)],
        "what followed the first time": [text.find(letter, 0, t) + 1 for t, letter in enumerate(text)],
        "the same letter": [max(0, text.rfind(letter, 0, t)) for t, letter in enumerate(text)],
    }
    made = F.one_hot(torch.tensor(list(places.values())), len(text)).float()[None]
    for name, found, should in zip(places, score(made, ids).tolist(), (1, 1, 0), strict=True):
        if abs(found - should) > 1e-4:
            return f"{text}: a head that looks at {name} has {found:.2f}, and should have {should}"
    for period, repeats in (3, 4), (5, 2), (8, 3):
        ids = torch.stack([torch.randperm(26)[:period] for _ in range(4)]).repeat(1, repeats)
        future = ~torch.ones(len(ids[0]), len(ids[0])).tril().bool()
        random = torch.randn(4, 2, *future.shape).masked_fill(future, -torch.inf).softmax(-1)
        found, should = score(random, ids), induction_score(random, period=period).mean(0)
        if not torch.allclose(found, should, atol=1e-5):
            return f"{period} letters {repeats} times: {found.tolist()}, and should be {should.tolist()}"
    return ""


def judge(score):
    try:
        wrong = fault(score)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    print(f"not yet: {wrong}" if wrong else "right")


judge(score)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(weights, tokens):
    same = (tokens[:, :, None] == tokens[:, None]).tril(-1)
    after = F.pad(same, (1, 0))[..., :-1]  # one place to the right
    found = (weights * after[:, None]).sum(-1)
    return found.sum((0, 2)) / same.any(-1).sum()


for layer in 0, 1:
    for head, found in enumerate(solution(tape[f"blocks.{layer}.self_attention.weights"], tokens)):
        print(f"layer {layer} head {head}: {found:.2f}")
judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid lab induction`: the same without the window, in the course of training, against a model of one layer.
# - [Looking inside](../guides/tracing.md): `pellucid trace`, patching, steering, gradients, models that are not ours.
# - `pellucid explore` shows every head, and what is written when it is taken away.
# - Elhage et al. 2021, *A Mathematical Framework for Transformer Circuits*; Olsson et al. 2022, *In-context Learning
#   and Induction Heads*.
