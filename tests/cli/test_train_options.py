"""Options of `train` and `evaluate` are obeyed or refused, never passed over."""

from pathlib import Path

import pytest

from pellucid.cli.app import app
from pellucid.cli.demo import _check_free
from pellucid.config.defaults import default_run, demo_run
from pellucid.config.files import save_config
from pellucid.config.run import TextFiles
from pellucid.errors import UserError

TEXT = ("--text", "notes.txt")
IDLE = {
    "--lora without --from": (["train", "decoder", *TEXT, "--lora", "8"], r"--lora: without --from"),
    "--freeze without --from": (["train", "recipe.toml", "--freeze", "blocks.*"], r"--freeze: without --from"),
    "--shard alone": (["train", "decoder", *TEXT, "--shard"], r"--shard: one process alone; expected several"),
    "one side": (["evaluate", "runs/x", "--source", "a.txt"], r"--target: missing"),
    "a tokenizer beside --from": (
        ["train", "--from", "runs/y", *TEXT, "tokenizer.vocab_size=500"],
        r"tokenizer.vocab_size=500: a tokenizer beside --from",
    ),
    "--mirror beside files": (["train", "decoder", *TEXT, "--mirror", "data"], r"--mirror: files of your own"),
    "a device that is not there": (["train", "decoder", *TEXT, "--device", "cpu:7"], r'--device: no "cpu:7"'),
    "--logprobs without --json": (["generate", "runs/x", "a", "--logprobs", "2"], r"--logprobs: texts alone"),
    "--align without --json": (["translate", "runs/x", "a", "--align"], r"--align: texts alone"),
    "two kinds": (["evaluate", "runs/x", *TEXT, "--labelled", "a.tsv"], r"data: 2 kinds; expected one of --text"),
}
for more in (
    ["training.steps=5"], ["--seed", "0"], ["--out", "runs/y"], [*TEXT], ["--from", "runs/y"], ["--lora", "8"],
    ["--freeze", "blocks.*"], ["--data", "dates"], ["--labelled", "a.tsv"], ["--force"],
):  # fmt: skip
    IDLE[f"--resume {more[0]}"] = (["train", "--resume", "runs/x", *more], rf"--resume: together with {more[0]}")


@pytest.mark.parametrize("case", IDLE)
def test_what_cannot_be_obeyed_is_refused(case):
    arguments, message = IDLE[case]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    with pytest.raises(UserError, match=message):
        app([*arguments, *device], standalone_mode=False)


def test_a_setting_names_no_folder(monkeypatch):
    usual, seen = default_run("decoder", TextFiles(train=("notes.txt",))), []
    monkeypatch.setattr("pellucid.models.load.describe", lambda path: (usual.model, usual.objective, None))
    monkeypatch.setattr("pellucid.cli.train._train", lambda run, folder, **how: seen.append((run, folder)))
    app(["train", "--from", "runs/notes", *TEXT, "training.steps=500"], standalone_mode=False)
    ((run, folder),) = seen
    assert folder == Path("runs/notes-tuned")
    assert (run.training.steps, run.start.path) == (500, "runs/notes")


def test_a_demonstration_replaces_itself_alone(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(UserError, match="another model is there already"):
            app(["demo", "decoder", "--out", str(tmp_path)], standalone_mode=False)
        (tmp_path / name).unlink()
    mine = default_run("decoder", TextFiles(train=("notes.txt",)))
    save_config(mine, tmp_path / "config.toml")
    with pytest.raises(UserError, match="another model is there already"):
        app(["demo", "decoder", "--out", str(tmp_path)], standalone_mode=False)
    save_config(demo_run("decoder"), tmp_path / "config.toml")
    _check_free(tmp_path, demo_run("decoder"))
