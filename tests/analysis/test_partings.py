"""Where two passes part, at a glance."""

import pytest
import torch
from families import FAMILIES, VOCAB, small

from pellucid.analysis.partings import partings
from pellucid.trace import edits, trace


def traced(family, model=None, **options):
    tokens = torch.arange(12).view(2, 6) % VOCAB
    inputs = (tokens.flip(1), tokens) if family == "encoder_decoder" else (tokens,)
    return trace(model or small(family), inputs, **options)


def compared(a, b):
    return partings(list(a), a.__getitem__, list(b), b.__getitem__)


def test_a_pass_does_not_part_from_itself():
    for family in FAMILIES:
        tape = traced(family)
        found = compared(tape, tape)
        assert found.first is None
        assert not found.unmatched
        assert [each.name for each in found.profile] == list(tape)
        assert all(each.distance == 0 and not each.parts for each in found.profile)


def test_an_edit_is_the_first_to_part():
    for family in FAMILIES:
        a = traced(family)
        name = next(name for name in a if name.endswith("blocks.1.self_attention.context"))
        b = traced(family, edits={name: [edits.zero(edits.Where(heads=[1]))]})
        found = compared(a, b)
        assert found.first == name
        apart = next(each for each in found.profile if each.name == name)
        assert apart.distance == pytest.approx((a[name][:, 1].abs().max() / a[name].abs().max()).item())
        before = [each.distance for each in found.profile[: list(a).index(name)]]
        assert before == [0.0] * len(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_passes_part_too(dtype):
    model = small("decoder").to(dtype)
    a = traced("decoder", model)
    name = "blocks.1.self_attention.context"
    assert compared(a, traced("decoder", model, edits={name: [edits.zero(edits.Where(heads=[1]))]})).first == name
    with torch.no_grad():
        model.blocks[0].feed_forward.up.weight.mul_(1 + 2 * torch.finfo(dtype).eps)
    assert compared(a, traced("decoder", model)).first is None


def test_rounding_is_no_parting():
    model = small("decoder")
    a = traced("decoder", model)
    with torch.no_grad():
        model.blocks[1].feed_forward.up.weight.mul_(1 + 1e-6)
    found = compared(a, traced("decoder", model))
    assert found.first is None
    assert 0 < max(each.distance for each in found.profile) < 1e-4


def test_other_shapes_and_names_are_told():
    a, b = traced("decoder"), traced("decoder", small("decoder", num_layers=1, d_model=16))
    found = compared(a, b)
    assert "embedding.out [2, 6, 32] in A, [2, 6, 16] in B" in found.unmatched
    assert "blocks.1.residual_post only in A" in found.unmatched
    assert "blocks.0.self_attention.weights" in [each.name for each in found.profile]
    assert [name for name in compared(b, a).unmatched if name.endswith("only in B")]


def test_a_mask_that_differs_parts():
    a = traced("decoder")
    b = traced("decoder", edits={"blocks.0.self_attention.mask": [edits.replace(True)]})
    assert compared(a, b).first == "blocks.0.self_attention.mask"
    scores = next(each for each in compared(a, b).profile if each.name == "blocks.0.self_attention.scores")
    assert scores.distance == float("inf")
