"""The command line as a user calls it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.cli.app import app
from pellucid.errors import UserError

TINY = [
    "training.steps=30", "training.evaluate_every=10", "training.batch_tokens=256",
    "model.stack.d_model=32", "model.stack.num_layers=1", "model.stack.attention.num_heads=2",
    "tokenizer.vocab_size=300", "training.precision=float32",
]  # fmt: skip
PAIRS = [setting.replace("model.stack", f"model.{side}") for side in ("encoder", "decoder") for setting in TINY]


def call(*arguments, cwd, stdin=None, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "pellucid", *map(str, arguments)],
        cwd=cwd, input=stdin, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "COLUMNS": "100"}, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    lines = [f"the {animal} {verb} the {thing}" for animal in ("cat", "dog", "cow") for verb in ("sees", "eats", "has")
             for thing in ("hat", "hay", "ball", "bone")]  # fmt: skip
    (folder / "text.txt").write_text("\n".join(lines * 20))
    (folder / "source.txt").write_text("\n".join(lines * 3))
    (folder / "target.txt").write_text("\n".join(line.upper() for line in lines * 3))
    (folder / "labelled.tsv").write_text("\n".join(f"{line.split()[1]}\t{line}" for line in lines))
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    call("train", "decoder", "--text", "text.txt", "--out", "runs/decoder", *TINY, "objective.length=32", cwd=folder)
    return "runs/decoder"


@pytest.fixture(scope="module")
def encoder(folder):
    call("train", "encoder", "--text", "text.txt", "--out", "runs/encoder", *TINY, "objective.length=32", cwd=folder)
    return "runs/encoder"


def test_decoder(folder, decoder):
    files = {path.name for path in (folder / decoder).iterdir()}
    assert {
        "config.toml",
        "model.safetensors",
        "tokenizer.json",
        "metrics.jsonl",
        "README.md",
        "checksums.json",
    } <= files
    written = call("generate", decoder, "the cat", "--tokens", "12", "--seed", "1", cwd=folder).stdout
    assert written.startswith("the cat")
    assert call("generate", decoder, "the cat", "--tokens", "12", "--seed", "1", cwd=folder).stdout == written
    piped = call("generate", decoder, "--json", "--tokens", "3", cwd=folder, stdin="the\na dog\n").stdout
    assert [json.loads(line)["prompt"] for line in piped.splitlines()] == ["the", "a dog"]
    result = json.loads(call("evaluate", decoder, "--json", "--verify", cwd=folder).stdout)
    assert result["perplexity"] > 1
    assert result["bits_per_byte"] > 0
    for option in (("--beams", "5"), ("--weights", "int8")):
        refused = call("evaluate", decoder, *option, cwd=folder, check=False)
        assert refused.returncode
        assert f"{option[0]}: the data are text, of which nothing is translated" in refused.stderr
    card = (folder / decoder / "README.md").read_text()
    assert "pellucid train decoder" in card
    assert "bits of the whole text over its bytes" in card


def test_encoder(folder, encoder):
    answers = json.loads(call("fill", encoder, "the <mask> has the hat", "--top", "2", "--json", cwd=folder).stdout)
    assert len(answers["answers"]) == 2
    vector = json.loads(call("embed", encoder, "the cat", "--json", cwd=folder).stdout)["embedding"]
    assert len(vector) == 32


def test_encoder_decoder(folder):
    call(
        "train",
        "encoder-decoder",
        "--source",
        "source.txt",
        "--target",
        "target.txt",
        "--out",
        "runs/pairs",
        *PAIRS,
        cwd=folder,
    )
    card = (folder / "runs/pairs/README.md").read_text()
    assert re.search(r"\| bleu \| [\d.]+ \| nrefs:1.*version:", card)
    assert re.search(r"\| translated \| \d+ \|", card)
    done = call("translate", "runs/pairs", "--beams", "2", cwd=folder, stdin="the cat\nthe dog eats the hay\n")
    assert len(done.stdout.splitlines()) == 2
    result = json.loads(call("evaluate", "runs/pairs", "--json", cwd=folder).stdout)
    assert "version:" in result["bleu"]["signature"]
    searched = call("evaluate", "runs/pairs", "--json", "--beams", "2", "--weights", "int8", cwd=folder).stdout
    assert json.loads(searched)["loss"] == result["loss"]  # of the model itself, whatever writes
    assert 0 <= result["exact"] <= 1


@pytest.mark.parametrize("trouble", [UserError("translate", "no room"), KeyboardInterrupt()])
def test_a_run_ends_well_whatever_its_translations_do(folder, monkeypatch, capsys, trouble):
    def fails(*_, **__):
        raise trouble

    monkeypatch.chdir(folder)
    monkeypatch.setattr("pellucid.inference.predict.translate", fails)
    given = ["--source", "source.txt", "--target", "target.txt", "--out", "runs/unjudged", "--force"]
    app(["train", "encoder-decoder", *given, *PAIRS, "training.steps=2"], standalone_mode=False)
    assert f"not judged ({str(trouble) or 'KeyboardInterrupt'})" in capsys.readouterr().out
    card = (folder / "runs/unjudged/README.md").read_text()
    assert "| loss |" in card
    assert "bleu" not in card


def test_classifier(folder):
    call("train", "classifier", "--labelled", "labelled.tsv", "--out", "runs/labels", *TINY, cwd=folder)
    found = json.loads(call("classify", "runs/labels", "the cow has the hay", "--json", cwd=folder).stdout)
    assert set(found["probabilities"]) == {"cat", "dog", "cow"}


def test_data_list(folder):
    rows = [json.loads(line) for line in call("data", "list", "--json", cwd=folder).stdout.splitlines()]
    built_in = {"dates", "python-docs", "reversal", "terms", "languages"}
    assert {row["name"] for row in rows} == built_in | {"multi30k", "tinyshakespeare", "snips", "mnist", "fsdd"}


def test_help_has_an_example(folder):
    for command in ("demo", "train", "evaluate", "generate", "translate", "fill", "classify", "tag", "embed", "data"):
        assert "Example" in call(command, "--help", cwd=folder).stdout


BAD = {
    "no such run": (["translate", "runs/nope", "x"], r"runs/nope: no such folder"),
    "no such file": (["train", "decoder", "--text", "txet.txt"], r"txet\.txt: no such file.*text\.txt"),
    "empty file": (["train", "decoder", "--text", "empty.txt"], r"empty\.txt.*empty"),
    "wrong encoding": (["train", "decoder", "--text", "latin.txt"], r"latin\.txt.*UTF-8"),
    "short side": (["train", "encoder-decoder", "--source", "source.txt", "--target", "short.txt"], r"108.*107|107.*108"),
    "one side": (["train", "encoder-decoder", "--source", "source.txt"], r"--target: missing"),
    "no data": (["train", "decoder"], r"no data; expected --text"),
    "unknown recipe": (["train", "nope.toml"], r"nope\.toml: no such file"),
    "unknown family": (["train", "decodr", "--text", "text.txt"], r'Did you mean "decoder"'),
    "unknown setting": (["train", "decoder", "--text", "text.txt", "training.step=5"], r'training\.step: no such setting.*"steps"'),
    "too long": (
        ["train", "decoder", "--text", "text.txt", "model.stack.positions.kind=learned", "model.stack.positions.max_length=16"],
        r"objective\.length: found 256; expected at most 16",
    ),
    "unknown set": (["train", "decoder", "--data", "shakespeare"], r"shakespeare.*tinyshakespeare"),
    "unknown demo": (["demo", "decodor"], r'Did you mean "decoder"'),
    "no gpu": (["translate", "runs/nope", "x", "--device", "abacus"], r"runs/nope|abacus"),
    "unknown command": (["trian"], r"train"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_paragraph(folder, case):
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 200)
    (folder / "short.txt").write_text("\n".join(["X"] * 107))
    arguments, message = BAD[case]
    done = (
        call(*arguments, "--out", "runs/bad", cwd=folder, check=False)
        if arguments[0] == "train"
        else call(*arguments, cwd=folder, check=False)
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(message, " ".join(done.stderr.split())), done.stderr
    assert not (folder / "runs/bad/model.safetensors").exists()


def test_debug_shows_the_traceback(folder):
    done = call("translate", "runs/nope", "x", "--debug", cwd=folder, check=False)
    assert "Traceback" in done.stderr


def test_a_run_is_not_overwritten_by_accident(folder, decoder):
    before = (folder / decoder / "model.safetensors").read_bytes()
    done = call("train", "decoder", "--text", "text.txt", "--out", decoder, cwd=folder, check=False)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (folder / decoder / "model.safetensors").read_bytes() == before


def test_a_torn_checkpoint_is_told(folder, encoder):
    weights = folder / encoder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    done = call("fill", encoder, "the <mask>", cwd=folder, check=False)
    weights.write_bytes(whole)
    assert done.returncode == 2
    assert "torn" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to write to")
def test_an_error_of_the_system_that_is_text_alone_is_told(monkeypatch, capsys):
    from pellucid.cli import app

    def fails():
        raise OSError("nothing of that name")

    monkeypatch.setattr(app, "app", fails)
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == "pellucid: input or output: nothing of that name.\n"


def test_a_full_disk_is_told(folder):
    (folder / "runs/full").mkdir(parents=True)
    (folder / "runs/full/.part-config.toml").symlink_to("/dev/full")  # where a file is written before it is renamed
    done = call(
        "train",
        "decoder",
        "--text",
        "text.txt",
        "--out",
        "runs/full",
        *TINY,
        "objective.length=32",
        cwd=folder,
        check=False,
    )
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_saves_and_leaves_cleanly(folder):
    command = [
        sys.executable,
        "-m",
        "pellucid",
        "train",
        "decoder",
        "--text",
        "text.txt",
        "--out",
        "runs/stopped",
        *TINY,
    ]
    command += ["training.steps=100000", "training.evaluate_every=0", "objective.length=32"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = folder / "runs/stopped/metrics.jsonl"
    deadline = time.time() + 60
    while not (metrics.exists() and metrics.read_text()) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "everything is saved" in out
    assert "ended already" not in out
    again = call(*command[3:], cwd=folder, check=False)
    assert again.returncode == 2
    assert "a run is there already" in again.stderr
    assert call("generate", "runs/stopped", "the", "--tokens", "3", cwd=folder).stdout.startswith("the")


def test_texts_go_in_and_out_as_utf8_whatever_the_system_speaks(folder, decoder, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    said = call("generate", decoder, "--json", "--tokens", "1", cwd=folder, stdin="\ufeffthé →\n").stdout
    assert json.loads(said)["prompt"] == "thé →"
    assert call("generate", decoder, "thé →", "--tokens", "1", cwd=folder).stdout.startswith("thé →")


def test_a_reader_that_has_had_enough_is_told_nothing(folder):
    """`pellucid … | head -1` ends as other programs do, in a shell that looks at every part of a pipe."""
    end, start = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "pellucid", "data", "list"]
    done = subprocess.run(command, cwd=folder, stdout=start, stderr=subprocess.PIPE, check=False)
    os.close(start)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_connection_that_breaks_is_an_error(folder):
    lines = (
        "import sys", "from pellucid.cli.app import app, main", "@app.command()",
        "def broken(): raise BrokenPipeError(32, 'Broken pipe')", "sys.argv = ['pellucid', 'broken']", "main()",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "pellucid: input or output: Broken pipe.\n")
