"""The doctor in pytest: a healthy model as an assertion, or each question as a test of its own.

>>> from pellucid.doctor.pytest_plugin import assert_healthy, doctor_cases
>>> def test_model():
...     assert_healthy(GPT(), Spec(kind="decoder"))
>>> test_gpt = doctor_cases(GPT, Spec(kind="decoder"))  # test_gpt[causal.prefix_invariance], test_gpt[kv.parity], ...

``pytest -m doctor`` runs these cases alone, ``-m "not doctor"`` all others.

pytest loads this file at every start, so that nothing heavy is imported before it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pellucid.doctor.finding import Finding, Report
    from pellucid.doctor.levels import Level
    from pellucid.doctor.spec import Spec


class DoctorWarning(UserWarning):
    """What is often a fault and may be meant so."""


def pytest_configure(config: pytest.Config) -> None:
    """One marker."""
    config.addinivalue_line("markers", "doctor: a question of pellucid's doctor about a model")


def assert_healthy(
    model: Any, spec: Spec | None = None, *, level: Level = "standard", only: Sequence[str] = (), seed: int = 0
) -> Report:
    """Passes for a model of which nothing fails and something could be asked, and returns the report.

    Args:
        model: a module, or a callable from ids to outputs.
        spec: what it is meant to be.
        level: how much is asked.
        only: names of checks or categories in place of all.

    Raises:
        AssertionError: with the report in words.
    """
    __tracebackhide__ = True
    from pellucid.doctor.examine import examine

    report = examine(model, spec, level, only=only, seed=seed)
    if not report.healthy:
        raise AssertionError(f"\n{report}")
    if not report.answered:
        raise AssertionError(f"no question could be answered\n{report}")
    return report


def doctor_cases(
    build: Any, spec: Spec | None = None, *, level: Level = "standard", only: Sequence[str] = (), seed: int = 0
) -> Callable[..., None]:
    """A test with a case for each question, all of one examination, which the first case that runs pays for.

    A case fails with what is wrong, its cause and a script that shows it; it is skipped where the question does not
    arise or cannot be answered; a warning of the doctor is one of pytest.

    Args:
        build: gives the model, or the model and a spec: a function or a class without arguments. Or the model itself.
        spec: what it is meant to be.
        level: how much is asked.
        only: names of checks or categories in place of all.
    """
    from pellucid.doctor.examine import checks_of

    shared: list[Report | Exception] = []

    @pytest.mark.doctor
    @pytest.mark.parametrize("check", [check.name for check in checks_of(only, level)])
    def case(check: str) -> None:
        __tracebackhide__ = True
        if not shared:
            shared.append(_examined(build, spec, level, only, seed))
        if isinstance(shared[0], Exception):
            raise shared[0]
        _judge(shared[0], shared[0][check])

    return case


def _examined(build: Any, spec: Spec | None, level: Level, only: Sequence[str], seed: int) -> Report | Exception:
    import torch
    from torch import nn

    from pellucid.doctor.examine import examine

    try:
        torch.manual_seed(seed)
        made = build if isinstance(build, nn.Module) else build()
        if isinstance(made, tuple):
            made, told = made
            spec = told if spec is None else spec.over(told)
        return examine(made, spec, level, only=only, seed=seed)
    except Exception as error:  # once, and told by every case
        return error


def _judge(report: Report, finding: Finding) -> None:
    from pellucid.doctor.finding import Status

    __tracebackhide__ = True
    match finding.status:
        case Status.FAIL:
            pytest.fail(_told(report, finding), pytrace=False)
        case Status.WARN:
            warnings.warn(DoctorWarning(f"{report.model}: {finding.check}: {finding.seen}"), stacklevel=1)
        case Status.SKIP | Status.INCONCLUSIVE:
            more = f"; to ask it: {finding.enable}" if finding.enable else ""
            pytest.skip(f"{finding.status}: {finding.seen}{more}")


def _told(report: Report, finding: Finding) -> str:
    """What is wrong, why, and how it is shown."""
    from pellucid.doctor.report.parts import explained, question, told

    cause = next((cause for cause, findings in explained(report) if finding in findings), None)
    lines = [f"{report.model}: {finding.check}: {question(finding.check)}"]
    lines += [f"  cause: {cause.name}", f"  fix: {cause.fix}"] if cause is not None else []
    lines += [f"  {name}: {text}" for name, text in told(finding, cause)]
    if finding.script:
        lines += ["", "A script that shows it:", "", finding.repro()]
    return "\n".join(lines)
