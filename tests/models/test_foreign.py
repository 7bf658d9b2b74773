"""Published folders that are not as they should be: each is refused with the place, what was found, what to try."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pellucid.config import parts, run
from pellucid.config.model import Decoder, Tokens
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import CheckpointError, ConfigError, PellucidError, UserError
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run
from pellucid.models.convert import convert
from pellucid.models.load import load

WORDS = Tokenizer.train(run.ByteBPE(vocab_size=300), ["the cat sat on the mat"] * 4)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    stack = parts.Stack(
        d_model=16,
        num_layers=2,
        attention=parts.Attention(num_heads=4, num_kv_heads=2, bias=False),
        feed_forward=parts.FeedForward(d_ff=24, activation="silu", gated=True, bias=False),
        positions=parts.Rotary(),
        norm=parts.RMSNorm(),
        placement="pre",
    )
    model = Decoder(front=Tokens(vocab_size=WORDS.vocab_size), stack=stack)
    settings = run.Run(
        model=model, data=run.NamedData(name="x"), tokenizer=run.ByteBPE(vocab_size=300), objective=run.Causal()
    )
    root = tmp_path_factory.mktemp("published")
    save_run(root / "run", build(model), WORDS, settings)
    convert(root / "run", root / "llama", "hf")
    return root / "llama"


@pytest.fixture
def folder(published, tmp_path):
    return shutil.copytree(published, tmp_path / "llama")


def retell(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "lama"}, "model_type: found 'lama'; expected a supported one. Did you mean \"llama\"?"),
        ({"model_type": None}, "model_type: missing"),
        ({"architectures": ["LlamaForQuestionAnswering"]}, "one of LlamaForCausalLM, LlamaModel"),
        ({"hidden_act": "quick_gelu"}, "hidden_act: found 'quick_gelu'; expected one of relu"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "found rope_type 'yarn'; expected default, linear or llama3"),
        ({"num_experts": 8}, "num_experts = 8: not known here, so not honoured"),
        ({"pretraining_tp": 2}, "pretraining_tp: found 2; expected 1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: found"),
        ({"auto_map": {"AutoModel": "x.y"}}, "auto_map: found"),
        ({"hidden_size": "16"}, "hidden_size: found '16'; expected a value such as 4096"),
        ({"num_key_value_heads": 3}, "num_kv_heads: found 3; expected a divisor of num_heads"),
    ],
)
def test_settings_we_do_not_honour_are_refused(folder, settings, message):
    retell(folder, **settings)
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert message in str(caught.value)


def test_settings_that_are_off_pass(folder):
    retell(folder, num_experts=None, some_new_thing=False, another=[])
    load(folder)


def test_tensors_that_do_not_fit_are_listed(folder):
    def change(tensors):
        tensors["model.norm.weight"] = torch.zeros(17)
        tensors["model.layers.9.surprise"] = torch.zeros(1)
        del tensors["model.layers.0.mlp.up_proj.weight"]

    rewrite(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    for part in (
        "model.layers.0.mlp.up_proj.weight missing",
        "model.layers.9.surprise unknown",
        "model.norm.weight is [17], not [16]",
    ):
        assert part in str(caught.value)


def test_a_tied_weight_is_the_same_or_an_error(folder):
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    load(folder)
    rewrite(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embed_tokens.weight, to which it is"):
        load(folder)


def test_nothing_is_unpickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not to be opened")
    with pytest.raises(CheckpointError, match=r"holds pytorch_model.bin, a pickle.*save_pretrained"):
        load(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(folder)


def test_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    expected = load(folder).model(torch.tensor([[5, 6, 7]]))
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert load(folder).model(torch.tensor([[5, 6, 7]])).equal(expected)
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b.safetensors missing; expected the 2 files"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_torn_files_are_named(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=name):
        load(folder)


def test_weights_are_views_of_the_file(folder):
    model = load(folder).model
    with torch.no_grad():
        before = model.embedding.table.weight.clone()
        model.embedding.table.weight.zero_()  # private to this process
    assert load(folder).model.embedding.table.weight.equal(before)
    assert load(folder, dtype=torch.bfloat16).model.embedding.table.weight.dtype == torch.bfloat16


def test_what_lies_side_by_side_stays_there(tmp_path):
    """GPT-2's q, k and v are one tensor: three views of one storage."""
    stack = parts.Stack(
        d_model=16,
        num_layers=1,
        attention=parts.Attention(num_heads=2),
        feed_forward=parts.FeedForward(d_ff=24, activation="gelu_tanh"),
        positions=parts.Learned(max_length=8),
        placement="pre",
    )
    model = Decoder(front=Tokens(vocab_size=WORDS.vocab_size), stack=stack)
    settings = run.Run(
        model=model, data=run.NamedData(name="x"), tokenizer=run.ByteBPE(vocab_size=300), objective=run.Causal(length=8)
    )
    save_run(tmp_path / "run", build(model), WORDS, settings)
    assert convert(tmp_path / "run", tmp_path / "gpt2", "hf")["layout"] == "gpt2"
    attention = load(tmp_path / "gpt2").model.blocks[0].self_attention
    layers = (attention.query, attention.key, attention.value)
    assert len({layer.weight.untyped_storage().data_ptr() for layer in layers}) == 1
    assert len({layer.weight.data_ptr() for layer in layers}) == 3


WRONG = [None, True, -1, 0, 10**9, 10**20, "x", [], [5], {}, {"x": 1}, 1.5]


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("value", WRONG, ids=str)
def test_values_of_a_wrong_kind_are_told(folder, file, value):
    """Whatever stands where, a folder opens or is refused; it never ends in something else."""
    told = json.loads((folder / file).read_text())
    for name in told:
        (folder / file).write_text(json.dumps(told | {name: value}))
        with suppress(PellucidError):
            load(folder)
    (folder / file).write_text(json.dumps(value))
    with suppress(PellucidError):
        load(folder)


@pytest.mark.parametrize("name", ["", ".", "..", "../x.safetensors", "a/b"])
def test_names_outside_the_folder(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointError, match="files of its own folder"):
        load(folder)


def test_what_cannot_be_converted_leaves_nothing(published, tmp_path):
    with pytest.raises(UserError, match='found "tf"'):
        convert(published, tmp_path / "out", "tf")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="is the folder that is read"):
        convert(published, published, "hf", force=True)
    convert(published, tmp_path / "out", "hf")
    (tmp_path / "out" / "notes.md").write_text("kept")
    convert(published, tmp_path / "out", "hf", force=True)
    assert (tmp_path / "out" / "notes.md").read_text() == "kept"


def test_a_name_that_is_nowhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError,
        match=r"config\.json, model\.safetensors and tokenizer\.json are not all in the cache|need the hub extra",
    ):
        load("nobody/nothing")
    with pytest.raises(CheckpointError, match="no such folder"):
        load("nothing")


def test_a_name_whose_weights_are_pickles(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointError, match=r"owner/pickles: has no safetensors.*refs/pr/1.*save_pretrained"):
        load("owner/pickles")


def test_what_is_there_is_not_written_over(published, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        convert(published, tmp_path, "hf")


def test_a_published_model_says_nothing_of_its_training(folder):
    with pytest.raises(UserError, match="says nothing of its training"):
        load(folder).run  # noqa: B018


def test_the_folder_we_are_in_is_one_like_others(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert(published, Path(), "pellucid")
    assert not load(tmp_path).is_published


@pytest.mark.parametrize(("first", "then"), [("pellucid", "hf"), ("hf", "pellucid")])
def test_what_was_there_is_not_taken_for_what_is_written(published, tmp_path, first, then):
    convert(published, tmp_path / "out", first)
    (tmp_path / "out" / "target-tokenizer.json").write_text("{}")
    convert(published, tmp_path / "out", then, force=True)
    assert load(tmp_path / "out").is_published is (then == "hf")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "target-tokenizer.json" not in left
    assert ("config.toml" in left, "checksums.json" in left) == (then == "pellucid", then == "pellucid")
    assert ("config.json" in left) == (then == "hf")
