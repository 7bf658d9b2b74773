"""What is written is what ``transformers`` reads: equal logits, equal tokens; and what was read is written again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

transformers = pytest.importorskip("transformers")

from parity.cases import CASES, enlarge
from parity.test_parity import close, folders  # noqa: F401
from pellucid.config import parts, run
from pellucid.config.defaults import default_run
from pellucid.config.model import Classification, Encoder, EncoderDecoder, Language, Tokens, with_vocab_size
from pellucid.config.presets import preset
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run
from pellucid.models.convert import convert
from pellucid.models.load import load

TEXTS = ["the cat sat on the mat", "a mat", "cats and dogs, 2021!", "the dog sat"]


def tensors(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_import_then_export_gives_the_same_bytes(case, folders, tmp_path):  # noqa: F811
    folder, oracle, _ = folders(case)
    (folder / "tokenizer.json").write_text(WORDS.raw.to_str())
    convert(folder, tmp_path / "out", "hf")
    before, after = tensors(folder), tensors(tmp_path / "out")
    doubled = set(before.keys() - after.keys())
    assert after.keys() <= before.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert tensor.contiguous().view(torch.uint8).equal(before[name].contiguous().view(torch.uint8)), name
    # What is not written stands in the file under another name, or is none of the model's.
    for name in doubled:
        twins = [other for other in after.values() if other.shape == before[name].shape and other.equal(before[name])]
        spare = ("embed_positions.weight", "cls.predictions.bias", "lm_head.bias", "shared.weight")
        assert twins or name.endswith(spare), name
    again = type(oracle).from_pretrained(tmp_path / "out")
    for (name, one), (_, other) in zip(oracle.named_parameters(), again.named_parameters(), strict=True):
        if not name.endswith(("predictions.bias", "lm_head.bias", "shared.weight")):
            assert one.equal(other), name


WORDS = Tokenizer.train(run.ByteBPE(vocab_size=320), [" ".join(TEXTS)] * 4)


def _stack(**given):
    base = {
        "d_model": 32,
        "num_layers": 2,
        "attention": parts.Attention(num_heads=4),
        "feed_forward": parts.FeedForward(d_ff=40, activation="gelu"),
    }
    return parts.Stack(**base | given)


def _classic(placement, tie=("source", "target", "output"), **positions):
    stack = _stack(placement=placement, positions=parts.Sinusoidal(**positions))
    front = Tokens(scaled=True)
    return EncoderDecoder(source=front, encoder=stack, target=front, decoder=replace(stack, num_layers=1), tie=tie)


def _default(family):
    model = default_run(family, run.NamedData(name="x")).model
    if isinstance(model, EncoderDecoder):
        return replace(model, encoder=_small(model.encoder), decoder=_small(model.decoder))
    return replace(model, stack=_small(model.stack))


def _small(stack, **more):
    attention = replace(stack.attention, num_heads=4, num_kv_heads=None)
    sizes = {"d_model": 32, "num_layers": 2} | more
    return replace(stack, **sizes, attention=attention, feed_forward=replace(stack.feed_forward, d_ff=40))


def _preset(name):
    model = preset(name).model
    if isinstance(model, EncoderDecoder):
        size = {"vocab_size": 0}
        return replace(
            model,
            encoder=_small(model.encoder),
            decoder=_small(model.decoder),
            source=replace(model.source, **size),
            target=replace(model.target, **size),
        )
    return replace(model, stack=_small(model.stack), front=replace(model.front, vocab_size=0))


OURS = {
    "the default decoder": (_default("decoder"), "qwen3"),
    "gpt2": (_preset("gpt2"), "gpt2"),
    "stories": (_preset("stories-15m"), "llama"),
    "the default encoder-decoder": (_default("encoder-decoder"), "pegasus"),
    "the paper's": (_preset("transformer-base"), "marian"),
    "pre-norm, halves, untied": (_classic("pre", tie=("target", "output"), interleaved=False), None),
    "post-norm, halves": (_classic("post", interleaved=False), "marian"),
    "t5": (replace(_preset("t5-small"), head=Language(scale=32**-0.5)), "t5"),
    "bert": (_preset("bert-tiny"), "bert"),
    "bert without types": (
        replace(_preset("bert-tiny"), front=Tokens(norm=True)),
        "distilbert",
    ),
    "bert of another norm, without types": (
        replace(
            _preset("bert-tiny"),
            front=Tokens(norm=True),
            stack=_stack(positions=parts.Learned(max_length=40), norm=parts.LayerNorm(epsilon=1e-4)),
        ),
        "bert",
    ),
    "a classifier": (
        replace(_preset("bert-tiny"), head=Classification(labels=("x", "y", "z")), tie=()),
        "bert",
    ),
    "the default encoder": (_default("encoder"), None),
}


@pytest.mark.parametrize("name", OURS)
def test_what_was_trained_here(name, tmp_path):
    described, layout = OURS[name]
    described = with_vocab_size(described, WORDS.vocab_size)
    torch.manual_seed(1)
    model = build(described).eval()
    enlarge(model)
    objective = {"Decoder": run.Causal(), "EncoderDecoder": run.SequenceToSequence()}.get(type(described).__name__)
    if objective is None:
        objective = run.Classify() if isinstance(described.head, Classification) else run.Masked()
    settings = run.Run(
        model=described, data=run.NamedData(name="x"), tokenizer=run.ByteBPE(vocab_size=320), objective=objective
    )
    save_run(tmp_path / "run", model, WORDS, settings)
    if layout is None:
        with pytest.raises(UserError, match="no published layout holds this model"):
            convert(tmp_path / "run", tmp_path / "out", "hf")
        return
    assert convert(tmp_path / "run", tmp_path / "out", "hf")["layout"] == layout
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    theirs = getattr(transformers, settings["architectures"][0]).from_pretrained(tmp_path / "out").eval()
    cut = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = cut(TEXTS, padding=True, return_tensors="pt")
    again = load(tmp_path / "out")
    encoded = WORDS.encode_batch(TEXTS)
    frame = {"Decoder": WORDS.prompt, "EncoderDecoder": WORDS.source, "Encoder": WORDS.text}[type(described).__name__]
    for ids, row, keep in zip(encoded, batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        assert frame(ids) == row[keep].tolist()
        assert cut.decode(ids) == WORDS.decode(ids)
    keep = batch["attention_mask"].bool()
    with torch.no_grad():
        if isinstance(described, EncoderDecoder):
            target = torch.randint(5, WORDS.vocab_size, (4, 6))
            expected = model(batch["input_ids"], target, source_keep=keep)
            close(theirs(**batch, decoder_input_ids=target).logits, expected)
            close(again.model(batch["input_ids"], target, source_keep=keep), expected)
            assert theirs.generation_config.decoder_start_token_id == WORDS.bos
        else:
            expected = model(batch["input_ids"], keep=keep)
            real = keep if expected.dim() == 3 else slice(None)
            close(theirs(**batch).logits[real], expected[real])
            close(again.model(batch["input_ids"], keep=keep)[real], expected[real])
    assert isinstance(again.model.config, Encoder) or again.tokenizer.ends == WORDS.ends
