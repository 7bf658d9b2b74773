"""Names and values of TransformerLens's cache, on the same weights, through the alias table."""

import pytest
import torch
from families import FAMILIES, small
from tokenizers import Tokenizer as Raw
from tokenizers import models

transformers = pytest.importorskip("transformers")
pytest.importorskip("transformer_lens")

from transformer_lens.model_bridge import TransformerBridge

from pellucid.analysis.aliases import lens_cache, lens_names
from pellucid.models.foreign.folder import load_published
from pellucid.trace import trace

VOCAB, LAYERS = 61, 2
ATTENTION = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z")
BLOCK = [*(f"attn.{name}" for name in ATTENTION), "hook_attn_out", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"]
BLOCK += ["hook_resid_pre", "hook_resid_post", "ln1.hook_out", "ln2.hook_out"]
NAMES = ["embed.hook_out", *(f"blocks.{i}.{name}" for i in range(LAYERS) for name in BLOCK), "hook_unembed"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """What their library wants to be given, and what the hub would be asked for otherwise."""
    folder = tmp_path_factory.mktemp("tokenizer")
    roles = {f"{role}_token": str(i) for i, role in enumerate(("unk", "bos", "eos", "pad", "mask", "cls", "sep"))}
    raw = Raw(models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **roles).save_pretrained(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def both(model, folder, tokenizer):
    """Their cache and our tape of the same tokens."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.eval().save_pretrained(folder)
    tokens = torch.randint(7, VOCAB, (2, 7))
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer, device="cpu")
    bridge.enable_compatibility_mode(no_processing=True)
    with torch.no_grad():
        _, theirs = bridge.run_with_cache(tokens)
    return theirs, lens_cache(trace(load_published(folder).eval(), tokens).tensors)


def check(theirs, ours, names):
    for name in names:
        expected = theirs[name]
        assert ours[name].shape == expected.shape, name
        seen = expected.isfinite() & (expected > -1e30)  # some of theirs hide by a large number
        assert torch.equal(seen, ours[name].isfinite()), name
        scale = expected[seen].abs().max()
        assert (ours[name][seen] - expected[seen]).abs().max() <= 1e-5 * scale, name


def test_gpt2(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=LAYERS, n_head=4, n_embd=32, vocab_size=VOCAB, n_positions=40)
    theirs, ours = both(transformers.GPT2LMHeadModel(config), tmp_path, tokenizer)
    resid = [f"blocks.{i}.hook_resid_mid" for i in range(LAYERS)]
    check(theirs, ours, [*NAMES, *resid, "ln_final.hook_out"])


def test_bert(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        num_hidden_layers=LAYERS, num_attention_heads=4, hidden_size=32, intermediate_size=48, vocab_size=VOCAB,
        max_position_embeddings=40,
    )  # fmt: skip
    theirs, ours = both(transformers.BertForMaskedLM(config), tmp_path, tokenizer)
    # Version 4 wraps the model of transformers: there, what it calls the scores of a BERT are its weights, and its
    # attention's output has gone through residual and norm already. The output itself has another name.
    for i in range(LAYERS):
        assert torch.equal(theirs[f"blocks.{i}.attn.hook_attn_scores"], theirs[f"blocks.{i}.attn.hook_pattern"])
    differ = ("attn.hook_attn_scores", "hook_attn_out")
    check(theirs, ours, [*(name for name in NAMES if not name.endswith(differ)), "embed_ln.hook_out"])
    outs = {f"blocks.{i}.attn.o.hook_out": ours[f"blocks.{i}.hook_attn_out"] for i in range(LAYERS)}
    check(theirs, outs, outs)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_of_ours_share_a_name(family):
    model, tokens = small(family), torch.randint(0, VOCAB, (2, 5))
    tape = trace(model, (tokens, tokens) if family == "encoder_decoder" else tokens)
    named = lens_names(tape)
    assert len(set(named.values())) == len(named) >= 2 * 14
    if family == "encoder_decoder":
        assert named["decoder.blocks.1.cross_attention.weights"] == "decoder.blocks.1.cross_attn.hook_pattern"


def test_gates_and_steps():
    told = lens_names(["blocks.0.feed_forward.gate", "blocks.0.feed_forward.pre", "blocks.1.feed_forward.pre@3"])
    assert list(told.values()) == [
        "blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_pre_linear", "blocks.1.mlp.hook_pre@3",
    ]  # fmt: skip
