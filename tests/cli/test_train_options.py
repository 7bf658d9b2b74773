"""Options of `train` and `evaluate` are obeyed or refused, never passed over."""

from pathlib import Path

import pytest

from pellucid.cli.app import app
from pellucid.config.defaults import default_run
from pellucid.config.run import TextFiles
from pellucid.errors import UserError

TEXT = ("--text", "notes.txt")
IDLE = {
    "--lora without --from": (["train", "decoder", *TEXT, "--lora", "8"], r"--lora: without --from"),
    "--freeze without --from": (["train", "recipe.toml", "--freeze", "blocks.*"], r"--freeze: without --from"),
    "--shard alone": (["train", "decoder", *TEXT, "--shard"], r"--shard: one process alone; expected several"),
    "one side": (["evaluate", "runs/x", "--source", "a.txt"], r"--target: missing"),
    "two kinds": (["evaluate", "runs/x", *TEXT, "--labelled", "a.tsv"], r"data: 2 kinds; expected one of --text"),
}
for more in (
    ["training.steps=5"], ["--seed", "0"], ["--out", "runs/y"], [*TEXT], ["--from", "runs/y"], ["--lora", "8"],
    ["--freeze", "blocks.*"], ["--data", "dates"], ["--labelled", "a.tsv"],
):  # fmt: skip
    IDLE[f"--resume {more[0]}"] = (["train", "--resume", "runs/x", *more], rf"--resume: together with {more[0]}")


@pytest.mark.parametrize("case", IDLE)
def test_what_cannot_be_obeyed_is_refused(case):
    arguments, message = IDLE[case]
    with pytest.raises(UserError, match=message):
        app([*arguments, "--device", "cpu"], standalone_mode=False)


def test_a_setting_names_no_folder(monkeypatch):
    usual, seen = default_run("decoder", TextFiles(train=("notes.txt",))), []
    monkeypatch.setattr("pellucid.models.load.describe", lambda path: (usual.model, usual.objective, None))
    monkeypatch.setattr("pellucid.cli.train._train", lambda run, folder, **how: seen.append((run, folder)))
    app(["train", "--from", "runs/notes", *TEXT, "training.steps=500"], standalone_mode=False)
    ((run, folder),) = seen
    assert folder == Path("runs/notes-tuned")
    assert (run.training.steps, run.start.path) == (500, "runs/notes")
