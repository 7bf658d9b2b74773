"""Several processes on gloo train as one does: the same losses, the same weights, and one goes on where they stopped."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import session

from pellucid.cli.train import _goes_on, _is_same
from pellucid.config.defaults import default_run
from pellucid.config.optimisation import Checkpoints
from pellucid.config.run import Characters, LabelledFiles
from pellucid.config.start import Pretrained
from pellucid.data.batch import IGNORE, Batch
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import ConfigError, UserError
from pellucid.models.checkpoint import save_description
from pellucid.training.distributed import World
from pellucid.training.fit import fit

SETTINGS = [
    "training.steps=12", "training.evaluate_every=6", "training.batch_tokens=96", "training.accumulate=2",
    "training.precision=float32", "objective.length=16", "tokenizer.vocab_size=300", "training.schedule.warmup_steps=2",
    "model.stack.d_model=32", "model.stack.num_layers=2", "model.stack.attention.num_heads=2",
]  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [2, 3])
def test_every_row_is_worked_on_once(rows, size):
    tokens = torch.arange(rows * 3).view(rows, 3)
    batch = Batch(tokens, tokens.clone(), keep=tokens >= 0)
    shares = [World(rank, size).share(batch) for rank in range(size)]
    asked = torch.cat([share.labels[share.labels != IGNORE] for share in shares])
    assert sorted(asked.tolist()) == list(range(rows * 3))
    assert all(share.tokens.size(0) >= 1 for share in shares)


@pytest.mark.parametrize("seed", [0, 1337, 2**27])
def test_the_seed_of_a_process_is_the_one_it_always_was(seed):
    World(1, 2).seed(seed, 7)
    found = torch.rand(3)
    torch.manual_seed((seed * 1_000_003 + 7) * 65_537 + 1)
    assert torch.equal(found, torch.rand(3))


def test_a_large_seed_is_one_too():
    World(1, 2).seed(2**60, 7)
    found = torch.rand(3)
    World(0, 2).seed(2**60, 7)
    assert not torch.equal(found, torch.rand(3))


def test_one_process_measures_for_itself():
    assert World().told(lambda: ("float32", "measured")) == ("float32", "measured")


@pytest.mark.parametrize("found", [True, False, ConfigError("seed", "found -1", "0 or more", "leave it out")])
def test_what_the_first_process_finds_or_meets_is_told_to_all(monkeypatch, found):
    sent = []

    def broadcast(objects, src):
        if objects[0] is None:
            objects[:] = pickle.loads(sent[0])
        else:
            sent.append(pickle.dumps(objects))

    def find():
        if isinstance(found, UserError):
            raise found
        return found

    def unasked():
        raise AssertionError("the first process alone is asked")

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    for rank, ask in enumerate((find, unasked)):
        if isinstance(found, bool):
            assert World(rank, 2).told(ask) is found
        else:
            with pytest.raises(ConfigError, match=re.escape(str(found))):
                World(rank, 2).told(ask)


def test_a_run_is_known_by_who_has_begun_it(tmp_path):
    """A refusal is a lost process to torchrun, which starts all again: what was refused is not begun."""
    mine, other = (World(0, 2, launchers=frozenset(names)) for names in ({"a 7", "b 8"}, {"a 9"}))
    assert not mine.has_begun(tmp_path)
    list(fit(session("decoder"), tmp_path))
    assert not (tmp_path / ".torchrun").exists()  # by no torchrun
    mine.sign(tmp_path)
    assert mine.has_begun(tmp_path)
    assert World(1, 2, launchers=frozenset({"b 8", "c 3"})).has_begun(tmp_path)  # a machine was replaced
    assert not other.has_begun(tmp_path)
    assert not World().has_begun(tmp_path)
    list(fit(session("decoder"), tmp_path))
    assert not mine.has_begun(tmp_path)


def test_what_is_started_again_goes_on_or_begins_anew(tmp_path):
    """It never replaces another run: that one was refused when all processes started first."""
    before = session("decoder", checkpoints=Checkpoints(keep=0))
    asked = partial(_goes_on, tmp_path, before.run, force=False)
    (tmp_path / "checkpoints/.part").mkdir(parents=True)
    assert not asked(begun=True)  # nothing to go on from
    list(fit(before, tmp_path))
    model = replace(before.run.model, front=replace(before.run.model.front, vocab_size=0))
    unsaid = replace(before.run, model=model, training=replace(before.run.training, precision="auto"))
    assert not asked(begun=True)
    assert not _goes_on(tmp_path, unsaid, force=False, begun=True)
    other = replace(before.run, seed=7)
    for run, begun in ((before.run, False), (other, True)):
        with pytest.raises(UserError, match="a run is there already"):
            _goes_on(tmp_path, run, force=False, begun=begun)
    assert not _goes_on(tmp_path, other, force=True, begun=True)
    (tmp_path / "checkpoints/step-6").mkdir(parents=True)
    assert asked(begun=True)
    with pytest.raises(UserError, match="a run is there already"):
        _goes_on(tmp_path, other, force=False, begun=True)
    assert not _goes_on(tmp_path, other, force=True, begun=True)
    (tmp_path / "config.toml").unlink()  # nobody knows whose it is
    with pytest.raises(UserError, match="a run is there already"):
        asked(begun=True)


def test_a_head_that_was_given_the_labels_of_the_data_is_of_the_same_run(tmp_path):
    tokenizer, usual = Tokenizer.train(Characters(), ["abba"]), default_run("classifier", LabelledFiles(train="x.tsv"))

    def telling(*labels, seed=0):
        model = replace(usual.model, head=replace(usual.model.head, labels=labels))
        return replace(usual, model=model, start=Pretrained(path="runs/before"), seed=seed)

    save_description(tmp_path, tokenizer, telling("a", "b").completed(vocab_size=tokenizer.vocab_size, labels=()))
    assert _is_same(tmp_path, telling("x", "y"))  # as the run before has them
    assert not _is_same(tmp_path, telling("x", "y", seed=7))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 97}" for i in range(3000)))
    return folder


def run(folder, processes, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [sys.executable, *(launcher if processes > 1 else []), "-m", "pellucid", "train", *arguments]
    done = subprocess.run(start, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("validation", {}).get("loss")) for line in lines]


def steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "gradient_norm" in line]


@pytest.fixture(scope="module")
def alone(text):
    run(text, 1, "decoder", "--text", "text.txt", "--out", "alone", *SETTINGS)
    return text / "alone"


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "shard"), [(2, False), (4, False), (2, True), (4, True)])
def test_several_processes_train_as_one(text, alone, processes, shard):
    name = f"world-{processes}-{shard}"
    flags = ["--shard"] if shard else []
    run(text, processes, "decoder", "--text", "text.txt", "--out", name, *flags, *SETTINGS)
    assert losses(text / name) == pytest.approx(losses(alone), rel=2e-4)
    one, many = (load_file(folder / "model.safetensors") for folder in (alone, text / name))
    for key, value in one.items():
        torch.testing.assert_close(many[key], value, atol=2e-4, rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam_w", "muon"])
def test_split_weights_learn_from_every_part_in_bfloat16(text, optimizer):
    """Each part rounds the weights: gradients of those that an earlier one has rounded arrived too late."""
    settings = [*SETTINGS, "training.precision=bfloat16", f"training.optimizer.kind={optimizer}"]
    for name, processes, flags in (("rounded", 1, []), (f"rounded-split-{optimizer}", 2, ["--shard"])):
        run(text, processes, "decoder", "--text", "text.txt", "--out", name, "--force", *flags, *settings)
    split = steps(text / f"rounded-split-{optimizer}")
    for one, other in zip(steps(text / "rounded"), split, strict=True):
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=0.02)
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_a_run_goes_on_with_another_number_of_processes(text, alone, shard):
    name, flags = f"moved-{shard}", ["--shard"] if shard else []
    run(text, 2, "decoder", "--text", "text.txt", "--out", name, *flags, *SETTINGS)
    config = text / name / "checkpoints/step-12"
    for path in sorted(config.iterdir()):
        path.unlink()
    config.rmdir()  # as if it had been stopped after step 6
    run(text, 1, "--resume", name)
    assert losses(text / name) == pytest.approx(losses(alone), rel=2e-4)


def children(process):
    """The processes that a process has started."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find a process to kill")
def test_a_killed_process_is_started_again_and_no_bit_differs(text):
    """torchrun starts all processes again, and they go on from the newest checkpoint."""
    settings = [*SETTINGS, "training.steps=60", "training.evaluate_every=20", "training.checkpoints.every=5"]
    run(text, 2, "decoder", "--text", "text.txt", "--out", "undisturbed", *settings)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [sys.executable, *launcher, "-m", "pellucid", "train", "decoder", "--text", "text.txt", "--out", "killed"]
    with (text / "log").open("w") as log:
        torchrun = subprocess.Popen([*command, *settings], cwd=text, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not (text / "killed/checkpoints/step-10").exists():
            assert torchrun.poll() is None, (text / "log").read_text()
            assert time.monotonic() < deadline, (text / "log").read_text()
            time.sleep(0.01)
        os.kill(children(torchrun.pid)[-1], signal.SIGKILL)
        assert torchrun.wait(timeout=60) == 0, (text / "log").read_text()
    finally:
        torchrun.terminate()  # and with it what it has started
        torchrun.wait()
    assert "exitcode: -9" in (text / "log").read_text()
    one, other = (load_file(text / name / "model.safetensors") for name in ("undisturbed", "killed"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert losses(text / "killed") == losses(text / "undisturbed")


@pytest.mark.slow
def test_a_run_that_was_refused_is_not_replaced_when_started_again(text):
    arguments = ["decoder", "--text", "text.txt", "--out", "finished", *SETTINGS, "training.checkpoints.keep=0"]
    run(text, 1, *arguments)
    before = (text / "finished/metrics.jsonl").read_text()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [sys.executable, *launcher, "-m", "pellucid", "train", *arguments]
    done = subprocess.run(command, cwd=text, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stderr.count("a run is there already") >= 2  # when first started, and again
    assert (text / "finished/metrics.jsonl").read_text() == before
