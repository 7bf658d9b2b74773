"""`generate` and `translate` with all that can be asked of a text."""

import io
import json
import re
from dataclasses import replace

import pytest
import torch
import typer
from families import STACK

from pellucid.cli.app import app
from pellucid.cli.common import open_fast
from pellucid.config import model as config
from pellucid.config.defaults import default_run, demo_run
from pellucid.config.run import Characters, TextFiles
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run

LETTERS = 'abcdef {}:",0123'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A decoder and an encoder–decoder that have learned nothing."""
    folder, tokenizer = tmp_path_factory.mktemp("writing"), Tokenizer.train(Characters(), [LETTERS])
    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    two = config.EncoderDecoder(source=front, encoder=STACK, target=front, decoder=STACK)
    for name, described, run in (
        ("one", config.Decoder(front=front, stack=STACK), default_run("decoder", TextFiles(train=("x",)))),
        ("two", two, demo_run("encoder-decoder")),
    ):
        torch.manual_seed(3)
        model = build(described).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        save_run(folder / name, model, tokenizer, replace(run, model=described))
    return folder


@pytest.fixture
def said(runs, capsys):
    def call(command, *arguments):
        capsys.readouterr()
        name = runs / ("one" if command == "generate" else "two")
        app([command, str(name), *map(str, arguments), "--device", "cpu"], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_an_engine_on_a_cpu_is_given_large_pages(runs, monkeypatch):
    asked = []
    monkeypatch.setattr("pellucid.nn.memory.huge_pages", lambda: asked.append("asked"))
    open_fast(runs / "one", "cpu", False, "int8")
    assert asked == ["asked"]
    with pytest.raises(UserError, match="expected float32, float16, bfloat16 or int8"):
        open_fast(runs / "one", "cpu", False, "int4")


def test_generate(said):
    greedy = ("--temperature", 0, "--tokens", 9)
    free = said("generate", "ab", *greedy).rstrip("\n")
    assert free.startswith("ab")
    once = said("generate", "ab", *greedy, "--no-repeat", 1).rstrip("\n")[2:]
    assert len(set(once)) == len(once)
    never = free[2]
    assert never not in said("generate", "ab", *greedy, "--bad-word", never).rstrip("\n")[2:]
    assert said("generate", "ab", *greedy, "--stop", free[3:5]).rstrip("\n") == free[: 2 + free[2:].find(free[3:5])]
    lines = said("generate", "ab", "b", *greedy, "--json", "--logprobs", 2, "--bias", "7=99", "--min-tokens", 9)
    for line in map(json.loads, lines.splitlines()):
        assert line["reason"] == "length"
        assert [token["id"] for token in line["tokens"]] == [7] * 9
        assert all(len(token["best"]) == 2 and token["logprob"] <= 0 for token in line["tokens"])
        assert line["text"] == line["tokens"][0]["piece"] * 9
    penalised = ("--repetition-penalty", 1.5, "--presence-penalty", 0.3, "--frequency-penalty", 0.2, "--typical", 0.9)
    assert said("generate", "ab", "--tokens", 5, *penalised)


def test_translate(said):
    lines = said("translate", "a fad", "--beams", 3, "--best", 3, "--json", "--logprobs", 0, "--align", "--tokens", 5)
    found = [json.loads(line) for line in lines.splitlines()]
    assert len(found) == 3
    assert found[0]["score"] >= found[1]["score"] >= found[2]["score"]
    for one in found:
        assert one["words"]["source"] == ["a", "fad"]
        assert one["words"]["target"] == one["target"].split()
        assert [of for _, of in one["words"]["pairs"]] == list(range(len(one["words"]["target"])))
    forced = ("--prefix", "fed", "--replace-unknown", "--tokens", 6)
    for search in ((), ("--beams", 2, "--patience", 1, "--coverage", 0.2)):
        assert said("translate", "ab", "cab", *forced, *search).startswith("fed")
    assert said("translate", "ab", "--prefix", "fed", "--prefix-bias", 0.999, "--tokens", 6).startswith("fed")


@pytest.mark.parametrize("guess", ["lookup", "draft"])
def test_guesses_change_nothing_that_is_written(said, runs, guess):
    ahead = ("--lookup",) if guess == "lookup" else ("--draft", runs / "one", "--guesses", 3)
    greedy = ("--temperature", 0, "--tokens", 12)
    for more in ((), ("--no-repeat", 2), ("--stop", "c"), ("--regex", "(ab|[cd]{2})*e"), ("--min-tokens", 5)):
        lines = [
            said("generate", "ab", "abcab", *greedy, *more, "--json", "--logprobs", 0, *way) for way in ((), ahead)
        ]
        for alone, guessed in zip(*([json.loads(line) for line in text.splitlines()] for text in lines), strict=True):
            assert [guessed[key] for key in ("prompt", "text", "reason")] == [
                alone[key] for key in ("prompt", "text", "reason")
            ]
            assert [one["logprob"] for one in guessed["tokens"]] == pytest.approx(
                [one["logprob"] for one in alone["tokens"]], abs=1e-4
            )
            assert guess == "lookup" or guessed["accepted"] == guessed["guessed"] > 0  # by itself
    assert said("generate", "ab", *greedy, *ahead) == said("generate", "ab", *greedy)
    assert said("generate", "ab", *ahead, "--seed", 3)  # drawn


def test_forms(said, tmp_path):
    pytest.importorskip("llguidance")
    assert re.fullmatch(r"ab(cd|ef)1\n", said("generate", "ab", "--regex", "(cd|ef)1"))
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"a": {"enum": [1, 2, 3]}}, "required": ["a"], "additionalProperties": false}'
    )
    for beams in (1, 3):
        assert json.loads(said("translate", "ab", "--beams", beams, "--schema", schema))["a"] in (1, 2, 3)
    assert said("generate", "a", "--schema", '{"enum": ["abc"]}') == 'a"abc"\n'


@pytest.mark.parametrize(("arguments", "message"), [
    (["generate", "a", "--bias", "x=1"], r"--bias: found \"x=1\"; expected a token's id and a number"),
    (["generate", "a", "--bias", "9999=1"], "logit_bias: found 9999"),
    (["generate", "a", "--schema", "/nowhere.json"], "--schema: /nowhere.json cannot be read"),
    (["generate", "a", "--repetition-penalty", "0"], "repetition_penalty: found 0"),
    (["generate", "a", "--stop", ""], "stop: found an empty text"),
    (["generate", "a", "--lookup", "--draft", "."], "--draft: --lookup too; expected one way to guess"),
    (["translate", "a", "--best", "2"], "best: found 2; expected from 1 to 1"),
    (["translate", "a", "--prefix", "b", "--prefix-bias", "1"], "prefix_bias"),
])  # fmt: skip
def test_what_cannot_be_asked(said, arguments, message):
    with pytest.raises(UserError, match=message):
        said(*arguments)


@pytest.mark.parametrize(
    ("arguments", "idle"),
    [
        (("translate", "ab", "--coverage", 0.2), "--coverage"),
        (("translate", "ab", "--patience", 1), "--patience"),
        (("translate", "ab", "--length-penalty", "wu:1"), "--length-penalty"),
        (("translate", "ab", "--prefix-bias", 0.5), "--prefix-bias"),
        (("generate", "ab", "--guesses", 3), "--guesses"),
    ],
)
def test_options_that_could_not_be_obeyed_are_refused(said, arguments, idle):
    with pytest.raises(UserError, match=idle):
        said(*arguments)


@pytest.mark.parametrize("command", ["generate", "translate"])
def test_at_least_one_token(said, command):
    with pytest.raises(typer.BadParameter, match=r"equal to 1|in the range"):
        said(command, "ab", "--tokens", 0)


def test_lines_of_windows(said, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffab\r\nba\r\n"))
    lines = said("generate", "--tokens", 1, "--json").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["ab", "ba"]


def test_guesses_are_told_where_there_were_none(said):
    told = json.loads(said("generate", "ab", "--tokens", 1, "--lookup", "--json"))
    assert (told["guessed"], told["accepted"]) == (0, 0)
