"""Layers of one input, joined into one product: the same results, the same gradients."""

import pytest
import torch
from families import FAMILIES, small
from torch import nn

from pellucid.nn import joint as module
from pellucid.nn.joint import joins, joint


def layers(*widths, bias=True):
    return [nn.Linear(8, width, bias=bias).double() for width in widths]


@pytest.mark.parametrize("bias", [True, False])
def test_joined_is_as_one_by_one(bias):
    apart, x = layers(8, 4, 4, bias=bias), torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    assert joins(apart)
    inputs = [x, *(p for layer in apart for p in layer.parameters())]
    weights = [torch.randn(3, 5, layer.out_features, dtype=torch.float64) for layer in apart]
    found, expected = joint(x, apart), [layer(x) for layer in apart]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    gradients = (
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), inputs)
        for ys in (found, expected)
    )
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_learns_the_same(family, monkeypatch):
    torch.manual_seed(1)
    model = small(family).double().train()
    tokens = torch.randint(2, 50, (2, 9))
    calls = []

    def gradients():
        model.zero_grad()
        model(*((tokens, tokens) if family == "encoder_decoder" else (tokens,))).square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    monkeypatch.setattr(module, "joins", lambda group: calls.append(joins(group)) or calls[-1])
    together = gradients()
    assert any(calls)
    monkeypatch.setattr(module, "joins", lambda group: False)
    for name, gradient in gradients().items():
        torch.testing.assert_close(together[name], gradient, msg=name)


def test_what_is_more_than_its_weights_stays_apart():
    plain = layers(4, 4)
    hooked, mixed = layers(4, 4), [*layers(4), *layers(4, bias=False)]
    hooked[0].register_forward_hook(lambda layer, inputs, output: output * 0)
    assert not joins(hooked)
    assert torch.equal(joint(torch.ones(1, 8, dtype=torch.float64), hooked)[0], torch.zeros(1, 4, dtype=torch.float64))
    seen = []
    for register in ("register_full_backward_hook", "register_full_backward_pre_hook"):
        watched = layers(4, 4)
        getattr(watched[1], register)(lambda layer, *gradients: seen.append(layer))
        joint(torch.ones(1, 8, dtype=torch.float64, requires_grad=True), watched)[1].sum().backward()
        assert seen.pop() is watched[1]
    changed = layers(4, 4)
    changed[1].forward = lambda x: x[..., :4] * 0
    assert not joint(torch.ones(1, 8, dtype=torch.float64), changed)[1].any()
    assert not joins(mixed)
    assert not joins([*layers(4), nn.Identity()])
    assert not joins(plain[:1])
    with torch.no_grad():
        assert not joins(plain)
