"""Every bug is caught by the check that names it, and no healthy model is blamed.

Every sixth of both runs by default, the rest with the slow tests; three seeds for all are a sweep.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import warnings
from typing import Any

import pytest
import torch

import pellucid as pl
import zoo
from pellucid.doctor.checks import CHECKS
from pellucid.doctor.finding import Report
from zoo.entry import Bug, Healthy

SEEDS = (0, 1, 2)


def _gathered(name: str) -> list[Any]:
    """The entries of every file of the zoo, whoever wrote it."""
    files = [found.name for found in pkgutil.iter_modules(zoo.__path__) if not found.name.startswith("test_")]
    return [entry for file in files for entry in getattr(importlib.import_module(f"zoo.{file}"), name, ())]


BUGS: list[Bug] = _gathered("BUGS")
HEALTHY: list[Healthy] = _gathered("HEALTHY")


def _cases(entries: list[Any]) -> list[Any]:
    return [
        pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.slow or _full(entry) or place % 6 else [])
        for place, entry in enumerate(entries)
    ]


def _full(entry: Any) -> bool:
    return getattr(entry, "level", "standard") == "full"


def _examined(entry: Bug | Healthy, seed: int = 0, **more: Any) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, spec = entry.made()
        return pl.doctor(model, spec, seed=seed, **more)


def _told(report: Report) -> str:
    return "\n".join(f"{f.status} {f.check}: {f.seen}" for f in report.failed) or "nothing failed"


def test_the_zoo_is_large_enough_and_every_name_is_one():
    assert len(BUGS) >= 60
    assert len(HEALTHY) >= 40
    assert sum(bug.published for bug in BUGS) >= 20
    for entries in (BUGS, HEALTHY):
        names = [entry.name for entry in entries]
        assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    known = {check.name for check in CHECKS}
    assert not {name for bug in BUGS for name in bug.checks} - known
    assert {bug.family for bug in BUGS} == {"decoder", "encoder", "encoder_decoder"}


@pytest.mark.parametrize("bug", _cases(BUGS))
def test_bug_is_caught_by_the_check_that_names_it(bug):
    report = _examined(bug, level=bug.level, only=bug.checks)
    assert report.failed, f"{bug.checks} found nothing wrong: {[(f.status, f.seen) for f in report]}"
    for finding in report.failed:
        assert finding.seen
        assert finding.cause
        assert finding.fix


@pytest.mark.parametrize("model", _cases(HEALTHY))
def test_healthy_model_is_not_blamed(model):
    report = _examined(model, level="standard")
    assert report.healthy, _told(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a plain decoder", "the same, trained", "rotary pairs", "an encoder's loss"])
def test_healthy_model_is_not_blamed_for_what_it_learns(name):
    model = next(entry for entry in HEALTHY if entry.name == name)
    report = _examined(model, level="full")
    assert report.healthy, _told(report)


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("entry", [*BUGS, *HEALTHY], ids=lambda entry: entry.name)
def test_three_seeds_give_the_same_statuses(entry):
    level = "standard" if _full(entry) else getattr(entry, "level", "standard")
    reports = [_examined(entry, seed, level=level) for seed in SEEDS]
    statuses = [{finding.check: finding.status.value for finding in report} for report in reports]
    different = {check for check in statuses[0] for other in statuses[1:] if statuses[0][check] != other[check]}
    assert not different, [[(check, found[check]) for check in sorted(different)] for found in statuses]


@pytest.mark.parametrize("name", ["no causal mask", "is_causal with a chunk of queries", "a plain decoder"])
def test_the_same_report_twice(name):
    entry = next(entry for entry in (*BUGS, *HEALTHY) if entry.name == name)
    one, two = (_without_time(_examined(entry)) for _ in range(2))
    assert repr(one) == repr(two)  # as text: NaN differs from itself


def _without_time(report: Report) -> dict[str, Any]:
    return {key: value for key, value in report.as_dict().items() if key != "seconds"}


@pytest.mark.parametrize("name", ["a summary is left for the next text", "rotary tables in attributes", "dropout"])
def test_nothing_is_left_behind(name):
    entry = next(entry for entry in (*BUGS, *HEALTHY) if entry.name == name)
    model, spec = entry.made()
    before, attributes = copy.deepcopy(model.state_dict()), {id(m): dict(vars(m)) for m in model.modules()}
    state = torch.get_rng_state()
    pl.doctor(model, spec)
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for module in model.modules():
        kept = attributes[id(module)]
        assert vars(module).keys() == kept.keys()
        assert all(vars(module)[key] is value for key, value in kept.items() if isinstance(value, torch.Tensor))
