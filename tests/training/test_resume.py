"""A run that was stopped or killed goes on as if it never had been: not one bit differs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, describe
from safetensors.torch import load_file

from pellucid.cli.train import _follow
from pellucid.config.optimisation import CheckpointAverage, Checkpoints, Cosine, ExponentialAverage, Training
from pellucid.config.run import Causal, Characters, Masked, ParallelFiles, Run, SequenceToSequence, TextFiles
from pellucid.data.corpus import Corpus, Pair
from pellucid.errors import CheckpointError, DataError
from pellucid.models.checkpoint import WEIGHTS
from pellucid.training.distributed import ALONE
from pellucid.training.fit import Evaluated, Remark, Resumed, Stopped, fit
from pellucid.training.loop import Step
from pellucid.training.resume import AVERAGE, _computed_by, _random_state, _restore_random, _restored_threads
from pellucid.training.session import prepare

STEPS = 18
KEPT = Checkpoints(every=5, keep=2)
WORDS = ["abba", "cab", "deaf", "dad", "face", "bead", "added", "cafe"]


def session(family, precision="float32", **settings):
    text = [" ".join(random.Random(i).choices(WORDS, k=30)) for i in range(12)]
    if family == "encoder_decoder":
        pairs = [Pair(line, line[::-1]) for line in text]
        corpus, data = Corpus("pairs", pairs[:10], pairs[10:]), ParallelFiles(source="x", target="y")
        objective = SequenceToSequence(max_length=40)
    else:
        corpus, data = Corpus("text", text[:10], text[10:]), TextFiles(train=("x",))
        objective = Causal(length=16) if family == "decoder" else Masked(length=16)
    training = Training(
        steps=STEPS,
        batch_tokens=128,
        precision=precision,
        **{"evaluate_every": 6, "schedule": Cosine(peak=1e-2, warmup_steps=5), **settings},
    )
    model = describe(family, dropout=0.1)
    fronts = ("source", "target") if family == "encoder_decoder" else ("front",)
    model = replace(model, **{name: replace(getattr(model, name), vocab_size=0) for name in fronts})
    run = Run(model=model, data=data, tokenizer=Characters(), objective=objective, training=training)
    return prepare(run, corpus=corpus)


def losses(events):
    return {event.step: event.loss for event in events if isinstance(event, Step)}


def weights(folder):
    return load_file(folder / "model.safetensors"), load_file(folder / f"checkpoints/step-{STEPS}/model.safetensors")


def log(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_equal(one, other):
    for ours, theirs in zip(weights(one), weights(other), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert log(one) == log(other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_bit_differs(tmp_path, family, precision):
    whole = losses(fit(session(family, precision), tmp_path / "whole"))
    broken = {}
    for stop in (8, 13, STEPS + 1):
        torch.manual_seed(stop)  # whatever the new process starts with
        events = fit(session(family, precision), tmp_path / "broken", resume=bool(broken))
        for event in events:
            if isinstance(event, Step):
                broken[event.step] = event.loss
                if event.step == stop:
                    break
        events.close()
    assert broken == whole
    assert_equal(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(
    "settings", [{}, {"average": CheckpointAverage(count=2)}, {"patience": 3, "checkpoints": KEPT}]
)
def test_ctrl_c_between_two_evaluations_changes_nothing(tmp_path, settings):
    """What was not due is not evaluated: the same weights are chosen, averaged and counted as stale."""

    def run(folder, stops=()):
        for event in fit(session("decoder", **settings), folder, resume=(folder / "checkpoints").exists()):
            if isinstance(event, Step) and event.step in stops:
                signal.raise_signal(signal.SIGINT)
            yield event

    list(run(tmp_path / "whole"))
    first = list(run(tmp_path / "broken", stops=(3,)))
    assert not any(isinstance(event, Evaluated) for event in first)
    assert first[-1] == Stopped(4, "interrupted")
    assert (tmp_path / "broken/model.safetensors").exists()  # so that the run can be used
    assert list(run(tmp_path / "broken", stops=(13,)))[-1] == Stopped(14, "interrupted")
    list(run(tmp_path / "broken"))
    assert_equal(tmp_path / "whole", tmp_path / "broken")


def test_a_run_that_keeps_no_checkpoint_has_none_at_its_end(tmp_path):
    settings = {"checkpoints": Checkpoints(keep=0)}
    for event in fit(session("decoder", **settings), tmp_path):
        if isinstance(event, Step) and event.step == 3:
            signal.raise_signal(signal.SIGINT)
    assert (tmp_path / "checkpoints/step-4").exists()
    list(fit(session("decoder", **settings), tmp_path, resume=True))
    assert not (tmp_path / "checkpoints").exists()


def test_ctrl_c_before_any_evaluation_saves_the_average(tmp_path):
    for event in fit(session("decoder", average=ExponentialAverage(decay=0.9)), tmp_path):
        if isinstance(event, Step) and event.step == 3:
            signal.raise_signal(signal.SIGINT)
    saved, average = (load_file(tmp_path / name) for name in (WEIGHTS, f"checkpoints/step-4/{AVERAGE}"))
    assert saved.keys() == average.keys()
    assert all(torch.equal(value, average[name]) for name, value in saved.items())


def test_going_on_after_an_early_end_keeps_a_better_average(tmp_path):
    """The last checkpoint was written before the average was made: the metrics know of it."""
    list(fit(session("decoder"), tmp_path))
    shutil.rmtree(tmp_path / f"checkpoints/step-{STEPS}")  # as if it had ended after step 12
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 12, "average": {"loss": 0.125}, "best": True}) + "\n")
    before = (tmp_path / WEIGHTS).read_bytes()
    events = list(fit(session("decoder"), tmp_path, resume=True))
    assert [event.best for event in events if isinstance(event, Evaluated)] == [False]
    assert (tmp_path / WEIGHTS).read_bytes() == before


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    for event in fit(session("decoder", evaluate_every=0, checkpoints=Checkpoints(every=5)), tmp_path):
        if isinstance(event, Step) and event.step == 17:
            break
    newest = tmp_path / "checkpoints/step-15/optimizer.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    first = next(fit(session("decoder"), tmp_path, resume=True))
    assert isinstance(first, Resumed)
    assert first.step == 10
    assert "optimizer.safetensors: torn" in first.remarks[0]


def test_a_torn_checkpoint_is_not_kept_in_the_place_of_a_whole_one(tmp_path):
    for event in fit(session("decoder", evaluate_every=0, checkpoints=KEPT), tmp_path):
        if isinstance(event, Step) and event.step == 11:
            break
    (tmp_path / "checkpoints/step-10/optimizer.safetensors").write_bytes(b"torn")
    for event in fit(session("decoder", checkpoints=Checkpoints(keep=1)), tmp_path, resume=True):
        if isinstance(event, Step) and event.step == 7:
            signal.raise_signal(signal.SIGINT)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-8"]
    list(fit(session("decoder", checkpoints=Checkpoints(keep=1)), tmp_path, resume=True))


def test_no_checkpoint_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint; expected one to go on from"):
        next(fit(session("decoder"), tmp_path, resume=True))


def test_only_the_newest_are_kept(tmp_path):
    list(fit(session("decoder", checkpoints=Checkpoints(every=4, keep=2)), tmp_path))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-16", "step-18"]
    list(fit(session("decoder", checkpoints=Checkpoints(keep=0)), tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_an_ended_run_has_nothing_to_go_on_with(tmp_path):
    list(fit(session("decoder"), tmp_path))
    events = list(fit(session("decoder"), tmp_path, resume=True))
    assert [type(event) for event in events] == [Resumed]


def test_the_best_is_kept_across_a_stop(tmp_path):
    events = list(fit(session("decoder"), tmp_path))
    best = min((e for e in events if isinstance(e, Evaluated)), key=lambda e: e.evaluation.loss)
    assert best.best


@pytest.mark.parametrize("part", ["train", "validation"])
def test_data_that_makes_no_batch_costs_no_run(tmp_path, part):
    list(fit(session("decoder"), tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = session("decoder")
    other = replace(other, corpus=replace(other.corpus, **{part: ["a"]}))
    with pytest.raises(DataError, match=r"1 tokens"):
        list(fit(other, tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_examples_that_lose_their_end_are_counted_once(tmp_path):
    told = "10 of 10 examples are longer than objective.max_length and lose their end"
    for resume, expected in ((False, [told]), (True, [])):
        events = list(fit(session("encoder_decoder"), tmp_path, resume=resume))
        assert [event.text for event in events if isinstance(event, Remark)] == expected


def changed_state(folder, **changes):
    """The newest checkpoint, as another machine would have left it."""
    path = folder / f"checkpoints/step-{STEPS}/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"device": "cuda"}, "saved with device cuda, processes 1"),
        ({"processes": 4, "threads": 1}, "saved with device cpu, processes 4, threads 1, going on with device cpu, p"),
        ({"threads": 10_000}, "threads 10000, going on with"),
    ],
)
def test_what_makes_bits_differ_is_told_and_leaves_the_threads(tmp_path, changes, told):
    list(fit(session("decoder"), tmp_path))
    changed_state(tmp_path, **changes)
    threads = torch.get_num_threads()
    (resumed,) = fit(session("decoder"), tmp_path, resume=True)
    assert told in resumed.remarks[0]
    assert torch.get_num_threads() == threads


def test_no_bit_is_promised_on_a_gpu(monkeypatch):
    """The same one, with as many threads: its sums have no fixed order even so."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "one and the same")
    for device, promised in ((torch.device("cuda"), False), (torch.device("cpu"), True)):
        told = _restored_threads(Path("step-5"), _computed_by(device), device)
        assert told == ([] if promised else ["step-5: sums on a GPU have no fixed order: not equal in every bit"])


def test_data_that_are_others_now_are_told(tmp_path):
    list(fit(session("decoder"), tmp_path))
    changed_state(tmp_path, data="0" * 16)
    (resumed,) = fit(session("decoder"), tmp_path, resume=True)
    assert "the data are others than before" in resumed.remarks[0]


def test_as_many_threads_as_before_where_nothing_else_differs(tmp_path):
    list(fit(session("decoder"), tmp_path))
    changed_state(tmp_path, threads=1)
    threads = torch.get_num_threads()
    try:
        (resumed,) = fit(session("decoder"), tmp_path, resume=True)
        assert not resumed.remarks
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("error", "doubted"), [(4e-7, False), (3e-3, True)])
def test_a_precision_that_is_another_here_is_told(tmp_path, monkeypatch, error, doubted):
    list(fit(session("decoder", "float32-medium"), tmp_path))
    monkeypatch.setattr("pellucid.training.precision.medium_error", lambda: error)
    (resumed,) = fit(session("decoder", "float32-medium"), tmp_path, resume=True)
    assert bool(resumed.remarks) == doubted
    assert all("float32-medium is less exact here" in remark for remark in resumed.remarks)


@pytest.mark.parametrize(("error", "doubted"), [(4e-7, False), (3e-3, True)])
def test_a_new_run_in_a_precision_that_is_another_here_is_told(tmp_path, monkeypatch, error, doubted):
    monkeypatch.setattr("pellucid.training.precision.medium_error", lambda: error)
    remarks = [event.text for event in fit(session("decoder", "float32-medium"), tmp_path) if isinstance(event, Remark)]
    assert len(remarks) == doubted
    assert all("float32-medium is less exact here" in remark for remark in remarks)


def test_the_random_state_of_a_mac_is_kept(monkeypatch):
    kept, device = torch.arange(3, dtype=torch.uint8), torch.device("mps")
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: kept)
    restored = []
    monkeypatch.setattr(torch.mps, "set_rng_state", restored.append)
    state = _random_state(device)
    _restore_random(state, device)
    assert restored == [kept]
    assert "mps" not in _random_state(torch.device("cpu"))


def test_what_is_told_at_the_end_is_the_best_whoever_trained_it(tmp_path, monkeypatch, capsys):
    """The best evaluation was before the stop: its weights are in the folder."""
    list(fit(session("decoder"), tmp_path))
    path = tmp_path / f"checkpoints/step-{STEPS}"
    shutil.rmtree(path)
    state = tmp_path / "checkpoints/step-12/state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"best": 0.125}))
    lines = log(tmp_path)
    for line in lines:
        if "validation" in line:
            line["best"] = line["step"] == 12
            line["validation"]["loss"] = 0.125 if line["best"] else line["validation"]["loss"]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("pellucid.cli.train.end_card", lambda *given, **more: {"step": str(given[3]["step"])})
    _follow(session("decoder"), tmp_path, [], None, ALONE, resume=True, quiet=True, json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["step"], told["loss"]) == (12, 0.125)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kills_at_random_moments(tmp_path, precision):
    """A real process, SIGKILL, also while a checkpoint is being written: saving takes much of the time here."""
    kills = int(os.environ.get("PELLUCID_KILLS", "6"))
    steps = max(400, 10 * kills)
    (tmp_path / "text.txt").write_text(" ".join(random.Random(1).choices(WORDS, k=4000)))
    settings = [
        f"training.steps={steps}", "training.evaluate_every=100", "training.checkpoints.every=2", "training.batch_tokens=256",
        f"training.precision={precision}", "objective.length=32", "tokenizer.vocab_size=300", "model.stack.dropout=0.1",
        "model.stack.d_model=64", "model.stack.num_layers=2", "model.stack.attention.num_heads=2",
    ]  # fmt: skip
    command = [sys.executable, "-m", "pellucid", "train"]

    def start(*arguments):
        return subprocess.Popen([*command, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(process):
        out, err = process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    def newest():
        return max((int(p.name[5:]) for p in checkpoints.glob("step-*")), default=0)

    finish(start("decoder", "--text", "text.txt", "--out", "whole", *settings))
    checkpoints = tmp_path / "broken" / "checkpoints"
    process, chance, done, last = (
        start("decoder", "--text", "text.txt", "--out", "broken", *settings),
        random.Random(7),
        0,
        0,
    )
    while done < kills:
        while process.poll() is None and newest() <= last:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.4)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        out = process.communicate()[0].decode()
        assert not last or f"going on after step {last}\n" in out  # the newest checkpoint was whole
        done, last = done + 1, newest()
        process = start("--resume", "broken")
    assert f"going on after step {last}\n" in finish(process)
    print(f"{done} kills in {precision}")
    assert done == kills
    for name in ("model.safetensors", f"checkpoints/step-{steps}/model.safetensors"):
        one, other = (load_file(tmp_path / folder / name) for folder in ("whole", "broken"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert log(tmp_path / "whole") == log(tmp_path / "broken")
