"""Honest ports are equal: other kernels and precisions, merged and expanded weights, a cache, what was saved or exported."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from compared import inputs, run_of, tokens
from families import CHOICES, FAMILIES, describe, small
from torch import nn

from pellucid.analysis.cached import diff_cached
from pellucid.analysis.compare import diff, dropping
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.models.build import build
from pellucid.models.checkpoint import load_run
from pellucid.models.decoder import Decoder
from pellucid.models.foreign.export import write_published
from pellucid.models.foreign.folder import load_published
from pellucid.nn.attention import Attention
from pellucid.nn.kernels import blocked, explicit, flex, sdpa
from pellucid.nn.lora import adapt, merged_weights


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_a_cache_reads_where_the_model_is():
    text, keep = tokens().cuda(), torch.ones(2, 8, dtype=torch.bool).cuda()
    for source_keep in (keep, keep.cpu()):
        found = diff_cached(
            small("encoder_decoder").cuda(), text, source=text.flip(1), source_keep=source_keep, prompt=3
        )
        assert found.equal, str(found)


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


SEEN_AND_HEARD = {
    "vit": ("ViTForImageClassification", (3, 12, 12), {
        "num_hidden_layers": 2, "intermediate_size": 20, "image_size": 12, "patch_size": 4, "hidden_size": 16,
        "num_attention_heads": 2, "num_labels": 3,
    }),
    "whisper": ("WhisperForConditionalGeneration", (80, 24), {
        "vocab_size": 61, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20,
        "d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_source_positions": 12,
        "max_target_positions": 20, "pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 2,
        "decoder_start_token_id": 4,
    }),
}  # fmt: skip


@pytest.mark.parametrize("layout", SEEN_AND_HEARD)
def test_images_and_sounds_reach_a_model_of_others_under_its_name_for_them(layout, tmp_path):
    transformers = pytest.importorskip("transformers")
    kind, shape, settings = SEEN_AND_HEARD[layout]
    made = getattr(transformers, kind)
    theirs = made(made.config_class(**settings)).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_published(tmp_path, torch.float32).eval()
    given = torch.randn(2, *shape)
    sound = {"source": given, "target": tokens()}
    for inputs_of in (given, {"inputs": given}) if layout == "vit" else ((given, tokens()), sound):
        found = diff(ours, theirs, inputs_of)
        assert found.equal, str(found)
        assert "head.projected" in {parting.name for parting in found.profile}
