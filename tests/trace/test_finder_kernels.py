"""Attention in fused kernels, in modules of PyTorch, and in models of others and ours: found, verified, nothing changed."""

import json

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, run, small
from finding import Head, fused, look
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from pellucid.trace import trace
from pellucid.trace.finder import find_attention

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()


def test_queries_scaled_before_the_fused_kernel():
    model = Head(lambda q, k, v: fused((q * 0.25).contiguous(), k, v, scale=2.0, is_causal=True))
    (site,) = look(model, torch.randn(2, 6, 32)).sites
    assert site.verified
    assert site.scale == pytest.approx(0.5)
    assert "flash" in site.kernel


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
