"""Positions as the model's own modules have them, and words that change places."""

import math

import pytest
import torch
from families import FAMILIES, run, small

from pellucid import trace
from pellucid.analysis.places import (
    biases,
    codes,
    exchanged,
    likeness,
    moved,
    pair_products,
    turned,
    turned_pairs,
    without_positions,
)
from pellucid.config import parts
from pellucid.errors import UserError

TOKENS = torch.tensor([[5, 9, 2, 30, 7, 11, 9, 40]])


def test_the_codes_of_sines_are_those_of_the_formula():
    found = codes(small("decoder"), 30)
    assert found.shape == (30, 32)
    assert found[7, 10].item() == pytest.approx(math.sin(7 / 10_000 ** (10 / 32)), abs=1e-6)
    assert found[7, 11].item() == pytest.approx(math.cos(7 / 10_000 ** (10 / 32)), abs=1e-6)


def test_learned_codes_are_rows_of_the_table_and_no_more():
    model = small("encoder", positions=parts.Learned(max_length=40, offset=2))
    assert torch.equal(codes(model, 40), model.embedding.positions.table.weight[2:])
    with pytest.raises(UserError, match="at most 40"):
        codes(model, 41)


def test_codes_of_sines_are_alike_by_their_distance_alone():
    alike = likeness(codes(small("decoder"), 20))
    assert torch.allclose(alike.diagonal(), torch.ones(20))
    assert torch.allclose(alike.diagonal(3), alike[0, 3].expand(17), atol=1e-6)


def test_a_tower_that_adds_nothing_says_so():
    with pytest.raises(UserError, match="nothing is added to the embedding"):
        codes(small("decoder", positions=parts.Rotary()), 4)
    with pytest.raises(UserError, match="nothing is added to the scores"):
        biases(small("decoder"), [0])


def test_alibi_is_a_slope_times_the_distance():
    added, buckets = biases(small("encoder", positions=parts.ALiBi()), range(-3, 3))
    assert buckets is None
    assert added[:, 0].tolist() == pytest.approx([-3 * 2**-2, -3 * 2**-4, -3 * 2**-6, -3 * 2**-8])
    assert torch.equal(added[:, 1], added[:, 5])


def test_a_relative_bias_is_that_of_its_bucket():
    model = small("decoder", positions=parts.RelativeBias(buckets=8, max_distance=20))
    added, buckets = biases(model, [-50, -3, 0])
    assert buckets == [7, 3, 0]
    assert torch.equal(added, model.bias.table.weight[buckets].T)


@pytest.mark.parametrize("positions", [parts.Rotary(), parts.Rotary(interleaved=True), parts.Rotary(fraction=0.5)])
def test_vectors_turned_apart_make_the_models_own_score_at_their_own_distance(positions):
    model = small("encoder", positions=positions)
    tape = trace(model, TOKENS)
    site = "blocks.0.self_attention"
    q, k = (tape.operands(f"{site}.{name}")[0].value[0, 2] for name in ("q", "k_new"))
    (own,) = turned(model.rotation, q[5], [5])
    apart = pair_products(model.rotation, own, turned(model.rotation, k[2], [2, 5, 9]))
    assert torch.allclose(own, tape[f"{site}.q"][0, 2, 5])
    scale = model.blocks[0].self_attention.scale
    assert apart[0].sum().item() * scale == pytest.approx(tape[f"{site}.scores"][0, 2, 5, 2].item(), abs=1e-5)
    # With no distance nothing is turned against anything.
    assert apart[1].sum().item() == pytest.approx((q[5] @ k[2]).item(), abs=1e-5)
    # Only the distance counts.
    (far,) = turned(model.rotation, q[5], [25])
    elsewhere = pair_products(model.rotation, far, turned(model.rotation, k[2], [22]))
    assert elsewhere.sum().item() == pytest.approx(apart[0].sum().item(), abs=1e-4)
    assert len(turned_pairs(model.rotation)) + 1 == apart.size(1)


def test_pairs_are_neighbours_where_interleaved():
    assert turned_pairs(small("decoder", positions=parts.Rotary(interleaved=True)).rotation)[1] == (2, 3)
    assert turned_pairs(small("decoder", positions=parts.Rotary()).rotation)[1] == (1, 5)


SCHEMES = [
    parts.Sinusoidal(),
    parts.Learned(max_length=40),
    parts.Rotary(),
    parts.ALiBi(),
    parts.RelativeBias(buckets=8, max_distance=20),
]


@pytest.mark.parametrize("positions", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_an_encoder_without_positions_knows_nothing_of_order(positions):
    model = small("encoder", positions=positions)
    order = exchanged(8, 1, 5)
    swapped = TOKENS[:, order]

    def states(tokens):
        tape = trace(model, tokens, watch="*residual_post")
        return torch.cat([tape[f"blocks.{i}.residual_post"] for i in range(2)])

    with without_positions(model):
        assert moved(states(TOKENS), states(swapped), order).max() < 1e-5
    assert moved(states(TOKENS), states(swapped), order).max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_a_model_is_as_it_was_afterwards(family, positions):
    model = small(family, positions=positions)
    before, names = run(model, TOKENS), list(model.state_dict())
    with without_positions(model):
        assert not torch.equal(run(model, TOKENS), before)
    assert torch.equal(run(model, TOKENS), before)
    assert list(model.state_dict()) == names


def test_a_decoder_without_positions_still_tells_order_by_its_mask():
    model = small("decoder", positions=parts.Rotary())
    order = exchanged(8, 1, 5)
    with without_positions(model):
        before, after = (trace(model, tokens)["blocks.1.residual_post"] for tokens in (TOKENS, TOKENS[:, order]))
    gone = moved(before, after, order)[0]
    assert gone[0] == 0  # what stands before both words
    assert gone[1] > 1e-2  # what has others before it now


def test_places_outside_are_refused():
    with pytest.raises(UserError, match="places from 0 to 7"):
        exchanged(8, 1, 8)
