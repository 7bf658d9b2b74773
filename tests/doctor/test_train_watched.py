"""``pellucid train --watch``: figures among the metrics, and not a bit of the weights changed."""

import json
from pathlib import Path

import pytest
import torch

from pellucid.cli.watching import Watching, _arguments
from pellucid.config.defaults import default_run
from pellucid.config.run import LabelledFiles, ParallelFiles, TextFiles
from pellucid.config.schema import from_dict, to_dict, with_overrides
from pellucid.training.fit import Remark, fit
from pellucid.training.session import prepare

SMALL = {"d_model": 32, "num_layers": 2, "attention.num_heads": 2}
TRAINING = ["steps=40", "evaluate_every=20", "batch_tokens=256", "precision=float32", "schedule.warmup_steps=10"]


def small_run(family, folder: Path, *more):
    """A run of a family on some lines of text."""
    lines = [
        f"the {a} {b} the {c}" for a in ("cat", "dog", "cow") for b in ("sees", "eats", "has") for c in ("hat", "hay")
    ]
    (folder / "a.txt").write_text("\n".join(lines * 10))
    (folder / "b.txt").write_text("\n".join(line.upper() for line in lines * 10))
    (folder / "c.tsv").write_text("\n".join(f"{line.split()[1]}\t{line}" for line in lines * 3))
    data = {
        "encoder-decoder": ParallelFiles(source=str(folder / "a.txt"), target=str(folder / "b.txt")),
        "classifier": LabelledFiles(train=str(folder / "c.tsv")),
    }.get(family, TextFiles(train=(str(folder / "a.txt"),)))
    stacks = ("encoder", "decoder") if family == "encoder-decoder" else ("stack",)
    settings = [f"model.{stack}.{name}={value}" for stack in stacks for name, value in SMALL.items()]
    settings += [f"training.{setting}" for setting in TRAINING] + ["tokenizer.vocab_size=300", *more]
    return from_dict(type(default_run(family, data)), with_overrides(to_dict(default_run(family, data)), settings))


def followed(run, folder, *, watched):
    """Trains it; what the doctor wrote into the metrics, its remarks, and the weights."""
    session = prepare(run)
    watching = Watching(session.run)
    events = list(fit(session, folder, **({"observer": watching} if watched else {})))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    remarks = [event.text for event in events if isinstance(event, Remark)]
    return [line for line in lines if "doctor" in line], remarks, session.model.state_dict(), watching


@pytest.mark.parametrize("family", ["decoder", "encoder", "encoder-decoder", "classifier"])
def test_the_command_writes_figures_and_changes_no_bit(tmp_path, family):
    run = small_run(family, tmp_path)
    lines, remarks, weights, watching = followed(run, tmp_path / "watched", watched=True)
    plain, _, alone, _ = followed(run, tmp_path / "alone", watched=False)
    assert [line["step"] for line in lines] == [1, 10, 20, 30, 40]
    assert not plain
    assert {"gradient_norm", "update_ratio", "residual_growth", "findings"} <= lines[-1]["doctor"].keys()
    assert ("entropy" in lines[-1]["doctor"]) == (family != "classifier")  # whose texts have fewer than 8 tokens
    assert not remarks
    assert watching.summary() == "watched, every 10 steps: nothing that stayed wrong"
    assert all(torch.equal(value, alone[name]) for name, value in weights.items())


def test_a_curriculum_is_looked_at_in_the_lengths_that_are_trained(tmp_path, monkeypatch):
    lengths = []

    def noted(model, batch):
        lengths.append(batch.tokens.size(1))
        return _arguments(model, batch)

    monkeypatch.setattr("pellucid.cli.watching._arguments", noted)
    run = small_run("decoder", tmp_path, "objective.length=32", "objective.curriculum_steps=30")
    followed(run, tmp_path / "run", watched=True)
    assert lengths == [4, 8, 16, 16, 32]  # of steps 1, 10, 20, 30 and 40


def test_the_command_says_what_it_finds(tmp_path):
    run = small_run("decoder", tmp_path, "training.schedule.peak=0.05")
    lines, remarks, _, watching = followed(run, tmp_path / "run", watched=True)
    said = [remark for remark in remarks if remark.startswith("FAIL schedule.warmup: the learning rate reaches 0.0")]
    assert len(said) == 1  # once, though it goes on
    assert lines[-1]["doctor"]["findings"] >= 1
    assert "schedule.warmup" in watching.summary()
