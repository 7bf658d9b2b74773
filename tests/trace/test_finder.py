"""Attention written by hand: every site found and read as its formula, what is none is said, and nothing is left behind."""

import contextlib
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from finding import Head, look, plain
from torch import nn
from torch.nn.modules import module as hooks

from pellucid.errors import UserError
from pellucid.trace.calls import record_modules
from pellucid.trace.finder import find_attention


def scaled_before(q, k, v):
    w = torch.einsum("bhtk,bhsk->bhts", q * 0.3, k)
    w = F.softmax(w, dim=-1, dtype=torch.float32)
    return torch.einsum("bhts,bhsk->bhtk", w, v), w


def capped(q, k, v):
    n = q.size(1) // k.size(1)
    k, v = (x[:, :, None].expand(-1, -1, n, -1, -1).reshape(q.size(0), -1, *x.shape[2:]) for x in (k, v))
    w = torch.tanh(q @ k.mT / 10) * 5
    w = torch.where(torch.ones(q.size(2), k.size(2)).tril().bool(), w, -1e9).softmax(-1)
    return w @ v, w


def sunk(q, k, v):
    scores = torch.matmul(q, k.mT) / 8**0.5
    sink = torch.arange(4.0).reshape(1, 4, 1, 1).expand(q.size(0), -1, q.size(2), -1)
    joined = torch.cat([scores, sink], dim=-1)
    w = (joined - joined.max(dim=-1, keepdim=True).values).softmax(-1)[..., :-1]
    return w @ v, w


def folded(q, k, v):
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    bias = torch.arange(float(k.size(1)))[None, None]
    w = torch.baddbmm(bias, q, k.mT, beta=0.5, alpha=0.25).softmax(-1)
    return torch.bmm(w, v).unflatten(0, (-1, 4)), w.unflatten(0, (-1, 4))


def turned(q, k, v):
    w = (k @ q.mT * 8**-0.5).softmax(-2)  # keys are the rows
    return (v.mT @ w).mT, w.mT


def in_place(q, k, v):
    scores = torch.matmul(q, k.mT)
    scores *= 0.5
    scores[..., 3:] += 1.0
    w = scores.softmax(-1)
    return w @ v, w


def shared(q, k, v):
    w = torch.einsum("bhtk,bsk->bhts", q, k[:, 0]).softmax(-1)
    return torch.einsum("bhts,bsk->bhtk", w, v[:, 0]), w


def is_clean():
    globals_ = (hooks._global_forward_hooks, hooks._global_forward_pre_hooks)
    return not any(globals_) and torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("attend", "expected"),
    [
        (plain, {"scale": 8**-0.5, "is_causal": True}),
        (scaled_before, {"scale": 0.3, "mask": None, "is_causal": False}),
        (sunk, {"scale": 8**-0.5}),
        (folded, {"scale": 0.25}),
        (turned, {"scale": 8**-0.5, "mask": None}),
        (in_place, {"scale": 0.5}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_attention_by_hand_is_read_as_its_formula(attend, expected, grad):
    model = Head(attend)
    found = look(model, torch.randn(2, 6, 32), grad=grad)
    (site,) = found.sites
    assert site.verified
    assert site.replay is None
    assert site.kind == "self"
    assert (site.q.shape, site.k.shape, site.context.shape) == ((2, 4, 6, 8),) * 3
    torch.testing.assert_close(site.weights(), model.weights.detach(), atol=1e-6, rtol=1e-5)
    for name, value in expected.items():
        assert getattr(site, name) == (pytest.approx(value) if isinstance(value, float) else value)
    assert not site.q.requires_grad


def test_groups_and_softcap():
    model = Head(capped, groups=2)
    (site,) = look(model, torch.randn(2, 6, 32)).sites
    assert site.verified
    assert (site.k.shape, site.v.shape) == ((2, 2, 6, 8),) * 2
    assert (site.softcap, site.scale) == (5, pytest.approx(0.5))
    assert site.is_causal
    torch.testing.assert_close(site.weights(), model.weights)
    (site,) = look(Head(shared, groups=1), torch.randn(2, 6, 32)).sites
    assert site.verified
    assert (site.q.shape, site.k.shape) == ((2, 4, 6, 8), (2, 1, 6, 8))


def test_cross_and_self_and_a_second_call_are_told_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.norm = Head(plain), nn.LayerNorm(32)

        def forward(self, x, source):
            return self.head(self.head(self.norm(x)), source)

    found = look(Twice(), torch.randn(2, 6, 32), torch.randn(2, 4, 32))
    assert [(site.name, site.kind, site.k.size(2)) for site in found.sites] == [
        ("head", "self", 6),
        ("head#1", "cross", 4),
    ]
    assert found["head#1"].verified
    with pytest.raises(UserError, match="head#1"):
        found["tail"]


def test_keys_projected_elsewhere_are_those_of_another_sequence():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.mix = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x, k, v):
            w = (self.q(x) @ k.mT).softmax(-1)
            return x + self.mix(w @ v)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32)
            self.layers = nn.ModuleList([Reader(), Reader()])

        def forward(self, x, source):
            k, v = self.k(source), self.v(source)  # once, for all layers
            for layer in self.layers:
                x = layer(x, k, v)
            return x

    found = look(Decoder(), torch.randn(2, 6, 32), torch.randn(2, 4, 32))
    assert [(site.name, site.kind, site.q.shape) for site in found.sites] == [
        ("layers.0", "cross", (2, 1, 6, 32)),  # without heads there is one
        ("layers.1", "cross", (2, 1, 6, 32)),
    ]
    assert all(site.verified for site in found.sites)


def test_a_model_that_catches_an_error_of_its_own_keeps_its_paths():
    class Catching(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.broken = Head(plain), nn.Linear(7, 7)

        def forward(self, x):
            with contextlib.suppress(RuntimeError):
                self.broken(x)
            return self.head(x)

    (site,) = look(Catching(), torch.randn(2, 6, 32)).sites
    assert site.name == "head"


def test_a_softmax_over_the_queries_is_not_verified():
    def wrong(q, k, v):
        return (q @ k.mT).softmax(-2) @ v, None

    (site,) = look(Head(wrong), torch.randn(2, 6, 32)).sites
    assert not site.verified
    assert site.why == "a softmax over the queries in place of the keys"


def test_heads_mixed_after_the_softmax_are_repeated_step_by_step():
    class Mixed(Head):
        def __init__(self):
            super().__init__(self.talk)
            self.mix = nn.Parameter(torch.randn(4, 4))

        def talk(self, q, k, v):
            w = torch.einsum("bhts,hg->bgts", (q @ k.mT).softmax(-1), self.mix)
            return w @ v, w

    model = Mixed()
    found = look(model, torch.randn(2, 6, 32))
    (site,) = found.sites
    assert site.verified
    assert "1 of them step by step" in found.coverage
    torch.testing.assert_close(site.weights(), model.weights)


def test_what_is_no_softmax_attention_is_said():
    class LinearAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(32, 96)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            q, k = F.elu(q) + 1, F.elu(k) + 1
            return q @ (k.mT @ v) / (q @ k.sum(1)[..., None])

    found = look(nn.Sequential(LinearAttention(), LinearAttention()), torch.randn(2, 6, 32))
    assert found.sites == ()
    assert found.coverage.endswith("no softmax attention seen in LinearAttention ×2")
    assert found.silent == (("0", "LinearAttention"), ("1", "LinearAttention"))

    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(32, 1)

        def forward(self, x):
            return self.score(x).softmax(1).mT @ x

    found = look(Pooling(), torch.randn(2, 6, 32))
    assert "1 softmaxes or kernels unexplained (a softmax of something that is no product" in found.coverage


def test_nothing_is_left_behind():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = Head(plain)

        def forward(self, x):
            self.head(x)
            raise KeyError("on purpose")

    model = Failing()
    before = set(dir(model.head))
    for watch in (find_attention, record_modules):
        with pytest.raises(KeyError, match="on purpose"):
            watch(model, torch.randn(2, 6, 32))
        assert is_clean()
    assert set(dir(model.head)) - before == {"weights"}  # the model's own doing
    find_attention(model.head, torch.randn(2, 6, 32))
    assert is_clean()


def test_activations_are_let_go():
    """Only what sites need is kept, not the residual stream nor what lies between."""
    alive = []

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.up, self.down = Head(plain), nn.Linear(32, 64), nn.Linear(64, 32)

        def forward(self, x):
            import weakref

            x = self.head(x)
            hidden = F.gelu(self.up(x))
            alive.extend(map(weakref.ref, (x, hidden, self.head.weights)))
            self.head.weights = None
            return x + self.down(hidden)

    with torch.no_grad():
        found = find_attention(nn.Sequential(Block(), Block()), torch.randn(2, 6, 32))
    assert len(found.sites) == 2
    assert [ref() for ref in alive] == [None] * 6


@dataclass
class Output:
    logits: torch.Tensor
    states: tuple


def test_modules_are_recorded_in_order():
    class Inner(nn.Module):
        def forward(self, x, *, extra):
            return {"a": x + 1, "b": (x * 2, extra)}

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.linear = Inner(), nn.Linear(3, 3)

        def forward(self, x):
            first = self.inner(x, extra=x - 1)
            second = self.linear(self.linear(first["a"]))
            return Output(second, (first["b"][0],))

    model, x = Outer(), torch.randn(2, 3)
    tensors = record_modules(model, x)
    assert list(tensors) == [
        *("in", "inner.in.0", "inner.in.extra", "inner.out.a", "inner.out.b.0", "inner.out.b.1"),
        *("linear.in", "linear.out", "linear#1.in", "linear#1.out", "out.logits", "out.states.0"),
    ]
    assert tensors["in"] is x
    assert torch.equal(tensors["inner.out.b.0"], x * 2)
    assert tensors["linear#1.in"] is tensors["linear.out"]
    assert tensors["out.logits"].requires_grad
    assert is_clean()
    assert list(record_modules(model, x, patterns=["*.out.logits", "linear*.in"])) == ["linear.in", "linear#1.in"]
    with pytest.raises(UserError, match="nothing is named nowhere"):
        record_modules(model, x, patterns="nowhere")


def test_recording_keeps_the_fast_path():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2).eval()
    x = torch.randn(2, 6, 32)
    with torch.no_grad():
        tensors = record_modules(model, x)
        assert torch.equal(tensors["out"], model(x))
    assert list(tensors) == ["in", "layers.0.in", "layers.0.out", "layers.1.in", "layers.1.out", "out"]
