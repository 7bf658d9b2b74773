"""`pellucid diff` as a user calls it."""

import json
import subprocess
import sys

import pytest
import torch
from families import FAMILIES, STACK

from pellucid.cli import app
from pellucid.config import model as config
from pellucid.config.defaults import fitted
from pellucid.config.run import Causal, Characters, NoData, Run, fitting_objectives
from pellucid.data import Tokenizer
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each family twice: as it is, and with a transposed key."""
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = Tokenizer.train(Characters(), ["abcdefgh "])
    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    described = {
        "encoder": config.Encoder(front=front, stack=STACK),
        "decoder": config.Decoder(front=front, stack=STACK),
        "encoder_decoder": config.EncoderDecoder(source=front, encoder=STACK, target=front, decoder=STACK),
    }
    for family, described_model in described.items():
        objective = (
            fitted(Causal(), described_model) if family == "decoder" else fitting_objectives(described_model)[0]()
        )
        run = Run(model=described_model, data=NoData(), tokenizer=Characters(), objective=objective)
        model = build(described_model)
        save_run(folder / family, model, tokenizer, run)
        side = model.decoder if family == "encoder_decoder" else model
        with torch.no_grad():
            key = side.blocks[1].self_attention.key.weight
            key.copy_(key.mT.clone())
        save_run(folder / f"{family}-wrong", model, tokenizer, run)
    return folder


@pytest.fixture
def pellucid(runs, monkeypatch, capsys):
    def call(*arguments, code):
        monkeypatch.chdir(runs)
        monkeypatch.setattr(sys, "argv", ["pellucid", "diff", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            app.main()
        told = capsys.readouterr()
        assert left.value.code == code, told
        return told

    return call


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_and_not(pellucid, family):
    assert pellucid(family, family, code=0).out.startswith("equal: ")
    prefix = "decoder." if family == "encoder_decoder" else ""
    told = pellucid(family, f"{family}-wrong", "--text", "abc", code=1).out
    assert f"parts at {prefix}blocks.1.self_attention.k_projected" in told
    assert f"transposing {prefix}blocks.1.self_attention.key.weight of B makes it agree to" in told
    found = json.loads(pellucid(family, f"{family}-wrong", "--json", code=1).out)
    assert found["first"]["name"] == f"{prefix}blocks.1.self_attention.k_projected"
    assert found["causes"][0]["left"] <= 1e-9


def test_a_test_that_holds_and_fails(pellucid, runs):
    pellucid("decoder", "decoder", "--save-test", "test_same.py", code=0)
    pellucid("decoder", "decoder-wrong", "--save-test", "test_wrong.py", code=1)
    for name, code in (("test_same.py", 0), ("test_wrong.py", 1)):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", name], cwd=runs, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout
    assert "test_same.py exists" in pellucid("decoder", "decoder", "--save-test", "test_same.py", code=2).err


@pytest.mark.parametrize("family", FAMILIES)
def test_one_model_in_two_ways(pellucid, family):
    assert pellucid(family, "--kernel", "explicit", code=0).out.startswith("equal: ")
    assert pellucid(family, "--dtype", "float64", code=0).out.startswith("equal: ")
    assert "rounded to bfloat16" in pellucid(family, "--dtype", "bfloat16", code=1).out
    if family == "encoder":
        assert "no cache" in pellucid(family, "--cached", code=2).err
    else:
        assert pellucid(family, "--cached", "--text", "abc abc", code=0).out.startswith("equal: ")


def test_what_cannot_be_compared(pellucid):
    assert "nothing or too much to compare with" in pellucid("decoder", code=2).err
    assert "nothing or too much" in pellucid("decoder", "decoder", "--cached", code=2).err
    assert 'Did you mean "sdpa"' in pellucid("decoder", "--kernel", "sdap", code=2).err
    assert "two models of one family" in pellucid("decoder", "encoder_decoder", code=2).err
    assert "no such folder" in pellucid("decoder", "decodr", code=2).err
