# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9 · Residual connections and norms
#
# Attention and feed-forward layers do not hand on what they compute. They add it to what came in. The vector that all
# of them add to is the *residual stream*, and a norm keeps its size in hand.
#
# *You will see* what depth does without either, LayerNorm by hand, that a stream is a sum, and what it makes of a norm
# to stand before or after the sum. *You need* lesson 8, the feed-forward layer. It runs in a few seconds.

# %% [markdown]
# ## What depth does
#
# Thirty-two layers as PyTorch makes them. How large is what comes out, and how much of the gradient of the last layer
# is left at the first?

# %%
import torch
from torch import nn

D = 64


def deep(connect):
    torch.manual_seed(0)
    first = x = torch.randn(100, D, requires_grad=True)
    for _ in range(32):
        x = connect(x, nn.Linear(D, D))
    (gradient,) = torch.autograd.grad(x.sum(), first)
    return f"size {x.std():5.2f}   gradient × {gradient.norm() / (100 * D) ** 0.5:.2g}"


print("layer(x)           ", deep(lambda x, layer: layer(x.relu())))
print("x + layer(x)       ", deep(lambda x, layer: x + layer(x.relu())))
print("x + layer(norm(x)) ", deep(lambda x, layer: x + layer(nn.functional.layer_norm(x, (D,)).relu())))

# %% [markdown]
# With the sum the gradient has a way back on which nothing happens to it (He et al. 2016). Now it is the size that
# grows, with each layer in proportion to what is there. With a norm before each layer, all of them add about equally
# much.

# %% [markdown]
# ## The norm
#
# LayerNorm (Ba et al. 2016) takes the $D$ numbers of one position, subtracts their mean $\mu$ and divides by their
# deviation $\sigma$: $\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \cdot g + b$, with a trained gain and bias for each of
# the $D$. Adding one number to all of them, or multiplying all by one positive number, makes no difference (but for
# $\epsilon$).

# %%
x = torch.tensor([1.0, 1.0, 5.0, 5.0])
for y in x, x + 100, x * 10:
    mean, variance = y.mean(), ((y - y.mean()) ** 2).mean()
    print(y.tolist(), f"mean {mean:.0f}, variance {variance:.0f} →", ((y - mean) / variance.sqrt()).tolist())

# %% [markdown]
# ## The stream is a sum
#
# With norms before the sub-layers (`placement="pre"`, as in GPT-2), nothing is done to the stream but adding. So its
# last state is the embedding plus what every sub-layer wrote. That is the law, and what makes a model easy to take
# apart (Elhage et al. 2021).

# %%
import pellucid as pl
from pellucid.config.model import Decoder, Tokens, XavierInit
from pellucid.config.parts import Attention, FeedForward, Stack


def build(placement, layers):
    torch.manual_seed(0)
    parts = {"attention": Attention(num_heads=4), "feed_forward": FeedForward(d_ff=4 * D)}
    stack = Stack(d_model=D, num_layers=layers, placement=placement, **parts)
    return pl.build(Decoder(front=Tokens(vocab_size=50, scaled=True), stack=stack, init=XavierInit())).eval()


ids = torch.randint(50, (8, 33))
tape = pl.trace(build("pre", 3), ids)
written = {"embedding.out": tape["embedding.out"]}
for i in range(3):
    written |= {name: tape[name] for name in (f"blocks.{i}.self_attention.out", f"blocks.{i}.feed_forward.out")}
assert torch.allclose(sum(written.values()), tape["blocks.2.residual_post"], atol=1e-4)
for name, vector in written.items():
    print(f"{name:28} length {vector.norm(dim=-1).mean():5.2f}")

# %% [markdown]
# ## Before or after
#
# The paper has its norms after the sum: `after(x + sublayer(x))`. Then the stream itself is normed, twice a layer, and
# untrained it is $\sqrt{D} = 8$ long everywhere. With norms before the sub-layers it grows, so what a layer adds counts
# for less the later it comes. The head needs a last norm then, `final_norm`.

# %%
# %matplotlib inline
import torch.nn.functional as F
from matplotlib.figure import Figure

figure = Figure(figsize=(7, 2.6), layout="constrained")
left, right = figure.subplots(1, 2)
for placement in "post", "pre":
    model = build(placement, 24)
    tape = pl.trace(model, ids, watch="*.residual_post")
    left.plot([tape[f"blocks.{i}.residual_post"].norm(dim=-1).mean().item() for i in range(24)], label=placement)
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    right.plot([block.feed_forward.down.weight.grad.norm() for block in model.blocks], label=placement)
left.set(xlabel="layer", ylabel="length of the stream", ylim=(0, None))
right.set(xlabel="layer", ylabel="gradient of down", ylim=(0, None))
left.legend()
figure

# %% [markdown]
# On the right is the gradient at the start of training. With norms before the sub-layers it falls as the stream grows;
# after the sum nothing makes it smaller in a deeper model. Xiong et al. 2020 see in this why such models need a
# warm-up, and the others do not.

# %% [markdown]
# ## Exercise: LayerNorm
#
# Write it for inputs (B, T, D). What stands there takes mean and variance over a whole row of text. Positions meet in
# it, and in a decoder the future shows through: no mask helps against that.


# %%
def layer_norm(x, gain, bias, epsilon=1e-5):
    mean, variance = x.mean((1, 2), keepdim=True), x.var((1, 2), keepdim=True)  # your turn
    return (x - mean) / torch.sqrt(variance + epsilon) * gain + bias


def judge(norm):
    """Whether a position is alone, and whether all is as in PyTorch, for inputs large and tiny."""
    torch.manual_seed(0)
    for case in range(8):
        B, T, D = torch.randint(2, 9, (3,)).tolist()
        x, gain, bias = torch.randn(B, T, D) * 10.0 ** (1 - case) + case, torch.randn(D), torch.randn(D)
        b, t, s = (int(torch.randint(size, ())) for size in (B, T, T - 1))
        other_row, other_position = x.clone(), x.clone()
        other_row[b - 1] += torch.randn(T, D)
        other_position[b, (t + 1 + s) % T] += torch.randn(D)
        try:
            out = norm(x, gain, bias)
            if out.shape != x.shape:
                return print(f"not yet: the shape is {list(out.shape)}, and should be {list(x.shape)}")
            for what, changed in ("another row", other_row), ("another position", other_position):
                if moved := float((norm(changed, gain, bias) - out)[b, t].abs().max()):
                    return print(f"not yet: position {t} of row {b} moves by {moved:.2g} when {what} changes")
            apart = (out - F.layer_norm(x, (D,), gain, bias)).abs().max()
            if not apart < 1e-3:
                return print(f"not yet: for D {D} and inputs of deviation {x.std():.1g} apart by {apart:.2g}")
        except Exception as error:
            return print(f"not yet: {type(error).__name__}: {error}")
    print("right")


judge(layer_norm)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(x, gain, bias, epsilon=1e-5):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)  # x.var divides by D - 1 unless told not to
    return (x - mean) / torch.sqrt(variance + epsilon) * gain + bias


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid lab residuals`: decoders up to eight layers deep without the one, without the other, without both.
# - `pellucid lab warmup`: norms after the sum with a warm-up and without; [training](12-training.py) says what it is.
# - Without the mean and the bias: RMSNorm (Zhang & Sennrich 2019), `Stack(norm=RMSNorm())`. Before and after a
#   sub-layer: `placement="both"`, as in Gemma 2.
# - Vaswani et al. 2017, §3.1 and §5.4; Elhage et al. 2021, *A Mathematical Framework for Transformer Circuits*.
