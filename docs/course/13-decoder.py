# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 · The decoder
#
# A decoder gives, for any beginning, a probability to each token that may come next. To write is to choose one, append
# it, and ask again. How it is chosen decides what the text is like.
#
# *You will see* a GPT that learns a small language in seconds, how it writes, and what becomes of its texts by
# temperature, top-k and top-p. *You need* lesson 12, training. It runs in a few seconds.

# %% [markdown]
# ## A language of which all is known
#
# It has 544 sentences, some likelier than others. The last verb agrees with the first noun, whatever stands between.

# %%
from itertools import product

import torch

NOUNS, VERBS = {"cat": 8, "dog": 4, "bird": 2, "cow": 1}, {"sleep": 8, "sing": 4, "wait": 2, "run": 1}
NUMBERS = ("", "s"), ("s", "")  # what the noun ends in, and its verb
weight = {}
for (noun, a), (verb, b), (s, ending) in product(NOUNS.items(), VERBS.items(), NUMBERS):
    weight[f"the {noun}{s} {verb}{ending} ."] = 60 * a * b
    for (other, c), like, (t, end) in product(NOUNS.items(), ("like", "see"), NUMBERS):
        weight[f"the {noun}{s} that the {other}{t} {like}{end} {verb}{ending} ."] = a * b * c

probability = torch.tensor(list(weight.values())).double()
probability /= probability.sum()
entropy = -(probability * probability.log()).sum()
print(*list(weight)[::160], sep="\n")

# %% [markdown]
# ## A GPT learns it
#
# A full stop begins a sentence and ends it. The loss is taken over the whole language: $-\sum_x p(x) \ln q(x)$, where
# $q$ is what the model gives a sentence. It is least where $q = p$, and is then the entropy $-\sum_x p(x) \ln p(x)$.

# %%
import torch.nn.functional as F

import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.optimisation import Cosine, Training
from pellucid.config.parts import Attention, FeedForward, Rotary, Stack
from pellucid.config.run import Causal
from pellucid.data.batch import IGNORE, Batch

words = [".", *sorted({word for text in weight for word in text[:-2].split()})]


def ids(text):
    return torch.tensor([0, *map(words.index, text.split())])


rows = torch.nn.utils.rnn.pad_sequence([ids(text) for text in weight], batch_first=True, padding_value=IGNORE)
tokens, labels = rows[:, :-1].clamp(min=0), rows[:, 1:]

torch.manual_seed(0)
shape = {"d_model": 32, "num_layers": 2, "attention": Attention(num_heads=2), "feed_forward": FeedForward(d_ff=128)}
stack = Stack(**shape, positions=Rotary(), placement="pre")
model = pl.build(Decoder(front=Tokens(vocab_size=len(words)), stack=stack))
read = torch.multinomial(probability, 300 * 64, replacement=True).view(300, 64)
batches = [Batch(tokens[chosen], labels[chosen]) for chosen in read]


@torch.no_grad()
def loss():
    nats = F.cross_entropy(model(tokens).mT, labels, ignore_index=IGNORE, reduction="none").sum(1)
    return (probability * nats).sum()


for step in pl.train(model, batches, Causal(), Training(steps=300, schedule=Cosine(peak=1e-2, warmup_steps=20))):
    if step.step in (1, 30, 100, 300):
        print(f"step {step.step:3}   {loss():.3f} nats a sentence; the entropy is {entropy:.3f}")
assert loss() > entropy

# %% [markdown]
# ## Writing
#
# By hand it is a loop. `pl.generate` does the same, with a cache (lesson 14), and for many rows at once.

# %%
from pellucid.inference.decode import Prompt
from pellucid.inference.sampling import Sampling, Temperature, TopK, TopP

model.eval()


@torch.no_grad()
def write(choose):
    text = [0]
    while len(text) == 1 or (text[-1] != 0 and len(text) < 10):
        text.append(int(choose(model(torch.tensor([text]))[0, -1])))
    return text[1:]


def said(text):
    return " ".join(words[i] for i in text)


likeliest = write(torch.argmax)
print(said(likeliest))
for _ in range(3):
    print(said(write(lambda scores: torch.multinomial(scores.softmax(-1), 1))))
assert pl.generate(model, Prompt(torch.tensor([[0]])), max_new_tokens=9, ends=[0]) == [likeliest[:-1]]

# %% [markdown]
# ## Temperature
#
# Scores are divided by a temperature $\tau$ before the softmax: below 1 what is likely becomes likelier, above 1 less
# so. `sampling.probabilities@0` is what the first token is drawn from. Here it has to be the verb of the cats, not of
# the dog.

# %%
beginning = ids("the cats that the dog likes")[None]
shown = "sleep", "sing", "wait", "run", "sleeps", "the"
print("     ", *(f"{word:>7}" for word in shown))
for tau in 0.5, 1.0, 2.0:
    with pl.trace(model, watch=["logits", "sampling.probabilities"]) as tape:
        pl.generate(model, Prompt(beginning), max_new_tokens=1, sampling=Sampling([Temperature(tau)], seed=0))
    p = tape["sampling.probabilities@0"][0]
    assert torch.allclose(p, (tape["logits@0"][0, -1] / tau).softmax(-1))
    print(f"τ {tau:3}", *(f"{p[words.index(word)]:7.3f}" for word in shown))

# %% [markdown]
# ## What is left out
#
# At a high temperature each wrong word is still rare, but there are many of them. *Top-k* keeps the $k$ likeliest
# tokens (Fan et al. 2018), *top-p* the fewest that reach a probability of $p$ together (Holtzman et al. 2020, §3.1).
# How many of two thousand sentences belong to the language, and how many different ones there are among those:

# %%
start = Prompt(torch.zeros(2000, 1, dtype=torch.long))
for filters in [], [Temperature(2.0)], [Temperature(2.0), TopK(3)], [Temperature(2.0), TopP(0.9)]:
    written = pl.generate(model, start, max_new_tokens=9, ends=[0], sampling=Sampling(filters, seed=0))
    right = [text for text in map(said, written) if f"{text} ." in weight]
    print(f"{len(right) / 2000:6.1%} right, {len(set(right)):3} different  ", *filters)
for text in "the", "the cats that":
    print(f"TopP keeps {TopP(0.9)(model(ids(text)[None])[:, -1] / 2).isfinite().sum()} after: {text}")

# %% [markdown]
# Eight nouns can follow `the`, one word `the cats that`: a fixed number is too few there and too many here.
#
# ## Exercise: top-p
#
# Scores are (rows, tokens). What is left out becomes $-\infty$, and the rest stays as it is. What stands there leaves
# out the token with which $p$ is reached: where a single one has more than $p$, nothing stays.


# %%
def top_p(scores, p):
    values, order = scores.sort(descending=True)
    kept = values.softmax(-1).cumsum(-1) <= p  # your turn
    return torch.full_like(scores, -torch.inf).scatter(-1, order, values.masked_fill(~kept, -torch.inf))


def judge(top_p):
    """The fewest of the likeliest that reach p, as they were; with ties, with p = 1, and as pellucid has it."""
    torch.manual_seed(0)
    cases = [(torch.zeros(3, 8), 0.5), *((3 * torch.randn(3, 9), p) for p in (0.05, 0.5, 0.9, 1.0))]
    for scores, p in [*cases, *((torch.randint(3, (3, 9)), p) for p in torch.rand(8).tolist())]:
        scores = scores.double()
        try:
            found = top_p(scores.clone(), p)
            left = scores.masked_fill(~(found > -torch.inf), -torch.inf)
            in_place = torch.equal(found, left)
        except Exception as error:
            return print(f"not yet: {type(error).__name__}: {error}")
        if not in_place:
            return print("not yet: what stays should be the scores, each in its place, and the rest -inf")
        for row, stay, should in zip(scores, left, TopP(p)(scores), strict=True):
            if not torch.equal(stay.sort().values, should.sort().values):
                told = (f"{x.isfinite().sum()} with {row.softmax(-1)[x.isfinite()].sum():.3f}" for x in (stay, should))
                return print(f"not yet: p = {p:.3g}; there stay {next(told)} together, and should {next(told)}")
    print("right")


judge(top_p)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(scores, p):
    values, order = scores.sort(descending=True)
    shares = values.softmax(-1)
    kept = shares.cumsum(-1) - shares < p  # what comes before it does not reach p yet
    return torch.full_like(scores, -torch.inf).scatter(-1, order, values.masked_fill(~kept, -torch.inf))


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid generate RUN "Once upon" --temperature 0.8 --top-p 0.95`, and what else can be asked of a text:
#   [the guide to writing](../guides/writing.md).
# - `pellucid demo decoder` trains a GPT on Python's language reference in minutes; `pellucid explore` shows each draw.
# - Why the likeliest text is a dull one: Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration*.
