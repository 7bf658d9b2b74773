"""Planted faults are named, tensor and cause; what is told of two models that part."""

import copy
import json
from dataclasses import replace

import faults
import pytest
import torch
from compared import inputs, run_of, tokens
from families import FAMILIES, VOCAB, describe, small
from faults import CAUSAL_FAULTS, CROSS_FAULTS, FAULTS
from torch import nn

import pellucid as pl
from pellucid.analysis.cached import diff_cached
from pellucid.analysis.compare import diff, dropping
from pellucid.analysis.recordings import distance
from pellucid.analysis.report import sparkline
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.models.decoder import Decoder
from pellucid.nn.attention import Attention

# ---- faults ------------------------------------------------------------------------------------


def check_fault(family, make, where, told):
    a, b = make(family)
    before = {name: parameter.clone() for name, parameter in b.named_parameters()}
    found = diff(a, b, inputs(family))
    prefix = "decoder." if family == "encoder_decoder" and not where.startswith("head.") else ""
    assert not found.equal
    assert found.first.name == prefix + where, str(found)
    assert told in str(found.cause), str(found)
    assert found.cause.tensor == found.first.name
    assert found.cause.left <= 1e-6
    assert str(found.cause) in str(found)
    assert f"parts at {prefix}{where}" in str(found)
    for parting in found.profile[: found.profile.index(found.first)]:
        assert parting.exact <= parting.tolerance
    # Repairs are made in copies.
    assert all(torch.equal(before[name], parameter) for name, parameter in b.named_parameters())


@pytest.mark.parametrize(("number", "fault"), enumerate(FAULTS))
def test_a_planted_fault_is_named(number, fault):
    check_fault(FAMILIES[number % 3], *FAULTS[fault])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_fault_is_named_in_every_family(family, fault):
    check_fault(family, *FAULTS[fault])


@pytest.mark.parametrize(("number", "fault"), enumerate(CAUSAL_FAULTS))
def test_a_fault_of_the_mask_is_named(number, fault):
    check_fault(FAMILIES[1 + number % 2], *CAUSAL_FAULTS[fault])


@pytest.mark.parametrize("fault", CROSS_FAULTS)
def test_a_fault_of_cross_attention_is_named(fault):
    check_fault("encoder_decoder", *CROSS_FAULTS[fault])


def padded(family, side):
    keep = torch.ones(2, 8, dtype=torch.bool)
    keep[1, slice(0, 3) if side == "left" else slice(5, 8)] = False
    if family == "encoder_decoder":
        return {"source": tokens().flip(1), "target": tokens(), "source_keep": keep.flip(1), "keep": keep}
    return {"inputs" if family == "encoder" else "tokens": tokens(), "keep": keep}


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_that_is_ignored(family):
    a = small(family)
    b = copy.deepcopy(a)
    faults.masks_without_padding(faults.tower(b))
    found = diff(a, b, padded(family, "left"))
    prefix = "decoder." if family == "encoder_decoder" else ""
    assert found.first.name == f"{prefix}blocks.0.self_attention.mask"
    assert found.where.startswith("in row 1 of 2 alone; from position 3 on")
    assert "lets a query see padding; hiding padding" in str(found.cause)


def test_positions_that_count_padding_and_then_a_mask_that_shows_it():
    a = small("decoder")
    b = copy.deepcopy(a)

    class Careless(Decoder):
        def sites(self, given, cache, *, keep=None, positions=None, segments=None):
            return super().sites(given, cache, keep=None, positions=positions, segments=segments)

    b.__class__ = Careless
    found = diff(a, b, padded("decoder", "left"))
    assert [cause.tensor for cause in found.causes] == ["embedding.positions", "blocks.0.self_attention.mask"]
    assert "counted from 0, padding too" in found.causes[0].what
    assert "sees padding" in found.causes[1].what or "see padding" in found.causes[1].what
    # What is computed at padding matters to nobody: on the right a causal model never sees it.
    assert diff(a, b, padded("decoder", "right")).equal


def test_a_kernel_that_is_wrong_in_single_precision_alone():
    a = small("decoder")
    b = copy.deepcopy(a)
    b.blocks[1].self_attention.kernel = faults.blind_in_single
    found = diff(a, b, tokens())
    assert found.first.name == "blocks.1.self_attention.context"
    assert found.first.exact <= 1e-12
    assert "though not in double precision" in str(found)
    assert "setting blocks.1.self_attention.kernel of B to explicit makes it agree" in str(found.cause)


def test_several_faults_are_repaired_one_after_another():
    a = small("decoder")
    b = copy.deepcopy(a)
    with torch.no_grad():
        faults.on(b.blocks[0].self_attention.query, "weight", lambda w: w.mT)
    b.blocks[1].self_attention.scale = 1.0
    b.final_norm.epsilon = 1e-2
    found = diff(a, b, tokens())
    assert [cause.place for cause in found.causes] == [
        "blocks.0.self_attention.query.weight", "blocks.1.self_attention.scale", "final_norm.epsilon",
    ]  # fmt: skip
    assert found.cause is found.causes[0]


def test_an_unknown_cause_is_said_to_be_unknown():
    a = small("decoder")
    b = copy.deepcopy(a)

    class Drifting(Attention):
        """Another answer at every pass: nothing that is tried can hold."""

        def forward(self, x, source, **given):
            drift = torch.rand(()) + 1
            return super().forward(x * drift, source * drift, **given)

    for block in (*a.blocks, *b.blocks):
        block.self_attention.__class__ = Drifting
    found = diff(a, b, tokens())
    assert found.causes == ()
    assert found.cause is None
    assert "cause: unknown" in str(found)
    assert f"computed from {', '.join(found.operands)}" in str(found)
    assert found.operands == ("given",) or found.operands[0] in {p.name for p in found.profile}


def test_another_models_weights_are_one_cause():
    a = small("decoder")
    found = diff(a, build(a.config), tokens())
    assert found.first.name == "embedding.tokens"
    assert len(found.causes) == 1
    assert "has other values" in found.cause.what
    assert len(found.cause.others) >= 30


# ---- what is said ------------------------------------------------------------------------------


def test_what_changes_nothing_is_no_cause():
    a = small("decoder")
    b = copy.deepcopy(a)
    b.blocks[1].self_attention_residual.dropout = 0.4
    found = diff(a, b, tokens())
    assert found.equal
    assert any("dropout" in difference for difference in found.differences)
    assert "also differs: blocks.1.self_attention_residual.dropout of B is 0.4, and 0 in A" in str(found)


def test_other_numbers_of_layers():
    a = small("decoder")
    b = small("decoder", num_layers=1)
    b.load_state_dict(a.state_dict(), strict=False)
    found = diff(a, b, tokens())
    assert not found.equal
    assert found.first.name == "final_norm.out"
    assert "not matched: blocks.1.* only in A" in str(found)


def test_other_widths():
    found = diff(small("decoder"), small("decoder", d_model=48), tokens())
    assert not found.equal
    told = "tensors of another shape, first embedding.tokens [2, 8, 32] in A, [2, 8, 48] in B"
    assert told in str(found)
    assert "embedding.table.embedding_dim of B is 48, and 32 in A" in str(found)


def test_json_and_bars():
    a = small("decoder")
    b = copy.deepcopy(a)
    b.blocks[1].self_attention.scale = 1.0
    found = diff(a, b, tokens())
    told = json.loads(json.dumps(found.as_dict()))
    assert told["first"]["name"] == "blocks.1.self_attention.scores"
    assert told["cause"]["place"] == "blocks.1.self_attention.scale"
    assert len(told["profile"]) == len(found.profile)
    assert not told["equal"]
    assert f"[{sparkline([p.exact for p in found.profile])}]" in str(found)
    assert sparkline([0.0, 1e-16, 1e-8, 1.0, float("inf")]) == " ▁▄██"
    assert len(sparkline([0.0] * 500)) <= 72


def test_masks_that_hide_another_number_are_infinitely_apart():
    a = small("decoder")
    b = copy.deepcopy(a)
    b.causal = False
    found = diff(a, b, tokens())
    scores = next(p for p in found.profile if p.name == "blocks.0.self_attention.scores")
    assert scores.exact == float("inf")
    assert found.as_dict()["profile"][found.profile.index(scores)]["exact"] == "inf"


def test_distance():
    assert distance(torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0])) == 0.25
    assert distance(torch.tensor([True, False]), torch.tensor([True, True])) == 0.5
    assert distance(torch.tensor([1.0, torch.inf]), torch.tensor([1.0, -torch.inf])) == torch.inf
    assert distance(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan])) == 0.0


def test_the_model_stays_as_it_was():
    a, b = small("decoder").train(), small("decoder")
    b.blocks[0].eval()
    b.blocks[1].train()
    before = copy.deepcopy(a.state_dict())
    diff(a, b, tokens())
    assert a.training
    assert b.blocks[1].training
    assert not b.blocks[0].training
    assert all(torch.equal(before[name], value) for name, value in a.state_dict().items())
    assert {parameter.dtype for parameter in a.parameters()} == {torch.float32}


@pytest.mark.parametrize("front", ["tokens", "images", "sounds"])
def test_inputs_are_drawn_where_none_are_given(front):
    stack = replace(describe("encoder").stack, positions=parts.Learned(max_length=30))
    fronts = {
        "tokens": config.Tokens(vocab_size=VOCAB),
        "images": config.Patches(image_size=8, patch_size=4),
        "sounds": config.Audio(mels=4),
    }
    head = config.Classification(labels=("a", "b"))
    a = build(config.Encoder(front=fronts[front], stack=stack, head=head))
    assert pl.diff(a, copy.deepcopy(a)).equal
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.head.project.weight.copy_(a.head.project.weight.flip(0))
    found = pl.diff(a, b)
    assert found.first.name == "head.projected"
    assert "has its rows in another order" in str(found.cause)


def test_a_test_is_written(tmp_path):
    a = small("decoder")
    one = run_of(a, tmp_path / "one")
    other = run_of(a, tmp_path / "other")
    found = diff(one, other, tokens() % 9)
    found.save_test(tmp_path / "test_port.py")
    written = {}
    exec((tmp_path / "test_port.py").read_text(), written)
    written["test_the_two_agree"]()
    with torch.no_grad():
        a.final_norm.weight[3] *= 1.5
    run_of(a, tmp_path / "other")
    with pytest.raises(AssertionError, match="final_norm"):
        written["test_the_two_agree"]()
    with pytest.raises(UserError, match="not read from a path"):
        diff(a, a, tokens()).save_test(tmp_path / "none.py")
    for more in ({"inputs_b": tokens() % 9}, {"align": dropping(0, 8)}):  # the test would make another comparison
        with pytest.raises(UserError, match=r"B read other inputs or was aligned.*one input for both models"):
            diff(one, other, tokens() % 9, **more).save_test(tmp_path / "none.py")
    assert not (tmp_path / "none.py").exists()
    with pytest.raises(UserError, match="a file in a folder that exists"):
        found.save_test(tmp_path / "no" / "test.py")


def test_models_too_large_for_copies_are_refused(monkeypatch):
    monkeypatch.setattr("pellucid.analysis.compare.free", lambda device: 1000)
    with pytest.raises(UserError, match=r"copies in double precision would take 0.0 GB; expected at most 0.0 GB"):
        diff(small("decoder"), small("decoder"), tokens())


def test_what_cannot_be_compared():
    decoder, both = small("decoder"), small("encoder_decoder")
    with pytest.raises(UserError, match="two models of one family"):
        diff(decoder, both, tokens())
    with pytest.raises(UserError, match="cannot read these inputs"):
        diff(decoder, decoder, tokens() + VOCAB)
    with pytest.raises(UserError, match="names no tensors of its own"):
        diff(nn.Linear(3, 3), nn.Linear(3, 3), torch.ones(1, 3))
    with pytest.raises(UserError, match="no tensor in common"):
        diff(decoder, nn.Embedding(VOCAB, 3), tokens())
    with pytest.raises(UserError, match="has no cache"):
        diff_cached(small("encoder"), tokens())
    with pytest.raises(UserError, match="a prompt of 8 of 8 tokens"):
        diff_cached(decoder, tokens(), prompt=8)
