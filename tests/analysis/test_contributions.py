"""A logit taken apart adds up to the logit, in every family and under every norm, and each part is what it claims."""

import pytest
import torch
from families import FAMILIES, describe, run, small

from pellucid.analysis.contributions import Reading, contribution_names, direct_logit_attribution
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.nn.lora import adapt
from pellucid.nn.norms import LayerNorm, RMSNorm
from pellucid.trace import trace

CHOICES = {
    "layer-norm": {},
    "layer-norm-without-bias": {"norm": parts.LayerNorm(bias=False)},
    "rms-norm": {"norm": parts.RMSNorm()},
    "rms-norm-plus-one": {"norm": parts.RMSNorm(plus_one=True)},
    "both": {"placement": "both"},
    "both-rms-norm": {"placement": "both", "norm": parts.RMSNorm()},
    "no-final-norm": {"final_norm": False},
    "grouped": {"attention": parts.Attention(num_heads=4, num_kv_heads=2, head_dim=12), "positions": parts.Rotary()},
    "gated": {"feed_forward": parts.FeedForward(d_ff=48, activation="silu", gated=True, bias=False)},
}


def taken_apart(model, text):
    """The contributions to the logit of a random token at each position, and that logit."""
    wanted = torch.randint(0, 61, text.shape)
    with torch.no_grad(), trace(model, watch=contribution_names(model)) as tape:
        logits = run(model, text)
    return direct_logit_attribution(model, tape.tensors, wanted), logits.gather(-1, wanted[..., None])[..., 0], wanted


def text():
    return torch.randint(0, 61, (2, 7))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", CHOICES)
def test_contributions_add_up_to_the_logit(family, choice):
    model = small(family, **CHOICES[choice]).double()
    found, logit, _ = taken_apart(model, text())
    single = choice == "rms-norm-plus-one"  # such a norm computes in single precision whatever the model is in
    assert torch.allclose(found.total, logit, rtol=0, atol=1e-5 if single else 1e-10)
    assert found.of("self_attention").shape == (2, 2, 7, 4)
    assert found.of("feed_forward").shape == (2, 2, 7, 48)
    names = [layer.name for layer in found.sublayers]
    if family == "encoder_decoder":
        assert found.of("cross_attention").shape == (2, 2, 7, 4)
        assert found.of("cross_attention").abs().max() > 0.01
        assert names[:3] == [
            f"decoder.blocks.0.{kind}" for kind in ("self_attention", "cross_attention", "feed_forward")
        ]
    else:
        assert names == [f"blocks.{i}.{kind}" for i in (0, 1) for kind in ("self_attention", "feed_forward")]
        with pytest.raises(
            UserError, match='"cross_attention": no such sub-layer; expected self_attention, feed_forward'
        ):
            found.of("cross_attention")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("choice", ["layer-norm", "rms-norm", "rms-norm-plus-one", "both-rms-norm"])
def test_contributions_of_a_model_in_half_precision(choice, dtype):
    """Up to the rounding of the model itself, whose stream is a sum only before it is rounded."""
    found, logit, _ = taken_apart(small("decoder", **CHOICES[choice]).to(dtype), text())
    assert found.total.dtype == torch.float32
    share = (found.total - logit).abs().max() / logit.abs().max()
    assert share < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_is_written_the_embedding_is_all(family):
    model = small(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".out." in name or ".down." in name:
                parameter.zero_()
    found, logit, _ = taken_apart(model, text())
    assert all(layer.parts.abs().max() == 0 and layer.bias.abs().max() == 0 for layer in found.sublayers)
    assert torch.allclose(found.embedding + found.bias, logit, atol=1e-4)


def test_a_head_is_what_it_wrote_through_the_norm_as_it_was():
    """The plain way: form what one head wrote, centre it, divide by the deviation of the whole stream, project."""
    model = small("decoder").double()
    with torch.no_grad(), trace(model) as tape:
        model(text())
        wanted = torch.randint(0, 61, (2, 7))
        layer, head, unit = 1, 2, 5
        context = tape[f"blocks.{layer}.self_attention.context"][:, head]
        wrote = context @ model.blocks[layer].self_attention.out.weight[:, head * 8 : head * 8 + 8].T
        hidden = tape[f"blocks.{layer}.feed_forward.hidden"][..., unit, None]
        unit_wrote = hidden * model.blocks[layer].feed_forward.down.weight[:, unit]
        stream = tape["blocks.1.residual_post"]
        deviation = (stream.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        parts = []
        for piece in (wrote, unit_wrote):
            normed = (piece - piece.mean(-1, keepdim=True)) / deviation * model.final_norm.weight
            parts.append((normed @ model.head.project.weight.T).gather(-1, wanted[..., None])[..., 0])
    found = direct_logit_attribution(model, tape.tensors, wanted)
    assert torch.allclose(found.of("self_attention")[layer, ..., head], parts[0])
    assert torch.allclose(found.of("feed_forward")[layer, ..., unit], parts[1])


def test_the_logit_before_a_softcap_and_after_a_scale():
    settings = describe("decoder")
    head = config.Language(bias=True, scale=0.3, softcap=2.0)
    model = build(config.Decoder(front=settings.front, stack=settings.stack, head=head)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    found, logit, _ = taken_apart(model, text())
    assert logit.abs().max() > 0.3
    assert torch.allclose(2 * torch.tanh(found.total / 2), logit)


def test_low_rank_terms_are_part_of_what_is_written():
    model = small("decoder")
    adapt(model, ("out", "down", "project"), rank=2, alpha=4, dropout=0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    found, logit, _ = taken_apart(model.double(), text())
    assert torch.allclose(found.total, logit)


@pytest.mark.parametrize("norm", [LayerNorm(6), RMSNorm(6), RMSNorm(6, plus_one=True)])
def test_a_norm_of_numbers_whose_squares_are_too_large_for_half_precision(norm):
    x, direction = 300 * torch.randn(2, 3, 6).half(), torch.randn(2, 3, 6)
    reading = Reading(direction, torch.zeros(2, 3)).before_norm(norm.half(), x)
    assert torch.allclose(reading.of(x) + reading.bias, (direction * norm(x)).sum(-1), atol=0.01)


@pytest.mark.parametrize("norm", [LayerNorm(6), LayerNorm(6, bias=False), RMSNorm(6), RMSNorm(6, plus_one=True)])
@torch.no_grad()
def test_a_norm_read_backwards(norm):
    for parameter in norm.parameters():
        parameter.normal_()
    x, direction = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    reading = Reading(direction, torch.zeros(2, 3)).before_norm(norm, x)
    assert torch.allclose(reading.of(x) + reading.bias, (direction * norm(x)).sum(-1), atol=1e-5)


def test_norms_behind_the_sum_are_refused_with_the_reason():
    for family in FAMILIES:
        with pytest.raises(UserError, match="its stream is no sum of what layers wrote"):
            contribution_names(small(family, placement="post"))


def test_what_does_not_fit_is_told():
    model = small("decoder")
    with trace(model, watch="*.residual_post") as tape:
        model(text())
    with pytest.raises(UserError, match="was not recorded"):
        direct_logit_attribution(model, tape.tensors, text())
    with pytest.raises(UserError, match=r"tokens: shape \(2,\); expected \(2, 7\), a token for each position"):
        direct_logit_attribution(model, tape.tensors, torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="in training"):
        direct_logit_attribution(model.train(), tape.tensors, text())
    with pytest.raises(UserError, match="Tanh: a norm whose scale is not known"):
        Reading(torch.zeros(1, 1, 2), torch.zeros(1, 1)).before_norm(torch.nn.Tanh(), torch.zeros(1, 1, 2))
