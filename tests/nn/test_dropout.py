"""Our dropout is dropout: the right share is zero, the mean stays, the gradient passes where the value did."""

import pytest
import torch

from pellucid.nn.dropout import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_share_and_scale(probability, dtype):
    x = torch.ones(400, 1001, dtype=dtype)
    out = dropout(x, probability, training=True)
    assert out.dtype == dtype
    deviation = (probability * (1 - probability) / x.numel()) ** 0.5
    assert abs((out == 0).double().mean().item() - probability) < 5 * deviation
    assert out[out != 0].double().unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-2)


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(37, 11, requires_grad=True)
    out = dropout(x, 0.4, training=True)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)


def test_draws_are_independent_of_their_neighbours_and_seeded():
    torch.manual_seed(1)
    first = dropout(torch.ones(100_000), 0.5, training=True) > 0
    for lag in (1, 2, 3, 4, 8, 64):
        together = (first[lag:] & first[:-lag]).double().mean().item()
        assert abs(together - 0.25) < 0.01
    torch.manual_seed(1)
    assert torch.equal(first, dropout(torch.ones(100_000), 0.5, training=True) > 0)


def test_nothing_is_dropped_outside_training_and_everything_at_one():
    x = torch.randn(5, 3)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(dropout(x, 1.0, training=True), torch.zeros_like(x))
