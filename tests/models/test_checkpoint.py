"""A run folder is written whole, read back exactly, and faults are named."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, describe, run, small
from safetensors.torch import load_file, save_file

from pellucid.config.defaults import default_run, demo_run
from pellucid.config.optimisation import Checkpoints
from pellucid.config.run import TextFiles
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import CheckpointError
from pellucid.models import files
from pellucid.models.build import build
from pellucid.models.checkpoint import load_run, load_weights, save_run, save_weights

TEXT = TextFiles(train=("a.txt",))
BASE = {
    "encoder": default_run("encoder", TEXT),
    "decoder": default_run("decoder", TEXT),
    "encoder_decoder": demo_run("encoder-decoder"),
}


@pytest.fixture(scope="module")
def tokenizer():
    from pellucid.config.run import Characters

    return Tokenizer.train(Characters(), ["abc def"])


def saved(tmp_path, family, tokenizer):
    settings = replace(BASE[family], model=describe(family))
    settings = replace(settings, training=replace(settings.training, checkpoints=Checkpoints(weights="float32")))
    model = small(family)
    save_run(tmp_path / "run", model, tokenizer, settings)
    return model, settings, tmp_path / "run"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_comes_back_as_it_was(tmp_path, family, tokenizer):
    model, settings, folder = saved(tmp_path, family, tokenizer)
    loaded = load_run(folder, verify=True)
    assert loaded.run == settings
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    text = torch.randint(0, 61, (2, 9))
    assert torch.equal(run(loaded.model, text), run(model, text))
    assert sorted(path.name for path in folder.iterdir()) == [
        "checksums.json", "config.toml", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path, tokenizer):
    _, _, folder = saved(tmp_path, "encoder_decoder", tokenizer)
    names = load_file(folder / "model.safetensors").keys()
    assert "encoder.embedding.table.weight" in names
    assert "head.project.weight" not in names
    model = load_run(folder).model
    assert model.head.project.weight is model.encoder.embedding.table.weight is model.decoder.embedding.table.weight


def test_a_torn_file_is_named(tmp_path, tokenizer):
    _, _, folder = saved(tmp_path, "decoder", tokenizer)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: torn"):
        load_run(folder)


def test_a_flipped_bit_is_found_by_verify(tmp_path, tokenizer):
    _, _, folder = saved(tmp_path, "decoder", tokenizer)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    load_run(folder)
    with pytest.raises(CheckpointError, match=r"the file has changed|The file has changed"):
        load_run(folder, verify=True)


@pytest.mark.parametrize("sums", [None, "{", "[]", "{}", '{"config.toml": 3}'])
def test_checksums_that_say_nothing_verify_nothing(tmp_path, tokenizer, sums):
    _, _, folder = saved(tmp_path, "decoder", tokenizer)
    if sums is None:
        (folder / "checksums.json").unlink()
    else:
        (folder / "checksums.json").write_text(sums)
    with pytest.raises(CheckpointError, match=r"checksums\.json: (cannot be read|says nothing of)|sha256"):
        load_run(folder, verify=True)


def test_foreign_weights_are_told_by_name(tmp_path):
    model = build(describe("decoder"))
    path = tmp_path / "w.safetensors"
    save_weights(model, path)
    weights = load_file(path)
    weights["extra"] = weights.pop("final_norm.weight")
    weights["blocks.0.feed_forward.up.bias"] = torch.zeros(3)
    save_file(weights, path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path)
    for part in ("final_norm.weight missing", "extra unknown", "blocks.0.feed_forward.up.bias is [3], not [48]"):
        assert part in str(caught.value)


def test_missing_folders_and_files(tmp_path, tokenizer):
    _, _, folder = saved(tmp_path, "decoder", tokenizer)
    with pytest.raises(CheckpointError, match=r'no such folder.*Did you mean "run"'):
        load_run(tmp_path / "runn")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json missing"):
        load_run(folder)


def test_a_full_disk_loses_nothing(tmp_path, tokenizer, monkeypatch):
    model, settings, folder = saved(tmp_path, "decoder", tokenizer)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*untouched"):
        save_run(folder, model, tokenizer, settings)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_half_precision_halves_the_file(tmp_path):
    model = small("decoder")
    save_weights(model, tmp_path / "full")
    save_weights(model, tmp_path / "half", torch.bfloat16)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "full").stat().st_size
    again = small("decoder")
    load_weights(again, tmp_path / "half")
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0.01)


def test_others_may_read_what_the_system_lets_them(tmp_path):
    files.write_tensors({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / "y").touch()
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "y").stat().st_mode
