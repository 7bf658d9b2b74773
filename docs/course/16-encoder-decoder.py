# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16 · The encoder–decoder
#
# To translate, one text is read and another is written. The first is there from the beginning, so an encoder may read
# it both ways. The second is written from left to right, by a decoder. Between the two is *cross-attention*.
#
# *You will see* what cross-attention looks at, that nothing else leads from the source to the target, and a loop that
# translates. *You need* lesson 13, the decoder, and lesson 15, the encoder. It runs in a few seconds.

# %% [markdown]
# ## Queries of one text, keys and values of another
#
# It is the attention of lesson 4. Only, queries come from what is written, keys and values from what is read (Vaswani
# et al. 2017, §3.2.3). Here the source is `13 March 2071`, three positions; the target asks for year, month and day.
# There is no causal mask: all of the source is known before the first word is written.

# %%
import torch

source = 6 * torch.eye(3)  # the states of day, month and year
values = torch.tensor([[13.0], [3.0], [2071.0]])
queries = 6 * torch.eye(3)[[2, 1, 0]]  # the year is asked for first
weights = (queries @ source.mT / 3**0.5).softmax(-1)  # (target, source)
print(weights.round(decimals=2))
(weights @ values).mT

# %% [markdown]
# ## A model that reads dates
#
# It comes along with the package: two layers of encoder, one of decoder, three heads. It reads dates as they are
# written in many languages, cut into pieces, and writes them in ISO 8601.

# %%
import pellucid as pl
from pellucid.explorer.opening import SHIPPED
from pellucid.inference.reading import read

run = pl.load(SHIPPED)
text = "vendredi 13 mars 2071"
print(pl.translate(run, [text, "March 13, 2071", "5 lipca 1968", "2071年3月13日"]))

reading = read(run, text)
tape = pl.trace(run.model, reading.inputs)
print(reading.pieces)
print(reading.target)

# %% [markdown]
# Its cross-attention, by hand: keys and values are made of the encoder's last states, queries of the decoder's.

# %%
path = "decoder.blocks.0.cross_attention"
layer = run.model.decoder.blocks[0].cross_attention
states, own = tape["encoder.final_norm.out"], tape[f"{path}_residual.before.out"]
with torch.no_grad():
    projected = layer.query(own), layer.key(states), layer.value(states)
q, k, v = (x.unflatten(-1, (3, 32)).transpose(1, 2) for x in projected)  # (1, heads, T or S, head_dim)
weights = (q @ k.mT / 32**0.5).softmax(-1)
assert torch.allclose(weights, tape[f"{path}.weights"], atol=1e-5)
assert torch.allclose(weights @ v, tape[f"{path}.context"], atol=1e-4)

# %% [markdown]
# ## What it looks at
#
# A row for each piece that is written, at the place where it is chosen: the row `03` has the query of the `-` before
# it. The first head finds year, month and day.

# %%
# %matplotlib inline
from matplotlib.figure import Figure

written = [*reading.target[1:], "</s>"]
figure = Figure(figsize=(6, 3), layout="constrained")
ax = figure.subplots()
ax.imshow(weights[0, 0], cmap="Blues", vmin=0, vmax=1)
ax.set_xticks(range(len(reading.pieces)), [piece.replace(" ", "␣") for piece in reading.pieces])
ax.set_yticks(range(len(written)), written)
ax.set_xlabel("read")
ax.set_ylabel("to be written")
figure

# %% [markdown]
# ## The only way
#
# Whatever the decoder knows of the source, it has from the encoder's last states. Put those of another date in their
# place, and that date is written. The one at ` mars` is enough to change the month, its neighbour does nothing.

# %%
from pellucid.trace import Where, patch

other = "vendredi 13 mai 2071"
donor = pl.trace(run.model, read(run, other).inputs, watch="encoder.final_norm.out")
month = reading.pieces.index(" mars")
for places in slice(None), [month], [month + 1]:
    with pl.edit(run.model, patch(donor, "encoder.final_norm.out", where=Where(positions=places))):
        print(*pl.translate(run, [text]), "  put in", "everywhere" if places == slice(None) else f"at {places}")

# %% [markdown]
# To be looked at is not to be needed. Hide ` mars` from cross-attention, and the month is found all the same: the
# encoder has mixed the states, and others know of it too (compare Jain & Wallace 2019).

# %%
from pellucid.trace import zero

with pl.edit(run.model, {f"{path}.mask": zero(Where(units=[month]))}):
    print(*pl.translate(run, [text]))

# %% [markdown]
# ## Exercise: translate
#
# The encoder's states do not depend on what is written, so the source is read once: `model.encode(source)`. Then
# `model.decode(target, encoded)` gives the scores of what follows each position of the target, `(1, T, V)`. Write the
# loop: take the likeliest piece until it is `end`, which is not returned, or until there are `longest`. What stands
# there reads the source anew for each piece, and does not know when to stop.


# %%
def greedy(model, source, start, end, longest):
    target = [start]
    for _ in range(longest):
        logits = model(source, torch.tensor([target]))
        target.append(int(logits[0, -1].argmax()))
    return target[1:]  # your turn


def fault(greedy):
    """Against `pl.translate`, on dates in several languages; counts how often the encoder runs."""
    torch.manual_seed(0)
    tokenizer, texts, runs = run.tokenizer, [text, "Dydd Iau, 12 Gorffennaf 2063"], []
    for month in "January", "février", "März", "abril", "maggio", "lipca":
        texts.append(f"{torch.randint(1, 29, ()):d} {month} {torch.randint(1900, 2100, ()):d}")
    with run.model.encoder.final_norm.register_forward_hook(lambda *_: runs.append(1)), torch.no_grad():
        for case, answer in zip(texts, pl.translate(run, texts), strict=True):
            source, whole = torch.tensor([tokenizer.source(tokenizer.encode(case))]), tokenizer.encode(answer)
            for longest in 20, 3:
                runs.clear()
                found = greedy(run.model, source, *tokenizer.target.start, *tokenizer.ends, longest)
                told = f"{case!r}, longest {longest}: {tokenizer.pieces(found)[:9]}"
                if list(found) != whole[:longest]:
                    return f"{told}, and not {tokenizer.pieces(whole[:longest])}"
                if len(runs) != 1:
                    return f"{told}, and the encoder ran {len(runs)} times"
    return ""


def judge(greedy):
    try:
        wrong = fault(greedy)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    print(f"not yet: {wrong}" if wrong else "right")


judge(greedy)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(model, source, start, end, longest):
    encoded, target = model.encode(source), [start]
    while len(target) <= longest:
        chosen = int(model.decode(torch.tensor([target]), encoded)[0, -1].argmax())
        if chosen == end:
            break
        target.append(chosen)
    return target[1:]


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid demo` trains such a model in about a minute, and `pellucid explore` shows its cross-attention.
# - Sources of several lengths stand in one batch with padding, which is hidden in the encoder and in cross-attention:
#   `source_keep` in [the glossary](../GLOSSARY.md). The doctor asks `cross.memory` and `pad.invariance`.
# - The next piece need not be the likeliest one: [lesson 17](17-beam-search.py).
# - Vaswani et al. 2017, §3.1 and figure 1; attention between two texts began with Bahdanau et al. 2015, §3.1.
