"""A norm taken apart, the lens read out, a unit's keys and values: each is what the model itself has."""

import math

import pytest
import torch
from families import FAMILIES, run, small

from pellucid.analysis.contributions import direct_logit_attribution
from pellucid.analysis.lens import glimpse
from pellucid.analysis.normed import normed
from pellucid.analysis.residual import residual_stream, stream_names
from pellucid.analysis.units import active, feed_forward_layers, layer_of, token_responses, unit_effect
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.nn.norms import LayerNorm, RMSNorm
from pellucid.trace import trace
from pellucid.trace.operations import Norm

GATED = {"feed_forward": parts.FeedForward(d_ff=48, activation="silu", gated=True, bias=False)}
NORMS = [{}, {"norm": parts.RMSNorm()}, {"norm": parts.RMSNorm(plus_one=True)}, {"norm": parts.LayerNorm(bias=False)}]


def traced(model, text):
    with torch.no_grad(), trace(model) as tape:
        run(model, text)
    return tape


def text(*shape):
    return torch.randint(0, 61, shape or (1, 7))


# ---- norms -------------------------------------------------------------------------------------


def test_a_norm_of_a_known_vector():
    norm = Norm(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), 0.0, centred=True, name="norm")
    found = normed(norm, torch.tensor([3.0, 7.0]))
    assert (found.mean, found.variance, found.deviation) == (5.0, 4.0, 2.0)
    assert found.standard.tolist() == [-1.0, 1.0]
    assert found.after.tolist() == [-1.0, 3.0]
    assert found.rms == (math.sqrt(29), math.sqrt(5))
    square = normed(Norm(torch.ones(2), None, 0.0, centred=False, name="norm"), torch.tensor([3.0, 4.0]))
    assert (square.mean, square.variance, square.bias) == (None, 12.5, None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", NORMS)
def test_every_norm_of_a_pass_is_taken_apart_exactly(family, choice):
    model = small(family, placement="both", **choice)
    tape = traced(model, text())
    names = [entry.name for entry in tape.entries.values() if isinstance(entry.operation, Norm)]
    assert len(names) >= 9
    for name in names:
        (operand,) = tape.operands(name)
        found = normed(tape.entry(name).operation, operand.value[0, 3])
        torch.testing.assert_close(found.after.float(), tape[name][0, 3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [LayerNorm(6), RMSNorm(6), RMSNorm(6, plus_one=True)])
@torch.no_grad()
def test_a_norm_in_half_precision_is_computed_again_in_single(norm):
    """The square of 300 is more than float16 holds."""
    norm, x = norm.half(), torch.tensor([300.0, -200.0, 100.0, 0.0, 1.0, 400.0], dtype=torch.float16)
    torch.testing.assert_close(norm.operation("out").compute(x), norm(x), rtol=0.01, atol=0.01)


# ---- the lens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["pre", "post", "both"])
def test_the_last_state_read_out_is_the_models_answer(family, placement):
    model = small(family, placement=placement)
    tape = traced(model, text())
    states = residual_stream(model, {name: tape[name] for name in stream_names(model)})[:, 0]
    tokens = text(7)
    found = glimpse(model, states, tokens, top=4)
    probabilities = tape["logits"][0].softmax(-1)
    assert found.ids.shape == (3, 7, 4)
    assert torch.equal(found.ids[-1], probabilities.topk(4).indices)
    torch.testing.assert_close(found.probabilities[-1], probabilities.topk(4).values)
    torch.testing.assert_close(found.logits[-1], tape["logits"][0].topk(4).values)
    torch.testing.assert_close(found.chosen[-1], probabilities.gather(-1, tokens[:, None])[:, 0])
    torch.testing.assert_close(found.entropy[-1], torch.special.entr(probabilities).sum(-1))
    place = (probabilities.argsort(descending=True) == tokens[:, None]).int().argmax(-1) + 1
    assert torch.equal(found.rank[-1], place)


def test_the_lens_in_chunks_is_the_lens(monkeypatch):
    model, states, tokens = small("decoder"), torch.randn(3, 7, 32), text(7)
    whole = glimpse(model, states, tokens, top=3)
    monkeypatch.setattr("pellucid.analysis.lens.CHUNK", 61 * 4)
    torch.testing.assert_close(glimpse(model, states, tokens, top=3).probabilities, whole.probabilities)
    with pytest.raises(UserError, match=r"token: found \[61\]; expected 0 to 60"):
        glimpse(model, states[:, :1], torch.tensor([61]), top=3)


# ---- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", [*NORMS, {"placement": "both"}, GATED, {"final_norm": False}])
def test_what_a_unit_writes_is_its_share_of_every_logit(family, choice):
    model = small(family, **choice)
    tape = traced(model, text())
    last = feed_forward_layers(model)[-1]
    effect = unit_effect(model, tape.tensors, last.site, 5, 3)
    assert effect.exact
    assert effect.scores.shape == (61,)
    for token in (0, 17, 60):
        shares = direct_logit_attribution(model, tape.tensors, torch.full((1, 7), token))
        own = next(layer for layer in shares.sublayers if layer.name == last.site).parts[0, 3, 5]
        share = effect.scores[token] * tape[last.hidden][0, 3, 5]
        torch.testing.assert_close(share, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", [*NORMS, {"placement": "both", "norm": parts.RMSNorm(plus_one=True)}])
def test_what_a_unit_writes_in_half_precision(choice):
    model = small("decoder", **choice).bfloat16()
    tape, site = traced(model, text()), "blocks.1.feed_forward"
    effect = unit_effect(model, tape.tensors, site, 5, 3)
    shares = [direct_logit_attribution(model, tape.tensors, torch.full((1, 7), token)) for token in range(61)]
    own = torch.stack([share.of("feed_forward")[1, 0, 3, 5] for share in shares])
    found = effect.scores.float() * tape[f"{site}.hidden"][0, 3, 5].float()
    torch.testing.assert_close(found, own, rtol=0.02, atol=0.02 * own.abs().max().item())


def test_a_unit_that_speaks_for_one_token():
    """With no last norm and a vocabulary of unit vectors, a unit promotes the token that it points at."""
    model = small("decoder", final_norm=False)
    layer = layer_of(model, "blocks.1.feed_forward")
    with torch.no_grad():
        model.head.project.weight.copy_(torch.eye(61, 32))
        layer.network.down.weight[:, 7] = 0
        layer.network.down.weight[11, 7] = 2
    effect = unit_effect(model, traced(model, text()).tensors, layer.site, 7, 0)
    assert effect.scores.argmax() == 11
    assert effect.scores[11] == 2
    assert effect.scores.abs().sum() == 2


@pytest.mark.parametrize("choice", [{}, GATED, {"placement": "post"}, {"placement": "both"}, {"norm": parts.RMSNorm()}])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_unit_responds_to_is_what_it_says_where_attention_writes_nothing(family, choice):
    model = small(family, positions=parts.NoPositions(), **choice)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention.out" in name or "attention_residual.output" in name:
                parameter.zero_()
            if "cross_attention_residual.after" in name or "self_attention_residual.after" in name:
                parameter.fill_(float(name.endswith("weight")))  # twice normed is once normed
    tokens = text()
    tape = traced(model, tokens)
    first = feed_forward_layers(model)[-2]  # of the last tower
    found = token_responses(model, first.site, 9)[tokens[0]]
    said = tape[first.hidden if first.drive.endswith("gate") else first.drive][0, :, 9]
    torch.testing.assert_close(found, said, rtol=1e-3, atol=1e-4)


def test_active_units_are_those_that_relu_lets_through():
    model = small("decoder")
    tape = traced(model, text())
    for layer in feed_forward_layers(model):
        assert torch.equal(active(layer, tape.tensors), tape[layer.hidden][0] > 0)
    gated = feed_forward_layers(small("encoder_decoder", **GATED))
    assert [layer.drive for layer in gated][::3] == [
        "encoder.blocks.0.feed_forward.gate",
        "decoder.blocks.1.feed_forward.gate",
    ]


def test_what_cannot_be_said_of_a_unit_is_told():
    model = small("encoder_decoder")
    tape = traced(model, text())
    with pytest.raises(UserError, match="stands in the encoder, whose states no head reads"):
        unit_effect(model, tape.tensors, "encoder.blocks.0.feed_forward", 1, 0)
    with pytest.raises(UserError, match="no unit 48; expected 0 to 47"):
        unit_effect(model, tape.tensors, "decoder.blocks.0.feed_forward", 48, 0)
    with pytest.raises(UserError, match="no such feed-forward network"):
        token_responses(model, "decoder.blocks.9.feed_forward", 0)
    post = small("decoder", placement="post")
    assert not unit_effect(post, traced(post, text()).tensors, "blocks.0.feed_forward", 1, 0).exact
