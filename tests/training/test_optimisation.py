"""Optimisers, averages, schedules with a stable part, short contexts first, and ending early."""

import json
import math
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, small
from safetensors.torch import load_file
from test_resume import assert_equal, session

from pellucid.config.optimisation import (
    AdamW,
    CheckpointAverage,
    Constant,
    ExponentialAverage,
    Muon,
    Training,
    WarmupStableDecay,
)
from pellucid.config.run import Causal
from pellucid.data.batch import Batch
from pellucid.training.average import Running
from pellucid.training.distributed import World
from pellucid.training.fit import Evaluated, Resumed, Stopped, fit
from pellucid.training.loop import Step, shortened, train
from pellucid.training.optim import optimizer
from pellucid.training.schedule import learning_rate
from pellucid.training.watch import METRICS, read_records


def test_warmup_stable_decay():
    rate = learning_rate(WarmupStableDecay(peak=2.0, warmup_steps=10, decay=0.25, final=0.1), steps=110, d_model=8)
    assert rate(5) == 1.0
    assert {rate(step) for step in range(10, 86)} == {2.0}
    assert rate(98) == pytest.approx(2.0 * (1 - 0.9 * math.sqrt((98 - 85) / 25)))
    assert rate(110) == pytest.approx(0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(family):
    model = small(family)
    muon, adam = optimizer(model, Muon()).parts
    hidden = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = {id(p) for group in adam.param_groups for p in group["params"]}
    assert hidden.isdisjoint(rest)
    assert hidden | rest == {id(p) for p in model.parameters()}
    assert hidden == {id(p) for n, p in model.named_parameters() if "blocks." in n and p.dim() == 2}


@pytest.mark.parametrize("settings", [AdamW(), Muon()])
def test_frozen_parameters_are_left_alone(settings):
    model = small("decoder")
    model.embedding.requires_grad_(False)
    before = model.embedding.table.weight.clone()
    optimizers = optimizer(model, settings)
    assert optimizers.state(model.embedding.table.weight) == {}
    optimizers.set_rate(0.1)
    model(torch.randint(2, 50, (2, 8))).square().sum().backward()
    optimizers.step()
    assert torch.equal(model.embedding.table.weight, before)


def test_muon_leaves_frozen_blocks_to_nobody():
    model = small("decoder")
    model.blocks.requires_grad_(False)
    (adam,) = optimizer(model, Muon()).parts
    assert isinstance(adam, torch.optim.AdamW)
    assert {id(p) for group in adam.param_groups for p in group["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }


class Windows:
    def __getitem__(self, index):
        tokens = torch.randint(2, 50, (4, 17), generator=torch.Generator().manual_seed(index))
        return Batch(tokens[:, :-1], tokens[:, 1:])


def test_muon_learns():
    training = Training(steps=60, optimizer=Muon(), schedule=Constant(peak=5e-3), clip_norm=0.0)

    class Same:
        def __getitem__(self, index):
            return Windows()[0]

    losses = [step.loss for step in train(small("decoder"), Same(), Causal(length=16), training)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_running_average_is_the_recursion():
    model = torch.nn.Linear(2, 2, bias=False)
    average = Running(model, decay=0.5)
    expected = model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.weights["weight"], expected)
    with average.in_place(model):
        torch.testing.assert_close(model.weight, expected)
    assert torch.equal(model.weight, torch.full((2, 2), 5.0))


@pytest.mark.parametrize("which", ["last", "best"])
def test_checkpoints_are_averaged_at_the_end(tmp_path, which):
    events = list(fit(session("decoder", evaluate_every=3, average=CheckpointAverage(count=3, which=which)), tmp_path))
    singles = [e for e in events if isinstance(e, Evaluated) and not e.averaged]
    (final,) = [e for e in events if isinstance(e, Evaluated) and e.averaged]
    ranked = sorted(singles, key=lambda e: e.evaluation.loss) if which == "best" else singles[::-1]
    assert final.averaged == tuple(sorted(e.step for e in ranked[:3]))
    snapshots = [load_file(tmp_path / f"snapshots/step-{step}.safetensors") for step in final.averaged]
    if final.best:
        saved = load_file(tmp_path / "model.safetensors")
        for name, value in saved.items():
            torch.testing.assert_close(value, torch.stack([s[name] for s in snapshots]).mean(0))


def test_nobody_reads_the_snapshots_before_the_last_is_written(tmp_path):
    met = []

    class Waiting(World):
        def any(self, said):
            met.append(sorted(path.stem for path in (tmp_path / "snapshots").glob("step-*")))
            return said

    average = CheckpointAverage(count=2)
    events = list(fit(session("decoder", evaluate_every=9, average=average), tmp_path, world=Waiting()))
    assert events[-1].averaged == (9, 18)
    assert len(met) == 18 + 1  # once a step, and once more
    assert met[-1] == ["step-18", "step-9"]


def test_an_average_that_a_kill_prevented_is_made_when_the_run_goes_on(tmp_path, monkeypatch):
    def settings():
        return session("decoder", average=CheckpointAverage(count=3))

    def killed(keeper):
        raise KeyboardInterrupt

    list(fit(settings(), tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("pellucid.training.fit._Keeper.average", killed)
        with pytest.raises(KeyboardInterrupt):
            list(fit(settings(), tmp_path / "broken"))
    resumed, averaged = fit(settings(), tmp_path / "broken", resume=True)
    assert (resumed.step, averaged.averaged) == (18, (6, 12, 18))
    assert [type(event) for event in fit(settings(), tmp_path / "broken", resume=True)] == [Resumed]
    assert_equal(tmp_path / "whole", tmp_path / "broken")


def test_the_average_of_an_early_end_before_does_not_stand_for_that_of_the_last_step(tmp_path):
    """It was made after step 12, as patience asked for; then the run went on and was killed after its last step."""
    average = CheckpointAverage(count=3)
    list(fit(session("decoder", average=average), tmp_path))
    lines = [line | {"step": 12} if "average" in line else line for line in read_records(tmp_path / METRICS)]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    resumed, averaged = fit(session("decoder", average=average), tmp_path, resume=True)
    assert (resumed.step, averaged.averaged) == (18, (6, 12, 18))


@pytest.mark.parametrize(
    "settings",
    [{"average": ExponentialAverage(decay=0.9)}, {"average": CheckpointAverage(count=2)}, {"optimizer": Muon()}],
)
def test_resume_is_exact_with_averages_and_muon(tmp_path, settings):
    def run(folder, stop=None, resume=False):
        events = fit(session("decoder", **settings), tmp_path / folder, resume=resume)
        for event in events:
            if isinstance(event, Step) and event.step == stop:
                break
        events.close()

    run("whole")
    run("broken", stop=8)
    torch.manual_seed(99)
    run("broken", resume=True)
    whole, broken = (load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_patience_ends_a_run_that_gets_no_better(tmp_path):
    settings = {"evaluate_every": 1, "patience": 2, "schedule": Constant(peak=1e-12)}
    frozen = session("decoder", **settings)
    for parameter in frozen.model.parameters():
        parameter.requires_grad_(False)
    frozen.model.head.project.weight.requires_grad_(True)
    events = list(fit(frozen, tmp_path, watchers=()))
    stopped = events[-1]
    assert isinstance(stopped, Stopped)
    assert "no better for 2 evaluations" in stopped.why
    assert (tmp_path / f"checkpoints/step-{stopped.step}/state.json").exists()


def test_short_contexts_first():
    batch, objective = Windows()[3], Causal(length=16, curriculum_steps=8)
    lengths = [shortened(batch, objective, step).tokens.size(1) for step in range(1, 10)]
    assert lengths == [2, 2, 4, 4, 8, 8, 8, 8, 16]
    for step in range(1, 10):
        cut = shortened(batch, objective, step)
        assert torch.equal(cut.tokens.flatten(), batch.tokens.flatten())
        assert torch.equal(cut.labels.flatten(), batch.labels.flatten())


def test_what_is_measured_of_a_step():
    training = Training(steps=4, accumulate=2, schedule=Constant(peak=1e-2), clip_norm=0.0)
    model = small("decoder")
    before = [p.detach().clone() for p in model.parameters()]
    first, second, *_ = train(model, Windows(), Causal(length=16), replace(training, steps=2), measure_every=1)
    assert first.gradient_noise is not None
    assert 0 < second.update_ratio < 1
    moved = sum((p - b).square().sum() for p, b in zip(model.parameters(), before, strict=True)).sqrt()
    size = sum(b.square().sum() for b in before).sqrt()
    assert (moved / size).item() <= first.update_ratio + second.update_ratio * 1.5
    plain = next(iter(train(small("decoder"), Windows(), Causal(length=16), training)))
    assert plain.update_ratio is None


def test_gradient_noise_of_a_known_distribution():
    """Per-label gradients with mean 1 and variance 9: the noise scale is 9."""
    from pellucid.training.loop import _noise

    random = torch.Generator().manual_seed(0)
    draws = 1 + 3 * torch.randn(200_000, 40, generator=random, dtype=torch.float64)
    small_norm, large_norm = draws[:, :10].mean(1).square().mean().item(), draws.mean(1).square().mean().item()
    assert _noise(small_norm, large_norm, 10, 40) == pytest.approx(9.0, rel=0.05)
