"""Published folders on the command line: out of a run, used as a run, trained on, and back."""

import json
import sys

import pytest

from pellucid.cli.app import app, main

TINY = [
    "training.steps=20", "training.evaluate_every=10", "training.batch_tokens=256", "training.precision=float32",
    "tokenizer.vocab_size=300",
]  # fmt: skip
SIZES = {"d_model": 32, "num_layers": 1, "attention.num_heads": 2}
PAIRS = [f"model.{side}.{name}={value}" for side in ("encoder", "decoder") for name, value in SIZES.items()]
ALONE = [f"model.stack.{name}={value}" for name, value in SIZES.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    lines = [f"the {animal} {verb} the {thing}" for animal in ("cat", "dog", "cow") for verb in ("sees", "eats", "has")
             for thing in ("hat", "hay", "ball", "bone")]  # fmt: skip
    (folder / "text.txt").write_text("\n".join(lines * 20))
    (folder / "source.txt").write_text("\n".join(lines * 3))
    (folder / "target.txt").write_text("\n".join(line.upper() for line in lines * 3))
    return folder


def call(folder, *arguments):
    app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def decoder(folder):
    text = ["--text", folder / "text.txt", "--out", folder / "decoder"]
    call(folder, "train", "decoder", *text, *TINY, *ALONE, "objective.length=32")
    call(folder, "convert", folder / "decoder", folder / "decoder-hf", "--to", "hf")
    return folder / "decoder-hf"


@pytest.fixture(scope="module")
def pairs(folder):
    texts = ["--source", folder / "source.txt", "--target", folder / "target.txt"]
    call(folder, "train", "encoder-decoder", *texts, "--out", folder / "pairs", *TINY, *PAIRS)
    call(folder, "convert", folder / "pairs", folder / "pairs-hf", "--to", "hf")
    return folder / "pairs-hf"


def said(capsys, folder, *arguments):
    capsys.readouterr()
    call(folder, *arguments)
    return capsys.readouterr().out


def test_a_decoder_goes_out_and_comes_back(folder, decoder, capsys):
    run = folder / "decoder"
    written = [
        said(capsys, folder, "generate", place, "the cat", "--temperature", 0, "--tokens", 8, "--device", "cpu")
        for place in (run, decoder)
    ]
    assert written[0] == written[1]
    call(folder, "convert", decoder, folder / "back", "--to", "pellucid")
    again = said(capsys, folder, "generate", folder / "back", "the cat", "--temperature", 0, "--tokens", 8)
    assert again == written[0]
    losses = [
        json.loads(said(capsys, folder, "evaluate", place, "--text", folder / "text.txt", "--json"))["loss"]
        for place in (decoder, folder / "back")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_pairs_go_out_and_come_back(folder, pairs, capsys):
    texts = ["the cat sees the hat", "the dog"]
    for options in ([], ["--beams", 3, "--length-penalty", "power:1.0"]):
        found = [said(capsys, folder, "translate", place, *texts, *options) for place in (folder / "pairs", pairs)]
        assert found[0] == found[1]


def test_training_goes_on_from_a_published_model(folder, decoder, pairs, capsys):
    text = ["--text", folder / "text.txt", "--out", folder / "tuned"]
    call(
        folder,
        "train",
        "--from",
        decoder,
        *text,
        "training.steps=5",
        "training.batch_tokens=256",
        "objective.length=32",
    )
    told = said(capsys, folder, "generate", folder / "tuned", "the cat", "--temperature", 0, "--tokens", 8)
    assert told.startswith("the cat")
    texts = ["--source", folder / "source.txt", "--target", folder / "target.txt", "--out", folder / "tuned-pairs"]
    call(folder, "train", "--from", pairs, *texts, "training.steps=5", "training.batch_tokens=256")
    assert "conventions" in (folder / "tuned-pairs" / "config.toml").read_text()
    assert said(capsys, folder, "translate", folder / "tuned-pairs", "the cat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "decoder-hf"], "a published model says no data; expected --text"),
        (["translate", "pairs-hf", "x", "--length-penalty", "wo:1"], 'found "wo:1"; expected wu:0.6'),
        (["translate", "decoder-hf", "x"], "expected an encoder–decoder"),
        (["convert", "decoder", "pairs-hf", "--to", "hf"], "is not empty"),
        (["classify", "decoder-hf", "x"], "expected an encoder with a classification head"),
    ],
)
def test_what_is_said(folder, decoder, pairs, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pellucid", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert message in capsys.readouterr().err
