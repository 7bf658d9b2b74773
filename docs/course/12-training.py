# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Training
#
# The gradient says in which direction the loss falls, for each weight. It does not say how far to go. Adam answers that
# for each weight by itself, and a schedule for all of them together.
#
# *You will see* a step of Adam by hand, why the rate begins small, the whole loop in a few lines, and the first test
# that any model should pass, with what it does not tell. *You need* lesson 11, the loss. It runs in a few seconds.

# %% [markdown]
# ## A step of Adam
#
# Adam (Kingma & Ba 2015, algorithm 1) keeps two running means for each weight $w$: of its gradient $g$, and of $g^2$.
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \qquad
# w \leftarrow w - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# $\eta$ is the learning rate. Both means start at 0 and are too small at first; $\hat m = m / (1 - \beta_1^t)$ and
# $\hat v = v / (1 - \beta_2^t)$ at step $t$ make up for that. The settings are those of Vaswani et al. 2017, §5.3.

# %%
import torch

BETAS, EPSILON = (0.9, 0.98), 1e-9


def moves(gradients, rate):
    """How far Adam moves the weights at each step, given their gradients (steps, weights)."""
    m = v = torch.zeros(gradients.size(1))
    for step, g in enumerate(gradients, 1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g**2
        m_hat, v_hat = m / (1 - BETAS[0] ** step), v / (1 - BETAS[1] ** step)
        yield -rate * m_hat / (v_hat.sqrt() + EPSILON)


torch.manual_seed(2)
gradients = torch.randn(50, 3) * torch.tensor([100.0, 1.0, 0.01])
weights = torch.zeros(3, requires_grad=True)
optimizer = torch.optim.Adam([weights], lr=0.1, betas=BETAS, eps=EPSILON)
for g in gradients:
    weights.grad = g
    optimizer.step()
assert torch.allclose(weights, sum(moves(gradients, 0.1)), atol=1e-5)
print("gradients  ", [round(g, 4) for g in gradients[0].tolist()])
print("first moves", [round(move, 4) for move in next(moves(gradients, 0.1)).tolist()])

# %% [markdown]
# ## Why the rate begins small
#
# The first move is as long as the rate says, whatever the gradient: with one of them seen, $\hat m / \sqrt{\hat v}$ is
# $g / |g|$. Later it depends on whether gradients agree. Here those of one weight are all 1, and those of a thousand
# others are noise.

# %%
pushes = torch.cat([torch.ones(50, 1), torch.randn(50, 1000)], dim=1)
for step, move in enumerate(moves(pushes, 0.1), 1):
    if step in (1, 2, 5, 10, 50):
        print(f"step {step:2}   a slope {move[0].abs():.3f}   noise {move[1:].abs().mean():.3f}")

# %% [markdown]
# Adam learns to tell a slope from noise, and follows noise in small steps. At first it cannot, and goes at full length
# after both. This is one reason given for a warm-up (Liu et al. 2020; lesson 9 has another). The paper, which gives
# none, lets the rate rise over the first `warmup_steps`, and fall after them.

# %%
# %matplotlib inline
from matplotlib.figure import Figure

from pellucid.config.optimisation import AdamW, InverseSquareRoot, Training
from pellucid.training.schedule import learning_rate

figure = Figure(figsize=(6, 2.6), layout="constrained")
ax = figure.subplots()
for d_model, warmup_steps in (512, 4000), (512, 8000), (256, 4000):
    paper = learning_rate(InverseSquareRoot(warmup_steps=warmup_steps), steps=20_000, d_model=d_model)
    steps = range(1, 20_001, 50)
    ax.plot(steps, [paper(step) for step in steps], label=f"d_model {d_model}, warmup_steps {warmup_steps}")
ax.set(xlabel="step", ylabel="learning rate")
ax.legend()
figure

# %% [markdown]
# ## The loop
#
# Scores, loss, gradients, a step; and again. By hand, always on the same four rows.

# %%
import torch.nn.functional as F

import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.parts import Attention, FeedForward, Stack
from pellucid.config.run import Causal
from pellucid.data.batch import Batch

V, STEPS = 20, 250
stack = Stack(d_model=32, num_layers=2, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=64))
schedule = InverseSquareRoot(peak=5e-3, warmup_steps=20)
text = torch.randint(V, (4, 13))
text[:, 0] = torch.arange(4)  # rows that begin alike could not be told apart
batch = Batch(tokens=text[:, :-1], labels=text[:, 1:])


def fresh():
    torch.manual_seed(0)
    return pl.build(Decoder(front=Tokens(vocab_size=V), stack=stack))


def losses(model, loss_of):
    optimizer = torch.optim.Adam(model.parameters(), betas=BETAS, eps=EPSILON)
    rate = learning_rate(schedule, steps=STEPS, d_model=stack.d_model)
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = rate(step)
        loss = loss_of(model(batch.tokens).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


model = fresh()
by_hand = list(losses(model, F.cross_entropy))

# %% [markdown]
# `pl.train` is that loop. It asks for batch 0, 1, 2, … and yields what each step did. The losses are the same; in time
# their last digits part, since sums are taken in another order.

# %%
adam = AdamW(betas=BETAS, epsilon=EPSILON, weight_decay=0)
settings = Training(steps=STEPS, schedule=schedule, optimizer=adam, clip_norm=0)
told = list(pl.train(fresh(), [batch] * STEPS, Causal(), settings))
for step in 1, 20, 100, STEPS:
    print(f"step {step:3}   rate {told[step - 1].learning_rate:.4f}   loss {told[step - 1].loss:.3f}")
assert torch.allclose(torch.tensor(by_hand[:20]), torch.tensor([step.loss for step in told[:20]]), atol=1e-4)

# %% [markdown]
# ## One batch by heart
#
# The text is drawn at random, and yet the loss goes to nothing: 48 labels can be learned by heart. Any sound model can
# do that in seconds, so it is the first thing to try. Here is a training that cannot: its author takes the softmax, and
# `F.cross_entropy` takes it once more. A probability, read as a score, is at most 1, which leaves the right token
# $e / (e + V - 1)$ at best, and the loss at $\ln(e + V - 1) - 1$. Where a loss stops may tell what stops it.

# %%
twice = list(losses(fresh(), lambda scores, labels: F.cross_entropy(scores.softmax(-1), labels)))
floor = torch.tensor(torch.e + V - 1).log() - 1
print(f"as it should be {by_hand[-1]:.2f} nats; softmax twice {twice[-1]:.2f}, never below {floor:.2f}")
assert min(twice) > floor

# %% [markdown]
# ## Not by heart
#
# Learning by heart is a test of the code, and not the aim. Whether a model has learned something that holds elsewhere
# is told by texts it was not trained on, the *validation data*. This one is worse at such a text than a model that
# knows nothing.

# %%
other = torch.randint(V, (4, 13))
for what, rows in ("trained on", text), ("another text", other):
    found = pl.evaluate(model, [Batch(tokens=rows[:, :-1], labels=rows[:, 1:])], Causal())
    print(f"{what:13} {found.loss:.2f} nats")
print(f"nothing known {torch.tensor(float(V)).log():.2f} nats")

# %% [markdown]
# *Dropout* helps against learning by heart. In training each number of some tensors is set to 0 with probability $p$,
# and the others are divided by $1 - p$, so that the mean stays. In evaluation nothing is dropped (Vaswani et al. 2017,
# §5.4). `Stack(dropout=0.1)` is one of the places that have it; [the glossary](../GLOSSARY.md) has them all.

# %%
dropout, x = torch.nn.Dropout(p=0.5), torch.ones(10_000)
print(dropout(x)[:8].tolist(), f"mean {dropout(x).mean():.2f}")
assert torch.equal(dropout.eval()(x), x)

# %% [markdown]
# ## Exercise: the paper's learning rate
#
# Write the curve of the figure: a straight line from 0 to the peak of $1 / \sqrt{d_\text{model} \cdot w}$ at step
# $w$, which is `warmup_steps`, and from there a fall with $1 / \sqrt{\text{step}}$. Steps count from 1. What stands
# there falls as it should, and does not rise.


# %%
def rate(step, d_model, warmup_steps):
    return (d_model * step) ** -0.5  # your turn


def judge(rate):
    """Whether it is pellucid's at every step, for sizes drawn at random."""
    torch.manual_seed(0)
    for d_model, w in torch.randint(50, 1000, (4, 2)).tolist():
        case, steps = f"not yet: d_model {d_model}, warmup_steps {w}:", range(1, 9 * w)
        try:
            found = torch.tensor([float(rate(step, d_model, w)) for step in steps], dtype=torch.float64)
        except Exception as error:
            return print(f"{case} {type(error).__name__}: {error}")
        paper = learning_rate(InverseSquareRoot(warmup_steps=w), steps=len(steps), d_model=d_model)
        right = torch.tensor([paper(step) for step in steps], dtype=torch.float64)
        if (wrong := ~torch.isclose(found, right, rtol=1e-6, atol=0)).any():
            at = int(wrong.int().argmax())
            return print(f"{case} at step {at + 1} it is {found[at]:.3g}, and should be {right[at]:.3g}")
    print("right")


judge(rate)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(step, d_model, warmup_steps):
    """Equation 3 of the paper: of the two halves, which meet at the peak, the lower one."""
    return d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid lab warmup`: twelve layers with norms after the sub-layers learn only with a warm-up; with norms before
#   them they learn either way (Xiong et al. 2020).
# - [The guide to training](../guides/training.md): other schedules, Muon, averaged weights, a doctor that looks on.
# - `pl.doctor(model, only=["overfit.one_batch"])` has a copy of any model learn a batch by heart. That it
#   succeeds does not rule out a leak, which makes it easier: see [the mask](06-the-mask.py).
# - Vaswani et al. 2017, §5.3; on Adam's first steps: Liu et al. 2020, *On the Variance of the Adaptive Learning Rate*.
