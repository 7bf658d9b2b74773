# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · The loss
#
# A decoder gives each position a score for every token that may come next. The loss says how far off that was, in one
# number whose gradient trains everything.
#
# *You will see* what a position is asked, the cross-entropy by hand, what perplexity and bits per byte are good for,
# and what label smoothing asks instead. *You need* lesson 10, the stack. It runs in a few seconds.

# %% [markdown]
# ## What a position is asked
#
# The text is its own answer, moved by one place. Position $t$ has read tokens $0$ to $t$, and is asked for token
# $t + 1$. The last token is only asked, the first only read.

# %%
import torch

text = "a␣cat␣sat"
letters = sorted(set(text))
ids = torch.tensor([[letters.index(letter) for letter in text]])
tokens, labels = ids[:, :-1], ids[:, 1:]
print("reads   ", *(letters[i] for i in tokens[0]))
print("is asked", *(letters[i] for i in labels[0]))

# %% [markdown]
# ## Cross-entropy
#
# The softmax makes probabilities of scores. The loss of a position is $-\ln p$ of the right token: 0 for certainty, and
# without bound for a certainty that was wrong. A model that knows nothing has $\ln V$, which is where a training should
# begin. In code take `log_softmax`, as the next section does: the logarithm of a softmax that came out as 0 is minus
# infinity.

# %%
import torch.nn.functional as F

torch.manual_seed(0)
logits = torch.randn(1, len(text) - 1, len(letters))
p = logits.softmax(-1).gather(-1, labels[..., None])[..., 0]
print("p of the right letter", [round(each, 2) for each in p[0].tolist()])
print("loss of each position", [round(each, 2) for each in (-p.log())[0].tolist()])
assert torch.isclose(-p.log().mean(), F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
print(f"mean {-p.log().mean():.2f}; of one that knows nothing {torch.tensor(float(len(letters))).log():.2f}")

# %% [markdown]
# ## In a model
#
# In pellucid the data shift the labels: a `Batch` has tokens and labels side by side. Where nothing is asked, as at
# padding, the label is `IGNORE`, which is -100. The mean is over all labels of a batch, so that a long row weighs more.

# %%
import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.parts import Attention, FeedForward, Stack
from pellucid.config.run import Causal
from pellucid.data.batch import IGNORE, Batch

V = 20
stack = Stack(d_model=32, num_layers=2, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=64))
model = pl.build(Decoder(front=Tokens(vocab_size=V), stack=stack)).eval()
read = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 0, 0, 0]])
asked = torch.tensor([[1, 4, 1, 5, 9], [2, 6, IGNORE, IGNORE, IGNORE]])
batch = Batch(tokens=read, labels=asked, keep=asked != IGNORE)

with torch.no_grad():
    tape = pl.trace(model, {"tokens": read, "keep": batch.keep}, watch="logits")
losses = -tape["logits"].log_softmax(-1).gather(-1, asked.clamp(min=0)[..., None])[..., 0]
found = pl.evaluate(model, [batch], Causal())
assert abs(losses[batch.keep].mean() - found.loss) < 1e-5
print(f"{found.count} labels, loss {found.loss:.3f}; a mean of the two rows' means would be", end=" ")
print(f"{(losses[0].mean() + losses[1, :2].mean()) / 2:.3f}")

# %% [markdown]
# ## Perplexity, and bits per byte
#
# Perplexity is $e^\text{loss}$: a model of perplexity 20 is as unsure as if it chose among 20 equally likely tokens.
# It depends on what a token is. Here the same text is cut in two ways, and each token is given its share of the text as
# its probability.

# %%
import math
import re
from collections import Counter

from pellucid.config.run import NamedData
from pellucid.data.corpora import load_corpus
from pellucid.training.evaluate import Evaluation

text = "\n".join(load_corpus(NamedData(name="python-docs")).train)
size = len(text.encode())
for name, cut in ("characters", list(text)), ("words", re.findall(r" ?\w+|\W", text)):
    counts = Counter(cut)
    bits = sum(-n * math.log2(n / len(cut)) for n in counts.values())
    shown = Evaluation(loss=bits / len(cut) * math.log(2), accuracy=0, count=len(cut))
    assert math.isclose(shown.bits_per_byte(size), bits / size)
    print(f"{name:10}  {shown.count:7,} tokens  perplexity {shown.perplexity:5.1f}  {bits / size:.2f} bits per byte")

# %% [markdown]
# By perplexity characters look better by far. But there are more of them to be guessed. *Bits per byte* are all bits of
# a text over its bytes, whatever the tokens, and say that words tell more. Models of different tokenizers are compared
# in that, and on a text that they have not read; these shares were counted on the text itself.

# %% [markdown]
# ## Label smoothing
#
# Cross-entropy is never content: it can fall as long as $p < 1$, and scores grow without end. With label smoothing the
# right token is to have $1 - \epsilon$, and $\epsilon$ is shared out among all $V$, the right one included (Szegedy et
# al. 2016, §7; Vaswani et al. 2017, §5.4, with $\epsilon = 0.1$). The loss is then least at
# $p = 1 - \epsilon + \epsilon / V$.

# %%
epsilon, V = 0.1, 50
for p in 0.5, 0.902, 0.99, 0.9999:
    log_p = torch.tensor([p] + [(1 - p) / (V - 1)] * (V - 1)).log()
    smoothed = -(1 - epsilon) * log_p[0] - epsilon * log_p.mean()
    assert torch.isclose(smoothed, F.cross_entropy(log_p, torch.tensor(0), label_smoothing=epsilon))
    print(f"p {p:<6}  loss {-log_p[0]:.4f}  smoothed {smoothed:.3f}")

# %% [markdown]
# The paper reports that this hurts perplexity and helps accuracy and BLEU. In pellucid it is
# `objective.label_smoothing`. While a model trains, `loss` is what is minimised, smoothing included, and `nats` the
# plain loss; an evaluation reports the plain loss.

# %% [markdown]
# ## Exercise: the shift
#
# Write the loss of a decoder from its logits (B, T, V) and the text (B, T) itself, in which 0 is padding: the mean over
# all tokens that are asked. What stands there asks each position for the token that it reads, which is easy to copy.


# %%
def next_token_loss(logits, ids):
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten())  # your turn


def judge(loss):
    """The doctor asks what each position is pushed towards; then the value, for batches drawn at random."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(20, 16), torch.nn.Linear(16, 20))
    spec = pl.Spec(kind="decoder", criterion=lambda logits, batch: loss(logits, batch.ids), pad_id=0)
    finding = pl.doctor(model, spec, only=["loss.alignment"])["loss.alignment"]
    if finding.status != "PASS":
        return print(f"not yet: {finding.check}: {finding.seen}")
    for B, T, V in torch.randint(3, 9, (8, 3)).tolist():
        logits, ids = torch.randn(B, T, V), torch.randint(1, V, (B, T))
        for row, length in enumerate(torch.randint(2, T + 1, (B,)).tolist()):
            ids[row, length:] = 0
        asked = (ids[:, 1:] != 0).nonzero().tolist()
        right = sum(-logits[b, t].log_softmax(-1)[ids[b, t + 1]] for b, t in asked) / len(asked)
        try:
            if not abs(loss(logits, ids) - right) < 1e-4:
                return print(
                    f"not yet: of {len(asked)} tokens asked the mean is {right:.3f}, not {loss(logits, ids):.3f}"
                )
        except Exception as error:
            return print(f"not yet: {type(error).__name__}: {error}")
    print("right")


judge(next_token_loss)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


judge(solution)

# %% [markdown]
# ## Further
#
# - [The doctor](../guides/doctor.md) asks `loss.alignment` of any model, `loss.init` whether the loss begins near
#   $\ln V$, and `accum.token_weights` whether every token weighs the same.
# - `pellucid evaluate RUN` has loss, perplexity, and bits per byte of text.
# - Some libraries shift labels inside the model, and some leave it to the data: [the glossary](../GLOSSARY.md).
# - Szegedy et al. 2016, *Rethinking the Inception Architecture for Computer Vision*, §7; Müller et al. 2019, *When Does
#   Label Smoothing Help?*
