"""Attribution by gradients: exact where the answer is known, complete everywhere."""

import pytest
import torch
from families import FAMILIES, run, small

from pellucid.analysis.attribution import embedding_names, input_times_gradient, integrated_gradients
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.trace import Tapped, trace


class Formula(Tapped):
    """A model whose output is written down: a function of one tensor, ``x``."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.tap("logits", self.formula(self.tap("x", x)))


def one(output):
    return output


def logit(position, token):
    return lambda logits: logits[:, position, token]


def test_on_a_linear_function_both_are_its_terms():
    weight, x = torch.randn(3, 4), torch.randn(2, 3, 4)
    model = Formula(lambda x: (x * weight).sum((1, 2)))
    assert torch.allclose(input_times_gradient(model, lambda: model(x), one, ["x"])["x"], x * weight)
    start = torch.randn(3, 4)
    found = integrated_gradients(model, lambda: model(x), one, ["x"], baselines={"x": start}, steps=1)
    assert torch.allclose(found.attributions["x"], (x - start) * weight, atol=1e-6)
    assert found.missing.abs().max() < 1e-5


def test_on_a_square_and_on_a_product():
    """Along the straight line from zero, ∫ 2ax da = x; in x·y each has half (Sundararajan et al. 2017, symmetry)."""
    x = torch.randn(2, 3, 4)
    square = Formula(lambda x: x.square().sum((1, 2)))
    found = integrated_gradients(square, lambda: square(x), one, ["x"], steps=2)
    assert torch.allclose(found.attributions["x"], x.square(), atol=1e-6)
    assert torch.allclose(input_times_gradient(square, lambda: square(x), one, ["x"])["x"], 2 * x.square())
    product = Formula(lambda x: x[:, 0, 0] * x[:, 1, 1])
    found = integrated_gradients(product, lambda: product(x), one, ["x"], steps=2)
    expected = torch.zeros_like(x)
    expected[:, 0, 0] = expected[:, 1, 1] = x[:, 0, 0] * x[:, 1, 1] / 2
    assert torch.allclose(found.attributions["x"], expected, atol=1e-6)


def test_a_saturated_unit_is_seen_by_the_integral_alone():
    """1 - relu(1 - x) of the paper's introduction: flat at x = 2, and yet all of the difference is due to x."""
    model, x = Formula(lambda x: (1 - (1 - x).relu()).flatten()), torch.full((1, 1, 1), 2.0)
    assert input_times_gradient(model, lambda: model(x), one, ["x"])["x"].item() == 0
    found = integrated_gradients(model, lambda: model(x), one, ["x"], steps=64)
    assert found.attributions["x"].item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_completeness(family):
    """Attributions add up to the difference, over both embeddings of an encoder–decoder."""
    smooth = parts.FeedForward(d_ff=48, activation="gelu")  # a kink costs many steps, anything smooth next to none
    model, heard = small(family, feed_forward=smooth).double(), []
    text, other = torch.randint(0, 61, (2, 6)), torch.randint(0, 61, (2, 6))
    names = embedding_names(model)
    assert names == (
        ["encoder.embedding.out", "decoder.embedding.out"] if family == "encoder_decoder" else ["embedding.out"]
    )
    with torch.no_grad():
        with trace(model, watch=names) as tape:
            start = logit(3, 7)(run(model, other))
        end = logit(3, 7)(run(model, text))
    found = integrated_gradients(
        model,
        lambda: run(model, text),
        logit(3, 7),
        baselines=tape.tensors,
        steps=64,
        progress=lambda *at: heard.append(at),
    )
    assert torch.allclose(found.difference, end - start)
    assert found.difference.abs().max() > 0.3
    assert found.missing.abs().max() < 1e-3 * found.difference.abs().max()
    assert list(found.attributions) == names
    assert all(values.abs().max() > 1e-3 for values in found.attributions.values())
    assert heard[-1] == (64, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_input_times_gradient_is_the_slope_of_scaling_one_feature(family):
    model, text = small(family).double(), torch.randint(0, 61, (2, 6))
    found = input_times_gradient(model, lambda: run(model, text), logit(4, 9))
    for name, values in found.items():
        row, position, feature = 1, 2, 5
        difference = []
        for sign in (1, -1):
            change = torch.ones(2, 6, 32).double()
            change[row, position, feature] += sign * 1e-5
            with torch.no_grad(), trace(model, watch=(), edits={name: lambda x, change=change: x * change}):
                difference.append(logit(4, 9)(run(model, text))[row])
        slope = (difference[0] - difference[1]) / 2e-5
        assert values[row, position, feature].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-7)
    if family == "decoder":
        assert found["embedding.out"][:, 5:].abs().max() == 0  # the future has no part in it


def test_weights_that_want_no_gradient_make_no_difference():
    model, text = small("decoder"), torch.randint(0, 61, (1, 5))
    before = input_times_gradient(model, lambda: model(text), logit(4, 1))["embedding.out"]
    model.requires_grad_(False)
    with torch.no_grad():
        after = input_times_gradient(model, lambda: model(text), logit(4, 1))["embedding.out"]
    assert torch.allclose(before, after, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_does_not_fit_is_told():
    model, text = small("decoder"), torch.randint(0, 61, (2, 5))
    call = lambda: model(text)  # noqa: E731
    with pytest.raises(UserError, match=r'"embedding\.outs": was not recorded'):
        input_times_gradient(model, call, logit(0, 0), ["embedding.outs"])
    with pytest.raises(
        UserError, match=r"metric: values of shape \(\) for an output of shape \(2, 5, 61\); expected shape \(2,\)"
    ):
        input_times_gradient(model, call, lambda logits: logits.sum())
    with pytest.raises(UserError, match=r"shape \(3, 32\); expected one that broadcasts to \(2, 5, 32\)"):
        integrated_gradients(model, call, logit(0, 0), baselines={"embedding.out": torch.zeros(3, 32)})
    with pytest.raises(UserError, match=r'"positions": was not recorded.*known: embedding.out'):
        integrated_gradients(model, call, logit(0, 0), baselines={"positions": torch.zeros(32)})
