"""Mistakes that are made when a Transformer is ported, each planted in a copy of a small model."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from families import CHOICES, small
from torch import nn

from pellucid.config import parts
from pellucid.models.build import build
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.nn.attention import Attention
from pellucid.nn.block import Residual
from pellucid.nn.feed_forward import FeedForward
from pellucid.nn.kernels import sdpa
from pellucid.nn.masks import Mask, Sites
from pellucid.nn.norms import LayerNorm
from pellucid.nn.positions import RotaryPositions

HALVES = torch.arange(8).view(4, 2).T.flatten()


def tower(model):
    """The tower that writes, or the only one."""
    return model.decoder if isinstance(model, EncoderDecoder) else model


def planted(choice, plant):
    """A fault that is made in a copy of the model."""

    def make(family):
        a = small(family, **CHOICES[choice])
        b = copy.deepcopy(a)
        with torch.no_grad():
            plant(tower(b))
        return a, b

    return make


def configured(choice, change):
    """A fault of the config: the model is built otherwise, and given what fits of A's weights."""

    def make(family):
        a = small(family, **CHOICES[choice])
        described = a.config
        if family == "encoder_decoder":
            wrong = replace(described, decoder=change(described.decoder))
        else:
            wrong = replace(described, stack=change(described.stack))
        b = build(wrong).eval()
        wanted = b.state_dict()
        turned = {".before.": ".after.", ".after.": ".before."}  # a norm that stands elsewhere has the same weights
        state = a.state_dict()
        for name in list(state):
            for here, there in turned.items():
                if name not in wanted and here in name:
                    state[name.replace(here, there)] = state[name]
        b.load_state_dict(state, strict=False)
        return a, b

    return make


def put(module, name, value):
    getattr(module, name).copy_(value)


def on(module, name, change):
    put(module, name, change(getattr(module, name).detach().clone()))


def exchange(one, other):
    for name in ("weight", "bias"):
        if getattr(one, name) is not None:
            a, b = (getattr(layer, name).detach().clone() for layer in (one, other))
            put(one, name, b)
            put(other, name, a)


def heads(order, width=8):
    return lambda w: w.view(-1, width, *w.shape[1:])[order].view_as(w)


def resplit(attention):
    """The rows of a joint matrix read head by head, q, k and v in turn, where they lie one after the other."""
    layers = (attention.query, attention.key, attention.value)
    for name in ("weight", "bias"):
        rows = torch.cat([getattr(layer, name).detach() for layer in layers])
        wrong = rows.view(4, 3, 8, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)
        for layer, part in zip(layers, wrong.chunk(3), strict=True):
            put(layer, name, part)


def into(module, kind):
    """The module with other code."""
    module.__class__ = kind


# ---- code that is wrong ------------------------------------------------------------------------


def wrong_mask(rule):
    """Towers whose masks follow another rule."""

    class Wrong(Mask):
        def allows(self, query, key, query_segment, key_segment):
            return rule(super().allows(query, key, query_segment, key_segment), query, key)

        def hides_nothing(self):
            return False

        def is_triangle(self):
            return False

    def masks(self, sites, cache):
        made = type(self).__mro__[1].masks(self, sites, cache)
        return {
            window: Wrong(query=m.query, key=m.key, causal=m.causal, window=m.window, bias=m.bias)
            for window, m in made.items()
        }

    return lambda t: into(t, type(type(t).__name__, (type(t),), {"masks": masks}))


def masks_without_padding(t):
    def masks(self, sites, cache):
        return type(self).__mro__[1].masks(self, Sites(sites.positions), cache)

    into(t, type(type(t).__name__, (type(t),), {"masks": masks}))


def sites_changed(change):
    def sites(self, inputs, cache, *, keep=None, positions=None, segments=None):
        found = type(self).__mro__[1].sites(self, inputs, cache, keep=keep, positions=positions, segments=segments)
        return Sites(change(found.positions), found.segments)

    return lambda t: into(t, type(type(t).__name__, (type(t),), {"sites": sites}))


class Reshaped(Attention):
    """Cut into heads by a view alone: positions and heads run into each other."""

    def _split(self, x):
        return x.reshape(x.size(0), -1, x.size(1), self.head_dim)


class Tanh(FeedForward):
    def hidden(self, x):
        pre = self.tap("pre", self.up(x), x)
        return self.tap("hidden", F.gelu(pre, approximate="tanh"), pre)


class Alone(Residual):
    def forward(self, x, sublayer):
        y = self.output(sublayer(self.before(x)))
        return self.after(self.tap("sum", y, x, y))


class Loose(LayerNorm):
    def forward(self, x):
        return self.tap("out", F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-3), x)


class Twice(FeedForward):
    def forward(self, x):
        hidden = self.hidden(x)
        return self.tap("out", self.down(hidden) + self.down.bias, hidden)


class Tripled(FeedForward):
    def forward(self, x):
        hidden = self.hidden(x)
        return self.tap("out", self.down(hidden) * 3, hidden)


class Later(RotaryPositions):
    def forward(self, positions):
        return super().forward(positions + 1)


def squared(q, k, v, mask, *, scale, softcap, dropout, tap):
    """A fused kernel that scales by itself, given queries that are scaled already."""
    return sdpa(q * scale, k, v, mask, scale=scale, softcap=softcap, dropout=dropout, tap=tap)


def blind_in_single(q, k, v, mask, **given):
    """A fused kernel that is wrong in single precision alone."""
    return sdpa(q if q.dtype == torch.float64 else q * 0, k, v, mask, **given)


def strided(family):
    """Untied: the output has the embedding it was trained from, no longer the one it has."""
    a = small(family)
    b = copy.deepcopy(a)
    b.head.project.weight = nn.Parameter(b.head.project.weight.detach() + 0.1)
    return a, b


def tied(family):
    a = small(family)
    a.head.project.weight = nn.Parameter(a.head.project.weight.detach() + torch.randn_like(a.head.project.weight))
    b = copy.deepcopy(a)
    b.head.project.weight = tower(b).embedding.table.weight
    return a, b


def with_ff(**changes):
    return lambda stack: replace(stack, feed_forward=replace(stack.feed_forward, **changes))


def with_attention(**changes):
    return lambda stack: replace(stack, attention=replace(stack.attention, **changes))


def with_stack(**changes):
    return lambda stack: replace(stack, **changes)


def attention(t, layer=0):
    return t.blocks[layer].self_attention


# name: (how it is made, where it parts, what is said of the cause); names are those of the writing tower.
FAULTS = {
    # weights
    "query transposed": (planted("plain", lambda t: on(attention(t, 1).query, "weight", lambda w: w.mT)), "blocks.1.self_attention.q_projected", "query.weight of B is transposed; transposing"),
    "output transposed": (planted("plain", lambda t: on(attention(t).out, "weight", lambda w: w.mT)), "blocks.0.self_attention.out", "out.weight of B is transposed; transposing"),
    "heads of the values permuted": (planted("plain", lambda t: on(attention(t, 1).value, "weight", heads([2, 0, 3, 1]))), "blocks.1.self_attention.v_new", "has its heads in another order; reordering the heads"),
    "heads of the output permuted": (planted("plain", lambda t: on(attention(t).out, "weight", lambda w: heads([1, 0, 3, 2])(w.mT.contiguous()).mT)), "blocks.0.self_attention.out", "reordering the heads"),
    "joint q, k, v split head by head": (planted("plain", lambda t: resplit(attention(t))), "blocks.0.self_attention.k_projected", "a joint matrix that was split the wrong way; splitting query, key and value"),
    "query and key exchanged": (planted("plain", lambda t: exchange(attention(t, 1).query, attention(t, 1).key)), "blocks.1.self_attention.k_projected", "exchanging query and key of B"),
    "gate and up exchanged": (planted("gated", lambda t: exchange(t.blocks[0].feed_forward.gate, t.blocks[0].feed_forward.up)), "blocks.0.feed_forward.gate", "exchanging gate and up of B"),
    "norms exchanged": (planted("plain", lambda t: put(t.blocks[0].self_attention_residual.before, "weight", t.blocks[0].feed_forward_residual.before.weight)), "blocks.0.self_attention_residual.before.out", "holds A's"),
    "rows for the other rotary pairing": (planted("rotary", lambda t: on(attention(t).query, "weight", lambda w: w.view(-1, 8, w.size(1))[:, HALVES].reshape(w.shape))), "blocks.0.self_attention.q_projected", "reordering the coordinates of every head"),
    "key bias lost": (planted("plain", lambda t: put(attention(t, 1).key, "bias", 0.0)), "blocks.1.self_attention.k_projected", "key.bias of B is zero, as if it were missing"),
    "feed-forward bias lost": (planted("plain", lambda t: put(t.blocks[0].feed_forward.down, "bias", 0.0)), "blocks.0.feed_forward.out", "down.bias of B is zero, as if it were missing"),
    "norm never loaded": (planted("plain", lambda t: put(t.final_norm, "weight", 1.0)), "final_norm.out", "is one everywhere, as if it had never been loaded"),
    "weights halved": (planted("plain", lambda t: on(t.blocks[0].feed_forward.up, "weight", lambda w: w / 2)), "blocks.0.feed_forward.pre", "is A's times 0.5; multiplying by 2"),
    "sign": (planted("plain", lambda t: on(attention(t, 1).out, "weight", lambda w: -w)), "blocks.1.self_attention.out", "has the other sign; negating"),
    "rounded to bfloat16": (planted("plain", lambda t: on(t.blocks[0].feed_forward.up, "weight", lambda w: w.bfloat16().float())), "blocks.0.feed_forward.pre", "is rounded to bfloat16"),
    "gain less one": (planted("rms", lambda t: on(t.final_norm, "weight", lambda w: w - 1)), "final_norm.out", "is A's minus one; adding 1"),
    "another layer's weights": (planted("plain", lambda t: put(t.blocks[1].feed_forward.up, "weight", t.blocks[0].feed_forward.up.weight)), "blocks.1.feed_forward.pre", "blocks.0.feed_forward.up.weight; taking A's"),
    "other values": (planted("plain", lambda t: on(t.blocks[1].feed_forward.up, "weight", lambda w: w + torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) / 100)), "blocks.1.feed_forward.pre", "up.weight of B has other values"),
    "position table moved by two": (planted("learned", lambda t: on(t.embedding.positions.table, "weight", lambda w: w.roll(2, 0))), "embedding.positions", "has its rows 2 too low; moving the rows"),
    "untied": (strided, "head.projected", "stands alone, and is tied to"),
    "tied that should not be": (tied, "head.projected", "is tied to"),
    # settings
    "scale of the model's width": (configured("plain", with_attention(scale=32**-0.5)), "blocks.0.self_attention.scores", "is 0.176777, and 0.353553 in A; setting"),
    "no scale": (configured("plain", with_attention(scale=1.0)), "blocks.0.self_attention.scores", "is 1, and 0.353553 in A"),
    "softcap left out": (configured("softcap", with_attention(softcap=None)), "blocks.0.self_attention.scores", "is None, and 2 in A"),
    "epsilon": (configured("plain", with_stack(norm=parts.LayerNorm(epsilon=1e-6))), "blocks.0.self_attention_residual.before.out", "is 1e-06, and 1e-05 in A"),
    "gelu for its approximation": (configured("gelu", with_ff(activation="gelu_tanh")), "blocks.0.feed_forward.hidden", "is gelu(approximate='tanh'), and gelu in A"),
    "relu for gelu": (configured("gelu", with_ff(activation="relu")), "blocks.0.feed_forward.hidden", "is relu, and gelu in A"),
    "silu for gelu": (configured("gelu", with_ff(activation="silu")), "blocks.0.feed_forward.hidden", "is silu, and gelu in A"),
    "biases left out": (configured("plain", with_attention(bias=False)), "blocks.0.self_attention.k_projected", "is missing"),
    "norms of the heads left out": (configured("qk-norm", with_attention(qk_norm=False)), "blocks.0.self_attention.k_new", "is missing"),
    "post-norm for pre-norm": (configured("plain", with_stack(placement="post", final_norm=True)), "blocks.0.self_attention.k_projected", "has its norms after the sum (post), and before the sub-layer (pre) in A; moving"),
    "pre-norm for post-norm": (configured("post", with_stack(placement="pre", final_norm=False)), "blocks.0.self_attention.k_projected", "has its norms before the sub-layer (pre), and after the sum (post) in A; moving"),
    "rotary base": (configured("rotary", with_stack(positions=parts.Rotary(base=500_000.0))), "blocks.0.self_attention.k_new", "rotation.frequency of B is made with the base 500000, and with 10000 in A"),
    "rotary pairs interleaved": (configured("rotary", with_stack(positions=parts.Rotary(interleaved=True))), "blocks.0.self_attention.k_new", "rotation.interleaved of B is True, and False in A"),
    "rotary positions squeezed": (configured("rotary", with_stack(positions=parts.Rotary(scaling=parts.Linear(factor=4.0)))), "blocks.0.self_attention.k_new", "is A's times 0.25; multiplying"),
    "rotary left out": (configured("rotary", with_stack(positions=parts.NoPositions())), "blocks.0.self_attention.k_new", "rotation of B is NoRotation, and RotaryPositions in A"),
    "sines first": (configured("plain", with_stack(positions=parts.Sinusoidal(interleaved=False))), "embedding.positions", "positions.interleaved of B is False, and True in A"),
    "window of another width": (configured("window", with_stack(windows=(2,))), "blocks.0.self_attention.mask", "windows of B is (2, 2), and (3, 3) in A"),
    "embedding scaled": (planted("plain", lambda t: setattr(t.embedding, "scale", t.embedding.scale * 32**0.5)), "embedding.tokens", "embedding.scale of B is"),
    "positions moved": (planted("learned", lambda t: setattr(t.embedding.positions, "offset", 2)), "embedding.positions", "positions.offset of B is 2, and 0 in A"),
    "causal for not, or the other way round": (planted("plain", lambda t: setattr(t, "causal", not t.causal)), "blocks.0.self_attention.mask", "causal of B is"),
    "plus one forgotten": (configured("rms-plus-one", with_stack(norm=parts.RMSNorm())), "blocks.0.self_attention_residual.before.out", "is False, and True in A"),
    # code
    "heads cut by a view alone": (planted("plain", lambda t: into(attention(t), Reshaped)), "blocks.0.self_attention.k_projected", "doing Σ x · W + b as A does"),
    "an approximation of gelu in the code": (planted("gelu", lambda t: into(t.blocks[1].feed_forward, Tanh)), "blocks.1.feed_forward.hidden", "is of gelu(approximate='tanh'), and of gelu in A"),
    "no residual": (planted("plain", lambda t: into(t.blocks[1].feed_forward_residual, Alone)), "blocks.1.feed_forward_residual.sum", "leaves the residual out"),
    "epsilon in the code": (planted("plain", lambda t: into(t.blocks[0].feed_forward_residual.before, Loose)), "blocks.0.feed_forward_residual.before.out", "norming with an epsilon of 1e-05"),
    "bias added twice": (planted("plain", lambda t: into(t.blocks[0].feed_forward, Twice)), "blocks.0.feed_forward.out", "as of a bias"),
    "rotary positions from one": (planted("rotary", lambda t: into(t.rotation, Later)), "blocks.0.self_attention.k_new", "by halves, with the base 10000 and positions from 1, and by halves, with the base 10000 in A"),
    "positions from one": (planted("plain", lambda t: sites_changed(lambda p: p + 1)(t)), "embedding.positions", "has positions 1 too high"),
    "positions from the end": (planted("plain", lambda t: sites_changed(lambda p: p.flip(1))(t)), "embedding.positions", "adding the codes of A's positions"),
    "scaled twice in the kernel": (planted("plain", lambda t: setattr(attention(t, 1), "kernel", squared)), "blocks.1.self_attention.context", "kernel of B is squared, which does not compute what the explicit one does"),
    "output times three": (planted("plain", lambda t: into(t.blocks[1].feed_forward, Tripled)), "blocks.1.feed_forward.out", "is A's times 3"),
}  # fmt: skip

# Of towers that hide the future: whose tensors only some families have.
CAUSAL_FAULTS = {
    "mask off by one": (planted("plain", lambda t: wrong_mask(lambda seen, q, k: k <= q + 1)(t)), "blocks.0.self_attention.mask", "is off by one: a query sees the key after its own"),
    "own key hidden": (planted("plain", lambda t: wrong_mask(lambda seen, q, k: seen & (k != q))(t)), "blocks.0.self_attention.mask", "is off by one: a query does not see its own key"),
    "future seen by the code": (planted("plain", lambda t: wrong_mask(lambda seen, q, k: torch.ones_like(seen))(t)), "blocks.0.self_attention.mask", "lets a query see the future"),
}  # fmt: skip


def cross(plant):
    return planted("plain", plant)


CROSS_FAULTS = {
    "keys and values of the source exchanged": (cross(lambda t: exchange(t.blocks[0].cross_attention.key, t.blocks[0].cross_attention.value)), "blocks.0.cross_attention.k_projected", "exchanging key and value of B"),
    "cross-attention has self-attention's queries": (cross(lambda t: put(t.blocks[1].cross_attention.query, "weight", t.blocks[1].self_attention.query.weight)), "blocks.1.cross_attention.q_projected", "holds A's"),
    "source key transposed": (cross(lambda t: on(t.blocks[0].cross_attention.key, "weight", lambda w: w.mT)), "blocks.0.cross_attention.k_projected", "is transposed; transposing"),
}  # fmt: skip
