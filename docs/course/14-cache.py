# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14 · The cache
#
# A decoder that writes would read its whole text again for each new token. Nearly all of that was computed before, and
# has not changed. Attention needs two things of the past, its keys and its values, and these can be kept.
#
# *You will see* why, what a step with a cache computes, and what the cache costs. *You need* lesson 6, the mask, and
# lesson 13, the decoder. It runs in a few seconds.

# %% [markdown]
# ## What was read stays as it was
#
# Under a causal mask nothing that comes later changes anything before it. Here a text is read, and read again with two
# more tokens. Keys, values and all else of the first four are the same.

# %%
import torch

import pellucid as pl
from pellucid.config.model import Decoder, Tokens
from pellucid.config.parts import Attention, FeedForward, Stack

torch.manual_seed(0)
stack = Stack(d_model=32, num_layers=2, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=64))
model = pl.build(Decoder(front=Tokens(vocab_size=20), stack=stack)).eval()
ids = torch.randint(20, (1, 6))
short, whole = pl.trace(model, ids[:, :4]), pl.trace(model, ids)
for name in "blocks.0.self_attention.k", "blocks.1.self_attention.v":
    print(name, *short[name].shape, "is the beginning of", *whole[name].shape)
    assert torch.allclose(short[name], whole[name][:, :, :4], atol=1e-6)

# %% [markdown]
# ## A step by hand
#
# So it need not be read twice. Of the last token there are the query, key and value, of the others the keys and values
# that were kept. One query meets all keys. There is nothing to be masked, since none of them is of the future.

# %%
q, k, v = (whole[f"blocks.0.self_attention.{name}"] for name in "qkv")  # (1, heads, 6, head_dim)
kept_k, kept_v = k[:, :, :5], v[:, :, :5]
new_q, new_k, new_v = q[:, :, 5:], k[:, :, 5:], v[:, :, 5:]

keys, values = torch.cat([kept_k, new_k], dim=2), torch.cat([kept_v, new_v], dim=2)
scores = new_q @ keys.mT / new_q.size(-1) ** 0.5
print("scores", *scores.shape, "in place of", *whole["blocks.0.self_attention.scores"].shape)
assert torch.allclose(scores.softmax(-1) @ values, whole["blocks.0.self_attention.context"][:, :, 5:], atol=1e-6)

# %% [markdown]
# ## In a model
#
# `prefill` reads a prompt in one pass and keeps the keys and values of every layer, `step` adds a token. The law of any
# cache: *what comes out is what one pass over the whole text gives*, but for rounding, since shapes differ.

# %%
from pellucid.inference.decode import Prompt, prefill, step

with torch.no_grad():
    logits, state = prefill(model, Prompt(ids[:, :4]), max_new_tokens=2)
    assert torch.allclose(logits, model(ids)[:, 3], atol=1e-5)
    for at in 4, 5:
        assert torch.allclose(step(state, ids[:, at]), model(ids)[:, at], atol=1e-5)

with pl.trace(model, watch="blocks.0.self_attention.scores") as tape:
    pl.generate(model, Prompt(ids[:, :4]), max_new_tokens=4)
for name in tape:
    print(name, *tape[name].shape)

# %% [markdown]
# ## What it saves, and what it costs
#
# To write $n$ tokens without a cache, $1 + 2 + \dots + n$ positions go through the layers; with one, $n$. In return
# each position leaves $2 \cdot L \cdot G \cdot K$ numbers behind: in $L$ layers a key and a value of width $K$ for each
# of $G$ heads. Mistral has a quarter as many of these heads as Llama, and keeps a quarter as much.

# %%
print(f"{sum(range(1, 1001)):,} positions without a cache, 1,000 with one")
for name in "gpt2", "llama-7b", "mistral-7b":
    stack = pl.preset(name).model.stack
    numbers = 2 * stack.num_layers * stack.num_kv_heads * stack.head_dim
    assert 2 * numbers == pl.size(name).inference.cache_per_token  # bfloat16 has two bytes
    print(f"{name:10}  {numbers:7,} numbers a position, {2 * numbers * 1000 / 1e6:5.1f} MB for 1,000 in bfloat16")

# %% [markdown]
# ## Exercise: where new tokens stand
#
# A decoder of plain PyTorch, trained without a cache, has been given one. `place` tells where `T` new tokens stand
# after `past` others, as positions (T,), and at which keys each may look, (T, past + T), True where it may. What stands
# there is right where there is no past, and twice wrong where there is one. New tokens come one by one and in chunks.

# %%
import math

from torch import nn


class GPT(nn.Module):
    """One layer of one head; `cache` holds the keys and values of what was read before, (B, past, d_model)."""

    def __init__(self, place, vocab=20, d_model=32):
        super().__init__()
        self.place = place
        self.table, self.places = nn.Embedding(vocab, d_model), nn.Embedding(64, d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.norm, self.project = nn.LayerNorm(d_model), nn.Linear(d_model, vocab)

    def forward(self, ids, cache=None):
        past = 0 if cache is None else cache[0].size(1)
        positions, allowed = self.place(past, ids.size(1))
        x = self.table(ids) + self.places(positions)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        if cache is not None:
            k, v = torch.cat([cache[0], k], dim=1), torch.cat([cache[1], v], dim=1)
        scores = q @ k.mT / math.sqrt(q.size(-1))
        weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
        return self.project(x + self.out(weights @ v)), (k, v)


def place(past, T):
    positions = torch.arange(T)
    allowed = torch.ones(T, past + T, dtype=torch.bool).tril()
    return positions, allowed  # your turn


def without(past, T):
    """How the model was trained."""
    return torch.arange(T), torch.ones(T, T, dtype=torch.bool).tril()


def judge(place):
    """The doctor compares steps with one pass; then chunks must give what the model gave that was trained."""
    call, step = lambda model, batch: model(batch.ids)[0], lambda model, batch, cache: model(batch.ids, cache)
    spec = pl.Spec(kind="decoder", vocab_size=20, call=call, step=step)
    for seed in range(3):
        torch.manual_seed(seed)
        model, ids = GPT(place), torch.randint(20, (2, 24))
        trained, cache, found = GPT(without), None, []
        trained.load_state_dict(model.state_dict())
        try:
            finding = pl.doctor(model, spec, only=["kv.parity"], seed=seed)["kv.parity"]
            if finding.status != "PASS":
                return print(f"not yet: {finding.seen}. Usual cause: {finding.cause}")
            for chunk in ids.split([9, 1, 4, 10], dim=1):
                logits, cache = model(chunk, cache)
                found.append(logits)
        except Exception as error:
            return print(f"not yet: {error}")
        if not (gap := (torch.cat(found, dim=1) - trained(ids)[0]).abs().max()) < 1e-4:
            return print(f"not yet: with and without a cache it is another model than was trained, by {gap:.2g}")
    print("right")


judge(place)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(past, T):
    positions = past + torch.arange(T)
    allowed = torch.ones(T, past + T, dtype=torch.bool).tril(past)  # the queries are the last T of the keys
    return positions, allowed


judge(solution)

# %% [markdown]
# ## Further
#
# - `is_causal=True` of `F.scaled_dot_product_attention` aligns the mask with the first key, which is right only
#   where there is no past.
# - [The doctor](../guides/doctor.md) asks two more things of a cache: `decode.reorder`, whether the choice of rows in a
#   beam search reaches all of it, and `cache.poison`, whether slots that are not in use stay unseen.
# - `pellucid size llama-7b --machine h100`: weights, cache, and how fast they can be read, which bounds writing.
# - Fewer heads for keys: Shazeer 2019, *Fast Transformer Decoding*; Ainslie et al. 2023, *GQA*.
