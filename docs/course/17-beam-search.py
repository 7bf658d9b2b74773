# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17 · Beam search
#
# Greedy decoding takes the likeliest token at each step. The likeliest *text* may begin with another one. Beam search
# carries the best few beginnings on side by side.
#
# *You will see* a search by hand, between greedy decoding and trying everything, what is done with texts of different
# lengths, and a date that is read by two beams and not by one. *You need* lesson 16, the encoder–decoder. It runs in a
# few seconds.

# %% [markdown]
# ## A table of probabilities
#
# A small model: what comes next depends on the last token alone. Rows are last tokens, columns next ones, and numbers
# are per cent. A full stop begins a text and ends it.

# %%
import torch

words = [".", "so", "yes", "we", "can", "go"]
table = """
    0    40   28   32   0    0
    25   0    35   40   0    0
    95   0    0    5    0    0
    0    0    0    0    90   10
    10   0    0    0    0    90
    95   5    0    0    0    0"""
logp = (torch.tensor([[float(share) for share in row.split()] for row in table.split("\n")[1:]]) / 100).log()


def total(text):
    """The log-probability of a text: a sum over its tokens."""
    return sum(logp[last, token].item() for last, token in zip((0, *text[:-1]), text, strict=True))


def said(text):
    return " ".join(words[token] for token in text)


# %% [markdown]
# ## Beginnings, side by side
#
# Three tokens first, whatever they are. Each beginning is continued in every way; the best `width` of all these go on.
# With one it is greedy decoding. With as many as there are, it is a search through all $6^3$.

# %%
from itertools import product


def beams(width, length):
    kept = [()]
    for _ in range(length):
        every = [(*text, token) for text in kept for token in range(6)]
        kept = sorted(every, key=total, reverse=True)[:width]
    return kept


for width in 1, 2, 3:
    print(width, *(f"{said(text)} {total(text):.2f}" for text in beams(width, 3)), sep="   ")

first = int(logp[0].argmax())
second = int(logp[first].argmax())
assert beams(1, 3) == [(first, second, int(logp[second].argmax()))]
assert beams(6**3, 3)[0] == max(product(range(6), repeat=3), key=total)

# %% [markdown]
# ## Texts that end
#
# Each token makes a text less likely, so that short texts have an advantage. Wu et al. (2016, eq. 14) divide by a
# length penalty, $\log P(Y) / lp(Y)$ with $lp(Y) = \frac{(5 + |Y|)^\alpha}{(5 + 1)^\alpha}$. With $\alpha = 0$ nothing
# is divided. Here are all texts of up to seven tokens, and the best of them.

# %%
every = [(*body, 0) for length in range(7) for body in product(range(1, 6), repeat=length)]
every = [text for text in every if total(text) > -torch.inf]


def score(text, alpha):
    return total(text) / ((5 + len(text)) / 6) ** alpha


for alpha in 0, 0.6:
    best = sorted(every, key=lambda text: score(text, alpha), reverse=True)
    print(f"α = {alpha}:", *(f"{said(text):12} {score(text, alpha):.3f}" for text in best[:2]), sep="   ")

# %% [markdown]
# `Search` is pellucid's beam search without a model: it is given candidates, the likeliest first, and decides which
# beginnings go on and which texts are finished. With enough beams it finds what trying everything finds.

# %%
from pellucid.inference.beam import Beams, Search, Wu, likeliest


def searched(width, alpha):
    search = Search(Beams(width, ends=(0,), penalty=Wu(alpha)), longest=7)
    scores = logp[:1]
    while not search.is_over:
        found = likeliest(torch.tensor([search.totals]), scores, search.beams.candidates)
        judged = search.take(*(part[0].tolist() for part in found))
        scores = logp[search.steps(judged)[1]]  # the tokens that the beams go on with
    return [(*one.tokens, 0) for one in search.best()]


for alpha in 0, 0.6:
    assert searched(1000, alpha)[0] == max(every, key=lambda text: score(text, alpha))
print(*(f"{width}: {said(searched(width, 0)[0])}" for width in (1, 2, 3)), sep="   ")

# %% [markdown]
# Without a penalty two beams miss the likeliest text: its first word is the third likeliest.
#
# ## In a model
#
# The dates that the model of lesson 16 was trained on have years of four digits. A year of two leads it astray at once.
# Greedy decoding writes `13` once more, which is likelier then; the second beam keeps the `-`, which is so in the end.
# Printed are the beam that a candidate goes on from, its token, its total, and what becomes of it.

# %%
import pellucid as pl
from pellucid.explorer.opening import SHIPPED
from pellucid.inference.beam import beam_search
from pellucid.inference.reading import beginning, read

run, text = pl.load(SHIPPED), "13 feb 82"


def watch(row, length, candidates):
    told = (f"{one.beam} {run.tokenizer.pieces([one.token])[0]:4} {one.total:.2f} {one.fate}" for one in candidates[:3])
    print(f"{length}  ", "".join(f"{each:24}" for each in told))


print("greedy:", *pl.translate(run, [text]))
how = {"beams": 2, "max_new_tokens": 20, "ends": run.tokenizer.ends, "penalty": Wu(0.0)}
(texts,) = beam_search(run.model, beginning(run, text), **how, observer=watch)
for found in texts:
    written = run.tokenizer.target.decode(found.tokens)
    asked = torch.tensor([[*found.tokens, *run.tokenizer.ends]]).mT
    one_pass = run.model(*read(run, text, written).inputs)[0].log_softmax(-1).gather(1, asked).sum()
    print(f"{written:10} {found.score:.3f}")
    assert abs(one_pass - found.score) < 1e-4

# %% [markdown]
# A score is what one pass over the whole text gives. Likelier is not right, though: `82` was to become 1982.
#
# ## Exercise: a step that can end
#
# Given are the beginnings, as pairs of a text and its total, what is finished so far, in the same form, and the
# log-probabilities (beginnings, tokens) of what follows. Wanted are both after the step. Of the candidates, the
# likeliest first, one that ends with `end` is finished if it is among the first `width`, and is given up if not. The
# first `width` of those that do not end go on. What stands there lets a text go on after its end.


# %%
def candidates(beginnings, logp):
    """Every beginning with every token: pairs of text and total, the likeliest first."""
    rows = zip(beginnings, logp.tolist(), strict=True)
    every = [((*text, token), total + more) for (text, total), row in rows for token, more in enumerate(row)]
    return sorted(every, key=lambda candidate: -candidate[1])


def step(beginnings, finished, logp, width, end):
    every = candidates(beginnings, logp)
    return every[:width], finished  # your turn


def fault(step):
    """Goes along with pellucid's search, on tables drawn at random."""
    torch.manual_seed(0)
    for case in range(40):
        width, logp = 1 + case % 4, (2 * torch.randn(6, 6)).log_softmax(-1)
        search, scores, done = Search(Beams(width, ends=(0,), patience=1e9), longest=9), logp[:1], {}
        beginnings, finished = [((), 0.0)], []
        for length in range(1, 6):
            beginnings, finished = step(beginnings, finished, scores, width, 0)
            before, found = search.texts, likeliest(torch.tensor([search.totals]), scores, 2 * width)
            judged = search.take(*(part[0].tolist() for part in found))
            done |= {(*before[one.beam], one.token): one.total for one in judged if one.fate == "finished"}
            going = zip(search.texts, search.totals, strict=True)
            for name, mine, should in ("goes on", beginnings, going), ("is finished", finished, done.items()):
                mine, should = ({text: round(total, 3) for text, total in each} for each in (mine, should))
                if len(mine) != len(should) or any(abs(mine[text] - should.get(text, 9)) > 0.01 for text in mine):
                    return f"table {case}, width {width}, step {length}: what {name} is {mine}, and should be {should}"
            scores = logp[[text[-1] for text, _ in beginnings]]
    return ""


def judge(step):
    try:
        wrong = fault(step)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    print(f"not yet: {wrong}" if wrong else "right")


judge(step)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(beginnings, finished, logp, width, end):
    every = candidates(beginnings, logp)
    finished = finished + [(text, total) for text, total in every[:width] if text[-1] == end]
    return [(text, total) for text, total in every if text[-1] != end][:width], finished


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid translate RUN --beams 4 --best 4 --length-penalty wu:0.6`, patience and coverage:
#   [the guide to writing](../guides/writing.md).
# - A search may stop before the longest length, since totals only fall: as soon as no beginning can still displace a
#   finished text, or sooner with patience (Kasai et al. 2022).
# - Wu et al. 2016, §7 and eq. 14; that the likeliest text may be an empty one: Stahlberg & Byrne 2019.
