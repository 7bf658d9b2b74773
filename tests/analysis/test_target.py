"""A model is named by a preset, a family, a file or a folder, and settings change it."""

from dataclasses import replace

import pytest

import pellucid as pl
from pellucid.analysis.target import model_of
from pellucid.config import PRESETS, save_config
from pellucid.config.defaults import demo_run
from pellucid.config.parts import Learned
from pellucid.errors import ConfigError, UserError


def test_names(tmp_path):
    assert model_of("gpt2") == PRESETS["gpt2"].model
    assert model_of("decoder").front.vocab_size == 4000
    run = demo_run("encoder-decoder")
    save_config(run, tmp_path / "recipe.toml")
    recipe = model_of(tmp_path / "recipe.toml")
    assert recipe.source.vocab_size == recipe.target.vocab_size == 2500
    done = run.completed(vocab_size=321, labels=())
    save_config(done, tmp_path / "config.toml")
    assert model_of(tmp_path) == done.model  # a run folder
    save_config(done.model, tmp_path / "model.json")
    assert model_of(str(tmp_path / "model.json")) == model_of(done.model) == done.model


def test_settings_are_set_wherever_they_stand():
    pairs = model_of("encoder-decoder", ["d_model=64", "encoder.num_layers=5", "vocab_size=99"])
    assert (pairs.encoder.d_model, pairs.decoder.d_model) == (64, 64)
    assert (pairs.encoder.num_layers, pairs.decoder.num_layers) == (5, 3)
    assert (pairs.source.vocab_size, pairs.target.vocab_size) == (99, 99)
    written = model_of("decoder", ["positions.kind=learned", "positions.max_length=77", "model.stack.dropout=0.5"])
    assert written.stack.positions == Learned(max_length=77)
    assert written.stack.dropout == 0.5
    gpt2 = model_of("gpt2", ["num_layers=3", "bias=false"])
    assert gpt2.stack == replace(
        PRESETS["gpt2"].model.stack, num_layers=3, norm=gpt2.stack.norm,
        attention=gpt2.stack.attention, feed_forward=gpt2.stack.feed_forward,
    )  # fmt: skip
    assert not any(part.bias for part in (gpt2.stack.norm, gpt2.stack.attention, gpt2.stack.feed_forward))


@pytest.mark.parametrize(("target", "settings", "said"), [
    ("gpt3", [], 'no such model; expected a preset, a family, a .toml file, or a folder. Did you mean "gpt2"'),
    ("zzzz", [], "`pellucid size list` shows the presets"),
    ("gpt-4", [], "not published"),
    ("gpt2", ["num_layer=3"], 'num_layer: no such setting in this model. Did you mean "num_layers"'),
    ("gpt2", ["num_layers"], "not a setting; expected key=value"),
    ("gpt2", ["d_model=100"], "model.stack.d_model: found 100"),
    ("gpt2", ["d_model=wide"], "model.stack.d_model: found 'wide'; expected a whole number"),
])  # fmt: skip
def test_what_cannot_be(target, settings, said):
    with pytest.raises(UserError) as caught:
        model_of(target, settings)
    assert said in str(caught.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no config in this folder; expected a run folder"):
        model_of(tmp_path)


def test_size_is_public():
    found = pl.size("bert-base", batch=2)
    assert found.parameters == 109_514_298
    assert found.as_dict()["published"]["counted"] == 109_482_240
    assert pl.size("gpt2", ["num_layers=3"]).published is None
    with pytest.raises(ConfigError, match="vocab_size: found 0; expected the size of the tokenizer"):
        pl.size("decoder", ["vocab_size=0"])
    with pytest.raises(ConfigError, match="the labels to tell apart"):
        pl.size("classifier")
    assert pl.size("classifier", ['labels=["no", "yes"]']).writing is None
