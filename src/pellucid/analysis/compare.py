"""Where two models part: the first tensor that differs beyond rounding, how it goes on, and the cause, tried.

Both are run in double precision too: what rounding makes shrinks by nine orders of magnitude, a fault stays.

Shapes: B batch, T positions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.analysis.recordings import (
    Align,
    Real,
    Recording,
    as_it_is,
    cast,
    distance,
    exactly,
    is_ours,
    jittered,
    paired,
    precision,
    record,
    rounded_weights,
)
from pellucid.analysis.regression import write_test
from pellucid.analysis.repair import Case, Cause, causes
from pellucid.analysis.report import located, told
from pellucid.analysis.suspects import suspects
from pellucid.errors import UserError
from pellucid.models.checkpoint import Loaded
from pellucid.trace.room import free

TOLERANCE = 1e-9  # of a tensor's scale, in double precision, whose rounding stays below 1e-12 through a hundred layers
OTHERS_TOLERANCE = 1e-6  # where a model is not ours, so that it cannot be asked how it answers to rounding
ULPS = 2**13  # what rounding may add up to in the model's own precision: a thousandth of scale in float32
Target = nn.Module | Loaded | str | Path


@dataclass(frozen=True)
class Parting:
    """How far a tensor of B is from that of A, as a share of the largest number in either.

    Attributes:
        exact: in double precision; ``tolerance`` is what rounding explains of it.
        rounded: in the models' own precision; ``allowed`` is what rounding explains of it.
    """

    name: str
    exact: float
    rounded: float
    tolerance: float
    allowed: float

    @property
    def parts(self) -> bool:
        """Whether there is more than rounding."""
        return not (self.exact <= self.tolerance and self.rounded <= self.allowed)


@dataclass(frozen=True)
class Diff:
    """What :func:`diff` found.

    Attributes:
        profile: every tensor that both have, in the order computed.
        first: the first that parts beyond rounding; ``None`` where none does.
        where: the part of it that does.
        causes: the repairs that, one after another, make all agree; empty where none was found.
        operands: what the first was computed from, all of which agree.
        differences: all in which parameters and settings differ, whether it matters here or not.
        unmatched: names that only one has, or in another shape, with what is the matter.
        complete: whether what the models return was compared.
        sources: the paths of both, where they came from disk; ``given`` is what they read, ``None`` where B
            read something else or was aligned.
    """

    profile: tuple[Parting, ...]
    first: Parting | None
    where: str
    causes: tuple[Cause, ...]
    operands: tuple[str, ...]
    differences: tuple[str, ...]
    unmatched: tuple[str, ...]
    complete: bool = True
    sources: tuple[str, str] | None = None
    given: Any = field(default=None, repr=False, compare=False)

    @property
    def equal(self) -> bool:
        """Whether nothing parts, up to what the models return."""
        return self.first is None and self.complete

    @property
    def cause(self) -> Cause | None:
        """Of the first parting; ``None`` where it is not known."""
        return self.causes[0] if self.causes else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "equal": self.equal,
            "first": None if self.first is None else _plain(self.first),
            "where": self.where,
            "cause": None if self.cause is None else _plain(self.cause),
            "causes": [_plain(cause) for cause in self.causes],
            "operands": list(self.operands),
            "differences": list(self.differences),
            "unmatched": list(self.unmatched),
            "profile": [_plain(parting) for parting in self.profile],
        }

    def __str__(self) -> str:
        return told(self)

    def save_test(self, path: str | Path) -> None:
        """Writes a test for pytest that loads both models again and asserts that they agree.

        Raises:
            UserError: for models that did not come from a path, a comparison of other inputs or with an alignment, or a
                file that cannot be written.
        """
        worst = max((parting.rounded for parting in self.profile), default=0.0) if self.equal else 1e-4
        write_test(Path(path), self.sources, self.given, worst)


def _plain(part: Parting | Cause) -> dict[str, Any]:
    """Numbers that JSON has no word for as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in vars(part).items()}


def diff(
    a: Target, b: Target, inputs: Any = None, *, inputs_b: Any = None, align: Align | None = None, seed: int = 0
) -> Diff:
    """Walks the tensors of two models in the order computed; finds the first that parts, and why.

    Args:
        a, b: models, what :func:`pellucid.load` returns, or paths it can open. ``b`` may be one of ``transformers``.
        inputs: as for :func:`pellucid.trace`, the same for both; drawn where left out. Positions where ``keep`` is
            False are not compared.
        inputs_b: what B is given, where it is something else, as with more padding.
        align: what then makes a tensor of B comparable to A's, such as :func:`dropping`.
        seed: of what is drawn.

    Raises:
        UserError: for models that have no tensor in common, cannot read the same inputs, or are too large for copies
            in double precision.
    """
    sources = (str(a), str(b)) if isinstance(a, str | Path) and isinstance(b, str | Path) else None
    a, b = _model(a), _model(b)
    _check_families(a, b)
    if inputs is None:
        from pellucid.analysis.inputs import drawn

        inputs = drawn(a, b, seed)
    given = inputs if inputs_b is None else inputs_b
    shared = inputs if inputs_b is None and align is None else None
    align = align or _as_it_stands
    _check_room(a, b)
    exact = exactly(a), exactly(b)
    given_a, given_b = (cast(x, torch.float64, "cpu") for x in (inputs, given))
    sides = record(exact[0], given_a), record(exact[1], given_b)
    ours = is_ours(b)
    noise = jittered(exact[0], given_a, rounded_weights(*exact)) if ours else None
    plain = as_it_is(a, inputs), as_it_is(b, given)
    allowed = ULPS * max(torch.finfo(precision(model)).eps for model in (a, b))
    real = Real.of(inputs)
    profile = compared(sides, plain, noise, allowed, real, align)
    if not profile:
        hint = "a decoder and an encoder–decoder, say, compute different things"
        raise UserError("diff", "the two have no tensor in common", "two models of one family", hint)
    found = suspects(*exact) if ours else []
    first = next((parting for parting in profile if parting.parts), None)
    why: tuple[Cause, ...] = ()
    if first is not None and first.exact > first.tolerance:
        case = Case(sides[0], given_b, {p.name: p.tolerance for p in profile}, align, real)
        why = causes(case, exact[1], found)
    elif first is not None:
        why = _of_precision(plain[0], b, given, profile, align, real, found)
    return assembled(profile, sides, plain, why, [str(s) for s in found], align, real, sources, shared)


def assembled(
    profile: Sequence[Parting],
    sides: tuple[Recording, Recording],
    plain: tuple[Recording, Recording],
    why: tuple[Cause, ...],
    differences: Iterable[str],
    align: Align,
    real: Real,
    sources: tuple[str, str] | None,
    inputs: Any,
) -> Diff:
    """The findings in one."""
    first = next((parting for parting in profile if parting.parts), None)
    where, operands = "", tuple[str, ...]()
    if first is not None:
        as_run = first.exact <= first.tolerance
        side = plain if as_run else sides
        pair = paired(side[0].tensors[first.name], align(first.name, side[1].tensors[first.name]))
        assert pair is not None  # else it would not be in the profile
        other = real.filled(first.name, pair[1], pair[0])
        where = located(pair[0], other, first.allowed if as_run else first.tolerance)
        operands = sides[0].tape.entry(first.name).input_names
    matched = {parting.name for parting in profile}
    *_, last = sides[0].tensors.values()
    unmatched = tuple(_unmatched(sides, matched, align))
    complete = any(sides[0].tensors[name] is last for name in matched)  # the logits may have another name, too
    return Diff(tuple(profile), first, where, why, operands, tuple(differences), unmatched, complete, sources, inputs)


def _of_precision(
    reference: Recording, b: nn.Module, given: Any, profile: Sequence[Parting], align: Align, real: Real, found: Any
) -> tuple[Cause, ...]:
    """Causes of a parting that double precision does not show: a kernel, say, that fails in single."""
    repaired = copy.deepcopy(b).eval()
    inputs = cast(given, precision(b), next(b.parameters()).device)
    case = Case(reference, inputs, {p.name: p.allowed for p in profile}, align, real)
    return causes(case, repaired, [suspect for suspect in found if suspect.place.endswith(".kernel")])


def compared(
    sides: tuple[Recording, Recording],
    plain: tuple[Recording, Recording],
    noise: Recording | None,
    allowed: float,
    real: Real,
    align: Align,
) -> list[Parting]:
    """Every tensor that both have, in the order computed."""
    found = []
    for name, ours in sides[0].tensors.items():
        if name not in sides[1].tensors:
            continue
        pair = paired(ours, align(name, sides[1].tensors[name]))
        if pair is None:
            continue
        exact = distance(*(real.part(name, x) for x in pair))
        rounded = exact
        if name in plain[0].tensors and name in plain[1].tensors:
            own = paired(plain[0].tensors[name], align(name, plain[1].tensors[name]))
            rounded = exact if own is None else distance(*(real.part(name, x) for x in own))
        tolerance = OTHERS_TOLERANCE
        if noise is not None and name in noise.tensors:
            moved = distance(*(real.part(name, x) for x in (ours, noise.tensors[name])))
            tolerance = max(TOLERANCE, 4 * moved if math.isfinite(moved) else 0.0)
        found.append(Parting(name, exact, rounded, tolerance, allowed))
    return found


def _unmatched(sides: tuple[Recording, Recording], matched: set[str], align: Align) -> Iterable[str]:
    for name, tensor in sides[0].tensors.items():
        if name in matched:
            continue
        other = sides[1].tensors.get(name)
        yield f"{name} only in A" if other is None else f"{name} {list(tensor.shape)} in A, {list(other.shape)} in B"
    yield from (f"{name} only in B" for name in sides[1].tensors if name not in sides[0].tensors)


def _as_it_stands(name: str, tensor: Tensor) -> Tensor:
    return tensor


def dropping(padding: int, length: int) -> Align:
    """Leaves out the first positions of B, where it was given as many of padding before ``length`` real ones."""

    def align(name: str, x: Tensor) -> Tensor:
        for axis in range(1, x.dim()):
            # The last axis is one of positions only where the other is, too: a width could be as large by chance.
            of_keys = name.rpartition(".")[2] in ("mask", "scores", "weights")
            is_position = axis == x.dim() - 2 or (axis == x.dim() - 1 and of_keys)
            if is_position and x.size(axis) == padding + length:
                x = x.narrow(axis, padding, length)
        return x

    return align


def _check_room(a: nn.Module, b: nn.Module) -> None:
    """Refuses models whose copies in double precision, one of B under repair included, would not fit into memory."""
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (a, b)]
    needed, there = 8 * (sizes[0] + 2 * sizes[1]), free(torch.device("cpu"))
    if needed > there:
        found = f"copies in double precision would take {needed / 1e9:,.1f} GB"
        hint = "compare models of fewer layers, as faults are mostly in all of them"
        raise UserError("diff", found, f"at most {there / 1e9:,.1f} GB, what is free", hint)


def _model(target: Target) -> nn.Module:
    if isinstance(target, str | Path):
        from pellucid.models.load import load

        return load(target).model
    return target.model if isinstance(target, Loaded) else target


def _check_families(a: nn.Module, b: nn.Module) -> None:
    if not isinstance(a, nn.Module) or not isinstance(b, nn.Module):
        kinds = " and ".join(type(model).__name__ for model in (a, b))
        raise UserError("diff", f"found {kinds}", "two models, or the paths of two")
    if not is_ours(a):
        hint = f"diff(b, a, …) names {type(a).__name__} second" if is_ours(b) else "load one of them with pellucid.load"
        raise UserError("diff", f"{type(a).__name__} names no tensors of its own", "a model of pellucid first", hint)
    kinds = [any(name.startswith("encoder.") for name, _ in model.named_modules()) for model in (a, b)]
    if is_ours(b) and kinds[0] != kinds[1]:
        found = f"found {type(a).__name__} and {type(b).__name__}"
        raise UserError("diff", found, "two models of one family", "an encoder–decoder reads two sequences, others one")
