"""`pellucid trace` as a user calls it, on a small run of each family."""

import json
import sys

import pytest
from families import FAMILIES, STACK

from pellucid.cli import app
from pellucid.config import model as config
from pellucid.config.defaults import fitted
from pellucid.config.run import Causal, Characters, NoData, Run, fitting_objectives
from pellucid.data import Tokenizer
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run
from pellucid.trace import Tape


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = Tokenizer.train(Characters(), ["abcdefgh "])
    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    models = {
        "encoder": config.Encoder(front=front, stack=STACK),
        "decoder": config.Decoder(front=front, stack=STACK),
        "encoder_decoder": config.EncoderDecoder(source=front, encoder=STACK, target=front, decoder=STACK),
    }
    for family, model in models.items():
        objective = fitted(Causal(), model) if family == "decoder" else fitting_objectives(model)[0]()
        run = Run(model=model, data=NoData(), tokenizer=Characters(), objective=objective)
        save_run(folder / family, build(model), tokenizer, run)
    return folder


@pytest.fixture
def pellucid(runs, monkeypatch, capsys):
    def call(*arguments, code=0):
        monkeypatch.chdir(runs)
        monkeypatch.setattr(sys, "argv", ["pellucid", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            app.main()
        assert left.value.code == code, capsys.readouterr()
        return capsys.readouterr()

    return call


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_in_a_table(pellucid, family):
    told = pellucid("trace", family, "abc def").out
    prefix = "decoder." if family == "encoder_decoder" else ""
    assert "0:" in told.splitlines()[0]
    assert f"{prefix}blocks.1.self_attention.weights" in told
    assert "exp(score) / Σ exp(scores)" in told
    assert ("writes" in told) == (family == "encoder_decoder")


def test_json(pellucid):
    told = json.loads(pellucid("trace", "decoder", "abc", "--watch", "*.scores", "--json").out)
    assert [tensor["name"] for tensor in told["tensors"]] == [f"blocks.{i}.self_attention.scores" for i in (0, 1)]
    assert told["tensors"][0]["shape"] == [1, 4, len(told["reads"]), len(told["reads"])]
    assert told["tensors"][0]["infinite"] > 0
    assert told["writes"] is None


def test_numbers_are_explained(pellucid):
    address = "decoder.blocks.1.cross_attention.scores[0, 2, -1, 0]"
    arguments = ("trace", "encoder_decoder", "abc", "--target", "de", "--explain", address)
    told = pellucid(*arguments, "--terms", 2).out
    assert "decoder.blocks.1.cross_attention.q[0, 2, " in told
    assert "6 other terms" in told
    assert "residual_post" not in told  # only what was asked for
    found = json.loads(pellucid(*arguments, "--json").out)["explanations"][0]
    assert found["error"] <= 1e-5
    assert len(found["terms"]) == 8
    hidden = "blocks.0.self_attention.scores[0,0,0,1]"
    told = json.loads(pellucid("trace", "decoder", "abc", "--explain", hidden, "--json").out)
    assert told["explanations"][0]["captured"] == "-inf"


def test_a_number_as_a_program(pellucid, capsys):
    address = "blocks.0.self_attention.scores[0, 2, 3, 1]"
    arguments = ("trace", "decoder", "abcd", "--explain", address)
    told = pellucid(*arguments, "--script").out
    assert told.startswith(f"# {address}: Σ q · k · scale + bias, masked\nimport torch\n")
    found = json.loads(pellucid(*arguments, "--json").out)["explanations"][0]
    assert found["script"] == told
    exec(told, {})
    assert float(capsys.readouterr().out) == pytest.approx(found["captured"], abs=1e-6)
    twice = pellucid(*arguments, "--explain", "logits[0, 0, 0]", "--script").out
    exec(twice, {})
    assert len(capsys.readouterr().out.split()) == 2


def test_a_picture_and_a_tape(pellucid, runs):
    name = "decoder.blocks.0.cross_attention.weights"
    pellucid("trace", "encoder_decoder", "abc", "--watch", name, "--picture", "w.svg", "--save", "tape")
    assert "<svg" in (runs / "w.svg").read_text()
    assert list(Tape.load(runs / "tape")) == [name]
    told = pellucid("trace", "encoder_decoder", "abc", "--save", "tape", code=2).err
    assert "tape exists; expected a new folder" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "blocks.0.self_attention.weigths"], 'Did you mean "blocks.0.self_attention.weights"?'),
        (["--explain", "logits"], 'found "logits"; expected such as blocks.0.self_attention.scores[0, 2, 3, 1]'),
        (["--explain", "logits[0,99,0]"], "logits[0, 99, 0]: the tensor has the shape [1, "),
        (["--explain", "logits[0]"], "3 numbers within it"),
        (["--explain", "blocks.0.oops[0]"], '"blocks.0.oops": no such tensor'),
        (["--watch", "blocks.0.typo", "--explain", "logits[0, 0, 0]"], '"blocks.0.typo" matches none of'),
        (["--script"], 'found no number to write as a program; expected --explain "NAME[INDEX]"'),
        (["--target", "x"], "reads one text; expected an encoder–decoder"),
        (["--picture", "x.png"], "tensors are watched; expected one"),
        (["--watch", "*0.residual_pre", "--picture", "x.nope"], "x.nope: cannot be written"),
    ],
)
def test_misuse_is_told_in_one_paragraph(pellucid, arguments, message):
    told = pellucid("trace", "decoder", "abc", *arguments, code=2).err
    assert message in told
    assert told.count("\n") == 1
