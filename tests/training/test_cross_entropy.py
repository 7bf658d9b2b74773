"""The chunked loss is the plain one, value and gradient, whatever is asked of it."""

import pytest
import torch
import torch.nn.functional as F

from pellucid.training import cross_entropy


def inputs(dtype, positions=37, vocabulary=53, width=16, with_bias=True):
    states = torch.randn(positions, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocabulary, dtype=dtype, requires_grad=True) if with_bias else None
    return states, weight, bias, torch.randint(vocabulary, (positions,))


@pytest.mark.parametrize("rows", [5, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunked_equals_plain(monkeypatch, smoothing, z_loss, with_bias, rows):
    monkeypatch.setattr(cross_entropy, "ROWS", rows)
    monkeypatch.setattr(cross_entropy, "CELLS", 0)
    states, weight, bias, labels = inputs(torch.float64, with_bias=with_bias)
    leaves = [x for x in (states, weight, bias) if x is not None]
    total, nats, _ = cross_entropy.plain(F.linear(states, weight, bias), labels, smoothing, z_loss)
    chunked_total, chunked_nats, _ = cross_entropy.chunked(states, weight, bias, labels, smoothing, z_loss)
    torch.testing.assert_close(chunked_total, total)
    torch.testing.assert_close(chunked_nats, nats)
    expected, found = (torch.autograd.grad(3 * x, leaves) for x in (total, chunked_total))
    for right, gradient in zip(expected, found, strict=True):
        torch.testing.assert_close(gradient, right)


def test_a_frozen_layer_is_given_no_gradient():
    states, weight, bias, labels = inputs(torch.float64)
    weight.requires_grad_(False)
    plain = cross_entropy.plain(F.linear(states, weight, bias), labels, 0.1, 1e-2)[0]
    chunked = cross_entropy.chunked(states, weight, bias, labels, 0.1, 1e-2)[0]
    assert chunked.grad_fn.saved_tensors[1] is None
    expected, found = (torch.autograd.grad(x, (states, bias)) for x in (plain, chunked))
    for right, gradient in zip(expected, found, strict=True):
        torch.testing.assert_close(gradient, right)


@torch.no_grad()
def test_hits_are_counted_while_evaluating():
    states, weight, bias, labels = inputs(torch.float32)
    expected = cross_entropy.plain(F.linear(states, weight, bias), labels, 0.0, 0.0)
    found = cross_entropy.chunked(states, weight, bias, labels, 0.0, 0.0)
    assert list(map(float, found)) == pytest.approx(list(map(float, expected)))


def test_half_precision_stays_near_the_truth_where_the_model_is_certain():
    """Near p = 1 the gradient at the label is a small difference, which bfloat16 could not hold."""
    states, weight, bias, labels = inputs(torch.float32, vocabulary=500)
    with torch.no_grad():
        weight[labels] = states * 0.5
    truth = torch.autograd.grad(cross_entropy.plain(F.linear(states, weight, bias), labels, 0.0, 0.0)[0], states)[0]
    with torch.autocast("cpu", torch.bfloat16):
        total = cross_entropy.chunked(states, weight, bias, labels, 0.0, 0.0)[0]
        plain = cross_entropy.plain(F.linear(states, weight, bias).float(), labels, 0.0, 0.0)[0]
    chunked, half = (torch.autograd.grad(x, states)[0] for x in (total, plain))
    assert (chunked - truth).norm() <= (half - truth).norm() * 1.1


def test_no_label_no_loss():
    states, weight, bias, labels = inputs(torch.float32, positions=0)
    total, nats, _ = cross_entropy.chunked(states, weight, bias, labels, 0.1, 0.0)
    assert total.item() == nats.item() == 0.0


def test_a_label_far_below_the_highest_score():
    """Its probability is too small for a float, its negative logarithm is not."""
    states, weight = torch.ones(1, 1), torch.tensor([[0.0], [400.0]])
    _, nats, _ = cross_entropy.chunked(states, weight, None, torch.tensor([0]), 0.0, 0.0)
    assert float(nats) == pytest.approx(400.0)


def under_bfloat16(leaves, labels, z_loss):
    """The gradients of states, weight and bias, products taken in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        total = cross_entropy.chunked(*leaves, labels, 0.1, z_loss)[0]
    return torch.autograd.grad(total, leaves)


def test_half_precision_does_not_round_the_gradient_of_a_z_loss_away():
    """It is a few thousandths of the gradient beside it, less than bfloat16 tells apart."""
    *leaves, labels = inputs(torch.float32, positions=70, vocabulary=500)
    with torch.no_grad():
        for leaf in leaves:  # what bfloat16 holds, so that the truth is that of the same numbers
            leaf.copy_((leaf / 4).bfloat16())
    z_loss = 1e-4
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    denominator = F.linear(*exact).logsumexp(dim=-1)
    truth = torch.autograd.grad(z_loss * denominator.square().sum(), exact)
    found = [
        w - o for w, o in zip(under_bfloat16(leaves, labels, z_loss), under_bfloat16(leaves, labels, 0.0), strict=True)
    ]
    for gradient, right in zip(found, truth, strict=True):
        assert (gradient - right).norm() < 0.02 * right.norm()
    # Every position's probabilities sum to one, so this is all that it pulls at the logits.
    assert found[2].sum().item() == pytest.approx(2 * z_loss * denominator.sum().item(), rel=0.02)
