"""Attention in models that are not ours: every site found, verified, and nothing changed or left behind."""

import contextlib
import json
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, run, small
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.modules import module as hooks

from pellucid.errors import UserError
from pellucid.trace import trace
from pellucid.trace.calls import record_modules
from pellucid.trace.finder import find_attention

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()


class Head(nn.Module):
    """A module that attends as the function given does, and keeps its weights for comparison."""

    def __init__(self, attend, heads=4, groups=4):
        super().__init__()
        self.attend, self.heads, self.groups = attend, heads, groups
        self.q, self.k, self.v = nn.Linear(32, heads * 8), nn.Linear(32, groups * 8), nn.Linear(32, groups * 8)
        self.out = nn.Linear(heads * 8, 32)

    def forward(self, x, source=None):
        source = x if source is None else source
        q, k, v = (
            layer(y).unflatten(-1, (-1, 8)).transpose(1, 2)
            for layer, y in ((self.q, x), (self.k, source), (self.v, source))
        )
        context, self.weights = self.attend(q, k, v)
        return x + self.out(context.transpose(1, 2).flatten(2))


def plain(q, k, v):
    hidden = torch.ones(q.size(2), k.size(2), dtype=torch.bool).triu(1)
    w = (q @ k.transpose(-2, -1) * 8**-0.5).masked_fill(hidden, float("-inf")).softmax(-1)
    return w @ v, w


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


def look(model, *args, grad=False, **kwargs):
    """What is found; the result must be that of an untraced run, bit for bit, and so must the random state after it."""
    torch.manual_seed(3)
    with torch.set_grad_enabled(grad):
        expected = model(*args, **kwargs)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    with torch.set_grad_enabled(grad):
        found = find_attention(model, *args, **kwargs)
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(tensors(found.output), tensors(expected), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad
    return found


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for item in items for tensor in tensors(item)]


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


def test_queries_scaled_before_the_fused_kernel():
    model = Head(lambda q, k, v: fused((q * 0.25).contiguous(), k, v, scale=2.0, is_causal=True))
    (site,) = look(model, torch.randn(2, 6, 32)).sites
    assert site.verified
    assert site.scale == pytest.approx(0.5)
    assert "flash" in site.kernel


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


def fused(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options), None


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": True},
        {"attn_mask": torch.ones(6, 6, dtype=torch.bool).tril()},
        {"attn_mask": torch.randn(2, 1, 6, 6), "scale": 0.2},
        {"attn_mask": torch.randn(1, 4, 6, 6, requires_grad=True)},  # which no fused kernel takes
        {"dropout_p": 0.4, "is_causal": True},
    ],
    ids=["causal", "boolean", "added", "learned", "dropout"],
)
@pytest.mark.parametrize("grad", [False, True])
def test_the_fused_kernel(options, grad):
    model = Head(lambda q, k, v: fused(q, k, v, **options))
    (site,) = look(model, torch.randn(2, 6, 32), grad=grad).sites
    assert site.verified, site.why
    assert site.scale == pytest.approx(options.get("scale", 8**-0.5))
    assert site.is_causal == ("is_causal" in options or options["attn_mask"].dtype == torch.bool)
    assert site.dropout == pytest.approx(options.get("dropout_p", 0.0), abs=1e-6)
    expected = torch.softmax(site.q @ site.k.mT * site.scale + torch.zeros(6, 6), -1)
    if not site.is_causal:
        expected = torch.softmax(site.q @ site.k.mT * site.scale + options["attn_mask"].detach(), -1)
        torch.testing.assert_close(site.weights(), expected)
    assert site.scores().shape == (2, 4, 6, 6)


def test_shared_keys_in_the_fused_kernel_and_inference_mode():
    model = Head(lambda q, k, v: fused(q, k, v, enable_gqa=True), groups=2)
    x = torch.randn(2, 6, 32)
    with torch.inference_mode():
        (site,) = find_attention(model, x).sites
        assert torch.equal(find_attention(model, x).output, model(x))
    assert site.verified
    assert site.k.shape == (2, 2, 6, 8)
    assert "flash" in site.kernel


def test_half_precision_and_rows_that_see_nothing():
    blind = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    blind[0, :, 2] = False
    for dtype in (torch.bfloat16, torch.float16):
        model = Head(lambda q, k, v: fused(q, k, v, attn_mask=blind)).to(dtype)
        (site,) = look(model, torch.randn(2, 6, 32, dtype=dtype)).sites
        assert site.verified
        assert site.deviation > 1e-5  # half precision is judged by its own measure
        assert site.weights()[0, :, 2].abs().max() == 0
    floor = torch.finfo(torch.float32).min

    def eager(q, k, v):
        w = (q @ k.mT + torch.zeros(6, 6).masked_fill(~blind[0, 0], floor)).softmax(-1)
        return w @ v, w

    model = Head(eager)
    (site,) = look(model, torch.randn(2, 6, 32)).sites
    assert site.verified
    torch.testing.assert_close(site.weights(), model.weights)  # uniform where everything is hidden


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_of_pytorch(training, grad, need_weights):
    model = nn.MultiheadAttention(32, 4, dropout=0.3, batch_first=True).train(training)
    x, source, pad = torch.randn(2, 6, 32), torch.randn(2, 5, 32), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    for other in (x, source):
        options = {"need_weights": need_weights, "average_attn_weights": False}
        if other is source:
            options["key_padding_mask"] = pad
        found = look(model, x, other, other, grad=grad, **options)
        (site,) = found.sites
        assert site.verified, site.why
        assert site.kind == ("self" if other is x else "cross")
        assert site.dropout == pytest.approx(0.3 if training else 0.0, abs=1e-6)
        assert site.q.shape == (2, 4, 6, 8)
        if need_weights and not training:
            torch.testing.assert_close(site.weights(), found.output[1].detach())
        if other is source:
            assert site.weights()[1, :, :, 3:].abs().max() == 0
    assert found.coverage == "1 attention site found, 1 verified; 0 softmaxes or kernels unexplained"


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_encoder_in_one_kernel_with_rows_of_different_lengths(norm_first):
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=norm_first, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    x, pad = torch.randn(2, 6, 32), torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    found = look(model, x, src_key_padding_mask=pad)
    assert [site.name for site in found.sites] == ["layers.0", "layers.1"]
    assert all(site.verified and site.kernel == "aten._transformer_encoder_layer_fwd" for site in found.sites)
    slow = look(model, x, src_key_padding_mask=pad, grad=True)
    assert [site.name for site in slow.sites] == ["layers.0.self_attn", "layers.1.self_attn"]
    for fast, one in zip(found.sites, slow.sites, strict=True):
        assert one.verified
        assert fast.kind == one.kind == "self"
        torch.testing.assert_close(fast.weights()[0], one.weights()[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fast.weights()[1, :, :4], one.weights()[1, :, :4], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_the_transformer_of_pytorch(training):
    model = nn.Transformer(32, 4, 1, 2, 48, batch_first=True).train(training)
    found = look(model, torch.randn(2, 6, 32), torch.randn(2, 5, 32), grad=training)
    assert all(site.verified for site in found.sites)
    assert [site.kind for site in found.sites] == ["self", "self", "cross", "self", "cross"]
    assert [site.name for site in found.sites[1:3]] == [
        "decoder.layers.0.self_attn",
        "decoder.layers.0.multihead_attn",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_models_agree_with_their_tapped_weights(family):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small(family)

        def forward(self, tokens):
            return run(self.inner, tokens)

    model, tokens = Model(), torch.randint(0, 61, (2, 9))
    with torch.no_grad(), trace(model.inner, watch="*.weights") as tape:
        run(model.inner, tokens)
    for grad in (False, True):  # kernels differ: fused, and blocks with a backward of their own
        found = look(model, tokens, grad=grad)
        assert [f"inner.{name}" for name in tape] == [f"{site.name}.weights" for site in found.sites]
        for site in found.sites:
            assert site.verified
            assert site.kind == ("cross" if "cross" in site.name else "self")
            tapped = tape[site.name.removeprefix("inner.") + ".weights"]
            torch.testing.assert_close(site.weights(), tapped, atol=1e-5, rtol=1e-4)
        assert all(("scaled_dot_product" in site.kernel) != grad for site in found.sites)


TINY = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
HF = {
    "GPT2Model": ("GPT2Config", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4}, 2),
    "BertModel": ("BertConfig", TINY, 2),
    "LlamaModel": ("LlamaConfig", TINY | {"num_key_value_heads": 2}, 2),
    "T5Model": (
        "T5Config",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        6,
    ),
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", HF)
def test_models_of_transformers(name, implementation):
    config, settings, count = HF[name]
    config = getattr(transformers, config)(**settings)
    model = getattr(transformers, name)._from_config(config, attn_implementation=implementation).eval()
    keep = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])  # rows that see nothing come with padding on the left
    call = {"input_ids": torch.randint(3, 99, (2, 7)), "attention_mask": keep}
    if name == "T5Model":
        call["decoder_input_ids"] = torch.randint(3, 99, (2, 5))
    if implementation == "eager":
        call["output_attentions"] = True
    found = look(model, **call)
    assert len(found.sites) == count
    assert all(site.verified and site.replay is None for site in found.sites), found.coverage
    assert all(site.scale == pytest.approx(1.0 if name == "T5Model" else 8**-0.5) for site in found.sites)
    assert all(site.k.size(1) == (2 if name == "LlamaModel" else 4) for site in found.sites)
    assert sum(site.kind == "cross" for site in found.sites) == (2 if name == "T5Model" else 0)
    if implementation == "eager":  # the model's own word
        theirs = [w for key, group in found.output.items() if "attentions" in key for w in group]
        assert len(theirs) == count
        for weights in theirs:
            close = [
                torch.allclose(site.weights(), weights, atol=1e-6)
                for site in found.sites
                if site.weights().shape == weights.shape
            ]
            assert any(close)


def test_a_token_after_a_cache():
    model = transformers.LlamaModel._from_config(transformers.LlamaConfig(**TINY), attn_implementation="sdpa").eval()
    with torch.no_grad():
        cache = model(torch.randint(0, 99, (2, 6)), use_cache=True).past_key_values
        found = find_attention(model, torch.randint(0, 99, (2, 1)), past_key_values=cache)
    assert [(site.kind, site.q.size(2), site.k.size(2)) for site in found.sites] == [("self", 1, 7)] * 2
    assert all(site.verified for site in found.sites)


@pytest.mark.compiles
def test_flex_attention():
    blocks = create_block_mask(lambda b, h, t, s: t >= s, None, None, 16, 16, device="cpu", BLOCK_SIZE=16)

    def biased(q, k, v):
        return flex_attention(q, k, v, score_mod=lambda x, b, h, t, s: x + 0.1 * (s - t), block_mask=blocks), None

    def bent(q, k, v):
        return flex_attention(q, k, v, score_mod=lambda x, b, h, t, s: 3 * torch.tanh(x / 3), scale=0.7), None

    (site,) = look(Head(biased), torch.randn(2, 16, 32)).sites
    assert site.verified
    assert site.is_causal
    assert site.replay is None
    (site,) = look(Head(bent), torch.randn(2, 16, 32)).sites
    assert site.verified
    torch.testing.assert_close(site.scores(), 3 * torch.tanh(site.q @ site.k.mT * 0.7 / 3))


@torch.library.custom_op("pellucid_test::attention", mutates_args=())
def wrong_kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value)  # whatever scale is asked for


def test_a_kernel_that_computes_something_else_is_not_verified():
    right = look(Head(lambda q, k, v: (wrong_kernel(q, k, v, 8**-0.5), None)), torch.randn(2, 6, 32))
    assert right.sites[0].verified
    assert right.sites[0].kernel == "pellucid_test.attention"
    found = look(Head(lambda q, k, v: (wrong_kernel(q, k, v, 2.0), None)), torch.randn(2, 6, 32))
    (site,) = found.sites
    assert not site.verified
    assert site.deviation > 1e-3
    assert "fits with a scale of 1/√8" in site.why
    assert found.coverage.startswith("1 attention site found, 0 verified")
    assert json.loads(json.dumps(found.as_dict()))["sites"][0]["verified"] is False


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
