"""Planted faults are named, tensor and cause; honest ports are equal."""

import copy
import json
from dataclasses import replace
from functools import partial

import faults
import pytest
import torch
from families import CHOICES, FAMILIES, VOCAB, describe, small
from faults import CAUSAL_FAULTS, CROSS_FAULTS, FAULTS
from torch import nn

import pellucid as pl
from pellucid.analysis.cached import diff_cached
from pellucid.analysis.compare import diff, dropping
from pellucid.analysis.recordings import distance
from pellucid.analysis.report import sparkline
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.run import Causal, Characters, NoData, Run
from pellucid.data import Tokenizer
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.models.checkpoint import load_run, save_run
from pellucid.models.decoder import Decoder
from pellucid.models.foreign.export import write_published
from pellucid.models.foreign.folder import load_published
from pellucid.nn.attention import Attention
from pellucid.nn.kernels import blocked, explicit, flex, sdpa
from pellucid.nn.lora import adapt, merged_weights


def tokens(rows=2, length=8):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(4))


def inputs(family):
    return (tokens().flip(1), tokens()) if family == "encoder_decoder" else tokens()


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


# ---- honest ports ------------------------------------------------------------------------------


def with_kernel(kernel, model):
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, Attention):
            module.kernel = kernel
    return other


def through_state(model):
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(model.state_dict())
    return other


def moved(model):
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.detach().mT.contiguous().mT)
    return other


def untied_but_equal(model):
    other = copy.deepcopy(model)
    other.head.project.weight = nn.Parameter(other.head.project.weight.detach().clone())
    return other


def described_otherwise(model):
    """What was left to its default is said."""
    stack = model.config.decoder if isinstance(model.config, config.EncoderDecoder) else model.config.stack
    attention = replace(stack.attention, num_kv_heads=4, head_dim=8, scale=8**-0.5, key_bias=True, out_bias=True)
    said = replace(stack, attention=attention, final_norm=True, windows=(0, 0, 0))
    changes = {"encoder": said, "decoder": said} if isinstance(model.config, config.EncoderDecoder) else {"stack": said}
    other = build(replace(model.config, **changes)).eval()
    other.load_state_dict(model.state_dict())
    return other


HONEST = {
    "a copy": copy.deepcopy,
    "double precision": lambda model: copy.deepcopy(model).double(),
    "explicit kernel": partial(with_kernel, explicit),
    "fused kernel": partial(with_kernel, sdpa),
    "kernel in blocks": partial(with_kernel, blocked),
    "block-sparse kernel": partial(with_kernel, flex),
    "training mode": lambda model: copy.deepcopy(model).train(),
    "through its state": through_state,
    "weights in other memory": moved,
    "equal weights no longer tied": untied_but_equal,
    "described otherwise": described_otherwise,
}


BLOCK_SPARSE = pytest.param("block-sparse kernel", marks=pytest.mark.compiles)  # flex does, inside


@pytest.mark.parametrize("port", [*(port for port in HONEST if port != "block-sparse kernel"), BLOCK_SPARSE])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_honest_port_is_equal(family, port):
    a = small(family)
    found = diff(a, HONEST[port](a), inputs(family))
    assert found.equal, str(found)
    assert found.first is None
    assert found.causes == ()
    assert len(found.profile) >= 50
    assert str(found).startswith(f"equal: {len(found.profile)} tensors agree to ")


@pytest.mark.parametrize("choice", ["rotary", "qk-norm", "window-bias", "relative-bias", "rms-plus-one", "softcap"])
@pytest.mark.parametrize("kernel", [explicit, pytest.param(flex, marks=pytest.mark.compiles)])
def test_kernels_agree_where_a_part_is_computed_in_single_precision(choice, kernel):
    a = small("decoder", **CHOICES[choice])
    found = diff(a, with_kernel(kernel, a), tokens())
    assert found.equal, str(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_bfloat16_holds_are_equal_in_it(family):
    a = small(family).bfloat16().float()
    found = diff(a, copy.deepcopy(a).bfloat16(), inputs(family))
    assert found.equal, str(found)
    assert max(parting.rounded for parting in found.profile) > 1e-3  # which judges nobody


@pytest.mark.parametrize("family", FAMILIES)
def test_low_rank_terms_merged(family):
    a = small(family)
    plain = copy.deepcopy(a)
    adapt(a, ("query", "value"), rank=2, alpha=4.0, dropout=0.0)
    for name, parameter in a.named_parameters():
        if name.endswith("lora_B.weight"):
            nn.init.normal_(parameter, std=0.1)
    assert not diff(a, plain, inputs(family)).equal
    merged = copy.deepcopy(plain)
    with torch.no_grad():
        for name, value in merged_weights(a):
            merged.get_parameter(name).copy_(value)
    found = diff(a, merged, inputs(family))
    assert found.equal, str(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_heads_expanded(family):
    a = small(family, **CHOICES["grouped"])
    b = build(describe(family)).eval()
    state = a.state_dict()
    for name, value in b.state_dict().items():
        if state[name].shape != value.shape:
            groups = state[name].view(2, 8, *value.shape[1:])
            state[name] = groups.repeat_interleave(2, dim=0).reshape(value.shape)
    b.load_state_dict(state)
    found = diff(a, b, inputs(family))
    assert found.equal, str(found)
    assert not found.unmatched


def test_more_padding_on_the_left():
    a = small("decoder")
    more = torch.cat([torch.zeros(2, 5, dtype=torch.long), tokens()], dim=1)
    keep = torch.arange(13).expand(2, -1) >= 5
    found = diff(a, a, tokens(), inputs_b={"tokens": more, "keep": keep}, align=dropping(5, 8))
    assert found.equal, str(found)
    assert len(found.profile) >= 50
    faulty = diff(a, a, tokens(), inputs_b={"tokens": more}, align=dropping(5, 8))
    assert faulty.first.name == "embedding.positions"


@pytest.mark.parametrize("choice", ["plain", "rotary", "window", "grouped", "learned", "relative-bias"])
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_a_cache_is_equal_to_one_pass(family, choice):
    source = {"source": tokens().flip(1)} if family == "encoder_decoder" else {}
    found = diff_cached(small(family, **CHOICES[choice]), tokens(), prompt=3, **source)
    assert found.equal, str(found)
    assert len(found.profile) >= 38


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda p: p - 1, "one position too low"), (lambda p: p * 0, "at position 0 each")],
)
def test_a_cache_whose_positions_are_wrong(change, told):
    model = small("decoder")

    class Forgetful(Decoder):
        def sites(self, given, cache, **more):
            found = super().sites(given, cache, **more)
            later = found.positions.size(1) == 1
            return replace(found, positions=change(found.positions)) if later else found

    model.__class__ = Forgetful
    found = diff_cached(model, tokens(), prompt=3)
    assert found.first.name == "embedding.positions"
    assert "from position 3 on" in found.where
    assert told in str(found.cause)


def run_of(model, folder):
    tokenizer = Tokenizer.train(Characters(), ["abcdefgh "])
    run = Run(model=model.config, data=NoData(), tokenizer=Characters(), objective=Causal(length=8))
    save_run(folder, model, tokenizer, run)
    return folder


def test_saved_and_loaded(tmp_path):
    a = small("decoder")
    found = diff(a, load_run(run_of(a, tmp_path / "run")), tokens())
    assert found.equal, str(found)


PUBLISHED = {
    "gpt2": ("decoder", {"positions": parts.Learned(max_length=40), "feed_forward": parts.FeedForward(d_ff=48, activation="gelu_tanh")}),
    "llama": ("decoder", {"positions": parts.Rotary(), "norm": parts.RMSNorm(), "attention": parts.Attention(num_heads=4, num_kv_heads=2, bias=False), "feed_forward": parts.FeedForward(d_ff=48, activation="silu", gated=True, bias=False)}),
}  # fmt: skip


@pytest.mark.parametrize("layout", PUBLISHED)
def test_exported_and_imported(layout, tmp_path):
    family, changes = PUBLISHED[layout]
    a = small(family, **changes)
    assert write_published(tmp_path, a, {}) == layout
    b = load_published(tmp_path, torch.float32).eval()
    found = diff(a, b, tokens())
    assert found.equal, str(found)
    # The same weights in the code of transformers, by the names of the table that reads them.
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    found = diff(a, theirs, tokens())
    assert found.equal, str(found)
    assert {"blocks.0.self_attention.weights", "blocks.1.feed_forward.out"} <= {p.name for p in found.profile}
    a.blocks[1].self_attention.scale *= 2
    found = diff(a, theirs, tokens())
    assert found.first.name == "blocks.1.self_attention.scores"
    assert "multiplying by 2" in str(found.cause)


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
