# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15 · The encoder
#
# A model must not see what it is asked. A decoder is asked for the next token, and its mask hides the future in every
# layer. BERT (Devlin et al. 2019) hides some tokens in the text itself and asks for those. Then every position may look
# at every other, both ways.
#
# *You will see* what the right side tells that the left does not, a small BERT that finds it, and why not all hidden
# tokens are replaced by `<mask>`. *You need* lesson 13, the decoder. It runs in a few seconds.

# %% [markdown]
# ## What can be known, by counting
#
# A language of 216 sentences, all equally likely. Of those that agree with a text, how many have which word in the gap?

# %%
from collections import Counter
from itertools import product

WHO = {"i": "my", "you": "your", "he": "his", "she": "her", "we": "our", "they": "their"}
VERBS, THINGS, PLACES = ("put", "find", "leave"), ("hat", "keys", "coat", "book"), ("here", "there", "outside")
texts = []
for (who, own), verb, thing, place in product(WHO.items(), VERBS, THINGS, PLACES):
    texts.append(f"{who} {verb}{'s' if who in ('he', 'she') else ''} {own} {thing} {place} .")


def known(text, both=True):
    """The share of each word in the gap, among the sentences that agree on its left, or on both sides."""
    left, right = text.split("<mask>")
    found = [t.removeprefix(left).split()[0] for t in texts if t.startswith(left) and (t.endswith(right) or not both)]
    return {word: count / len(found) for word, count in Counter(found).items()}


gap = "<mask> puts her keys here ."
print("from the left ", {word: round(share, 2) for word, share in known(gap, both=False).items()})
print("from both ways", known(gap))

# %% [markdown]
# ## Hidden tokens
#
# BERT chooses 15 % of the tokens. Of these 80 % become `<mask>`, 10 % another token drawn at random, and 10 % stay as
# they are. Labels are the chosen tokens, and -100, which is not asked, everywhere else.

# %%
import numpy as np

from pellucid.config.run import Masked, WordPiece
from pellucid.data.batch import IGNORE
from pellucid.data.masking import Masking
from pellucid.data.tokenizers import Tokenizer

tokenizer = Tokenizer.train(WordPiece(vocab_size=300), texts)
rows = np.array(tokenizer.encode_batch(texts))
masking = Masking(0.15, tokenizer.mask, tokenizer.vocab_size, tokenizer.special_ids)

random = np.random.default_rng(3)
hidden, labels = masking.hide(rows[::40], np.ones_like(rows[::40], bool), random)
for row, label in zip(hidden, labels, strict=True):
    asked = ["·" if i == IGNORE else tokenizer.pieces([i])[0] for i in label.tolist()]
    print(f"{' '.join(tokenizer.pieces(row.tolist())):36}  {' '.join(asked)}")

# %% [markdown]
# ## A small BERT
#
# An encoder has no causal mask. `pl.fill` asks it for the gap; what it answers is what counting gives.

# %%
import torch

import pellucid as pl
from pellucid.config.model import Encoder, Tokens
from pellucid.config.optimisation import Cosine, Training
from pellucid.config.parts import Attention, FeedForward, Learned, Stack
from pellucid.data.batch import Batch
from pellucid.models.checkpoint import Loaded


def trained(hide, steps=300):
    torch.manual_seed(0)
    shape = {"attention": Attention(num_heads=4), "feed_forward": FeedForward(d_ff=128)}
    stack = Stack(d_model=32, num_layers=2, **shape, positions=Learned(max_length=16), placement="pre")
    model = pl.build(Encoder(front=Tokens(vocab_size=tokenizer.vocab_size), stack=stack))
    read = (rows[torch.randint(len(rows), (128,)).numpy()] for _ in range(steps))
    batches = [Batch(*map(torch.from_numpy, hide(tokens))) for tokens in read]
    schedule = Cosine(peak=1e-2, warmup_steps=20, final=0)
    for _ in pl.train(model, batches, Masked(), Training(steps=steps, schedule=schedule)):
        pass
    return model.eval()


def as_bert(tokens):
    return masking.hide(tokens, np.ones_like(tokens, bool), random)


bert = trained(as_bert)
for text in gap, "they <mask> their coat here .", "we find our <mask> outside .":
    answers = pl.fill(Loaded(bert, tokenizer, None), text, top=len(known(text)))
    print(f"{text:30}", ", ".join(f"{answer.piece} {answer.probability:.2f}" for answer in answers))
    assert all(abs(answer.probability - known(text).get(answer.piece, 0)) < 0.1 for answer in answers)

# %% [markdown]
# The gap of the first text is at its beginning. All that the model knows of it comes from the right, and by attention.

# %%
ids = torch.tensor([tokenizer.encode_marked(gap)])
tape = pl.trace(bert, ids, watch="*.weights")
for name in tape:
    print(f"{name}: {tape[name].triu(1).sum(-1).mean():.2f} of the weight is on later positions")

# %% [markdown]
# ## Why not all of them become `<mask>`
#
# A model that is asked at `<mask>` alone need say nothing of the words that it sees, and what it is used for later has
# no `<mask>`. Hidden as in BERT, any word may be asked, and any may be wrong (Devlin et al. 2019, §3.1 and A.1). Here
# nothing is hidden, and the probability is asked of `she` where `she` stands, of `her` where `her` stands, and so on.


# %%
def as_masks(tokens):
    hidden, labels = as_bert(tokens)
    return np.where(labels == IGNORE, hidden, tokenizer.mask), labels


ids = torch.from_numpy(rows)
for name, model in ("as in BERT", bert), ("masks only", trained(as_masks)):
    with torch.no_grad():
        shares = model(ids).softmax(-1).gather(-1, ids[:, :, None])[:, [0, 2]]
    print(f"{name}: {shares.mean():.2f} in the mean, {shares.min():.2f} at the least")

# %% [markdown]
# ## Exercise: the masking
#
# Given are `tokens` (B, T), which ids are `special` (V,), True for padding, ends and `<mask>`, and the id of `<mask>`.
# Wanted are the hidden tokens and the labels, as above; the random tokens come from all ids that are not special. What
# stands there chooses as often as it should. It also chooses what is special, and hides all in one way.


# %%
def hide(tokens, special, mask):
    chosen = torch.rand(tokens.shape) < 0.15
    return tokens.masked_fill(chosen, mask), tokens.masked_fill(~chosen, IGNORE)  # your turn


def judge(hide):
    """By counting, on rows that begin and end with special tokens and hold half of the words that there are."""
    mask, special = 4, torch.arange(100) < 5
    torch.manual_seed(0)
    tokens = torch.randint(5, 55, (8000, 32))
    tokens[:, 0], tokens[:, -1], tokens[:2000, -5:] = 2, 3, 0
    try:
        hidden, labels = hide(tokens.clone(), special.clone(), mask)
        chosen, masked = labels != IGNORE, hidden == mask
        put_in = hidden[chosen & ~masked & (hidden != tokens)].unique()
        counts = [
            ("labels of special tokens", (special[tokens] & chosen).sum(), 0, 0),
            ("labels that are not the token that stood there", (chosen & (labels != tokens)).sum(), 0, 0),
            ("tokens changed without a label", (~chosen & (hidden != tokens)).sum(), 0, 0),
            ("share of the words that is chosen", chosen[~special[tokens]].float().mean(), 0.14, 0.16),
            ("different choices in 8,000 rows", len(chosen.unique(dim=0)), 5000, 8000),
            ("share of the chosen that becomes <mask>", masked[chosen].float().mean(), 0.78, 0.82),
            ("share of the chosen that stays", (hidden == tokens)[chosen].float().mean(), 0.09, 0.11),
            ("share of rows with several fates", (masked.any(1) & (chosen > masked).any(1)).float().mean(), 0.5, 0.7),
            ("special tokens put in", special[put_in].sum(), 0, 0),
            ("different words put in", len(put_in), 95, 95),
        ]
    except Exception as error:
        return print(f"not yet: {type(error).__name__}: {error}")
    for what, count, low, high in counts:
        if not low <= count <= high:
            should = low if low == high else f"{low} to {high}"
            return print(f"not yet: {what}: {float(count):.5g}, and should be {should}")
    print("right")


judge(hide)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(tokens, special, mask):
    chosen = (torch.rand(tokens.shape) < 0.15) & ~special[tokens]
    fate = torch.rand(tokens.shape)
    words = (~special).nonzero()[:, 0]
    hidden = torch.where(fate < 0.9, words[torch.randint(len(words), tokens.shape)], tokens)
    hidden = torch.where(fate < 0.8, mask, hidden)
    return torch.where(chosen, hidden, tokens), tokens.masked_fill(~chosen, IGNORE)


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid demo encoder` trains an encoder on Python's language reference, and `pellucid fill` asks it.
# - A label for a text, from an encoder that was trained in this way: `pellucid train --from RUN classifier`, in
#   [the guide to training](../guides/training.md). BERT itself opens too: [published models](../guides/published.md).
# - Devlin et al. 2019, §3.1 and appendix A.1. A decoder learns from every position, an encoder from 15 % of them; what
#   that costs, and another way: Clark et al. 2020, *ELECTRA*.
