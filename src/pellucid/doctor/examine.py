"""Asks every question of a level about one model, and leaves the model as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pellucid.doctor.check import Check
from pellucid.doctor.checks import CHECKS
from pellucid.doctor.diagnose import diagnosed
from pellucid.doctor.finding import Finding, Report, Status
from pellucid.doctor.infer import subject_of
from pellucid.doctor.keeping import kept
from pellucid.doctor.levels import LEVELS, Level, within
from pellucid.doctor.localise import placed
from pellucid.doctor.precision import NARROW, widened
from pellucid.doctor.quiet import quiet
from pellucid.doctor.reproduce import Reproduction
from pellucid.doctor.spec import Spec
from pellucid.doctor.subject import Subject
from pellucid.doctor.updates import unwrapped
from pellucid.doctor.waking import awake
from pellucid.errors import UserError, nearest

DYNAMIC = "torch.ao.nn.quantized.dynamic"


def examine(
    model: Any,
    spec: Spec | None = None,
    level: Level = "standard",
    *,
    only: Sequence[str] = (),
    seed: int = 0,
    build: str = "",
    progress: Callable[[str], None] = lambda question: None,
) -> Report:
    """Examines a model: ours, one of ``transformers``, any ``nn.Module``, any callable from ids to outputs.

    The model is left as it was: parameters, buffers, gradients, modes, hooks and random state, which is verified.

    >>> report = pl.doctor(model, pl.Spec(kind="decoder"))
    >>> report.healthy, [finding.check for finding in report.failed]
    (False, ['causal.prefix_invariance'])

    Args:
        model: also one that is compiled or spread over processes, of which the module inside is looked at.
        spec: what it is meant to be; what is left out is found out and said in the report.
        level: ``quick`` asks by forward passes alone, ``standard`` by gradients as well, ``full`` by short trainings.
        only: names of checks, or of categories, in place of all.
        seed: that all random choices come from.
        build: lines of Python that make ``model``, for scripts that reproduce a finding.
        progress: hears each question before it is asked.

    Raises:
        UserError: for a model that cannot be called, or a name that is none.
    """
    began, chosen = time.perf_counter(), checks_of(only, level)
    model = unwrapped(model) if isinstance(model, nn.Module) else model
    module = model if isinstance(model, nn.Module) else None
    with quiet(), kept(module), _wide(model, spec), torch.no_grad():
        with awake(module, seed):
            subject, inferred = subject_of(model, spec, seed=seed, build=build)
            found = dict(_asked([check for check in chosen if check.awake], subject, progress))
        # What was computed awake is not what training sees.
        asleep = Subject(model, subject.spec, seed=seed, build=build)
        found |= dict(_asked([check for check in chosen if not check.awake], asleep, progress))
        scripts = Reproduction(subject)
        findings = tuple(scripts.complete(found[check], awake=check.awake) for check in chosen)
    return Report(
        model=type(model).__name__ if module is not None else getattr(model, "__name__", type(model).__name__),
        level=level,
        seed=seed,
        inferred=inferred,
        findings=findings,
        diagnoses=diagnosed(findings, subject.spec),
        seconds=time.perf_counter() - began,
    )


def _need_numbers(module: nn.Module | None) -> None:
    """Refuses what has no numbers, or none of its own.

    Raises:
        UserError: for weights on the meta device, and for layers whose rounding depends on all that they read.
    """
    parameters = [] if module is None else list(module.parameters())
    if parameters and all(parameter.is_meta for parameter in parameters):
        raise UserError(
            type(module).__name__, "all its parameters are on the meta device, which holds no numbers", "weights",
            'model.to_empty(device="cpu"), and draw or load them; of a model that is offloaded, load it whole',
        )  # fmt: skip
    for path, part in () if module is None else module.named_modules():
        if type(part).__module__.startswith(DYNAMIC):
            raise UserError(
                path or type(part).__name__, "is quantised by the range of all it reads: tokens move one another",
                "weights in floating point", "examine the model before quantize_dynamic",
            )  # fmt: skip


@contextmanager
def _wide(model: Any, spec: Spec | None) -> Iterator[None]:
    """Half precision is widened within the block.

    Raises:
        UserError: for a model that cannot be called; in words of its own where it can be as it is, and not widened.
    """
    module = model if isinstance(model, nn.Module) else None
    _need_numbers(module)
    halves = {} if module is None else {str(p.dtype): p for p in module.parameters() if p.dtype in NARROW[1:]}
    try:
        with widened(module):
            yield
    except UserError as error:
        if not halves or not _runs(model, spec):
            raise
        name = next(iter(halves)).removeprefix("torch.")
        raise UserError(
            error.where, f"{type(model).__name__} runs in {name}, and not in float32, in which it is examined; there: "
            f"{error.found}", hint=f"let its forward pass take the precision of its parameters in place of {name}"
        ) from error  # fmt: skip


@torch.no_grad()
def _runs(model: Any, spec: Spec | None) -> bool:
    try:
        subject_of(model, spec)
    except Exception:  # the first error says what there is to say
        return False
    return True


def checks_of(only: Sequence[str], level: Level) -> list[Check]:
    """The checks that are asked: those of a level, or those of some names and categories.

    Raises:
        UserError: for a level or a name that is none.
    """
    if level not in LEVELS:
        raise UserError("level", f'found "{level}"', " or ".join(LEVELS), nearest(level, LEVELS))
    names = [check.name for check in CHECKS]
    for wanted in only:
        if wanted not in names and not any(name.startswith(f"{wanted}.") for name in names):
            raise UserError("only", f'found "{wanted}"', hint=nearest(wanted, names))
    if only:
        return [check for check in CHECKS if check.name in only or check.name.split(".")[0] in only]
    return [check for check in CHECKS if within(check.level, level)]


def _asked(
    checks: Sequence[Check], subject: Subject, progress: Callable[[str], None]
) -> Iterator[tuple[Check, Finding]]:
    """Each check with its answer."""
    dtype = torch.get_default_dtype()
    for check in checks:
        progress(check.question)
        torch.set_default_dtype(dtype)  # which a pass of the check before may have changed
        try:
            finding = check.answer(subject)
            yield check, replace(finding, where=placed(subject.module, finding.where))
        except UserError as error:
            yield check, check.skipped(f"{error.where}: {error.found}", error.hint.removeprefix("say it: "))
        except Exception as error:  # one question that fails must not cost the answers to the others
            seen = f"the model or the check raised {type(error).__name__}: {error}"
            yield check, Finding(check=check.name, status=Status.INCONCLUSIVE, done=check.question, seen=seen)
