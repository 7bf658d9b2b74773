"""Why two models part: repairs of B, tried one after another until its tensors are A's.

A repair is believed when the tensor at which the two part agrees after it, and everything before still does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from pellucid.analysis.guesses import guesses
from pellucid.analysis.recordings import Align, Edits, Real, Recording, distance, is_ours, paired, record
from pellucid.analysis.suspects import Suspect
from pellucid.errors import UserError

TRIES, CAUSES = 16, 8
LOOSE = 1e-5  # of scale: what is left after a factor was guessed from rounded weights


@dataclass(frozen=True)
class Cause:
    """Why two models part at a tensor: what undoes it.

    Attributes:
        tensor: at which they part.
        place: the parameter, setting or tensor of B that is at fault; ``others`` those at fault in the same way.
        what: how it is in B.
        remedy: what was done to a copy of B.
        left: the distance at the tensor afterwards, as a share of its scale.
    """

    tensor: str
    place: str
    what: str
    remedy: str
    left: float
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f" (and {len(self.others)} more)" if self.others else ""
        return f"{self.place} of B{more} {self.what}; {self.remedy} makes it agree to {self.left:.0e}"


@dataclass(frozen=True)
class Case:
    """What a copy of B is measured by.

    Attributes:
        reference: what A computes.
        inputs: what B is given.
        tolerance: for each name to be compared, in order, how far its tensors may be apart.
        align: what makes B's tensors comparable to A's.
        real: which positions count.
    """

    reference: Recording
    inputs: Any
    tolerance: Mapping[str, float]
    align: Align
    real: Real = field(default_factory=Real)

    def apart(self, name: str, other: Recording) -> float:
        """How far B's tensor is from A's; infinite where B has none of that shape."""
        if name not in other.tensors:
            return float("inf")
        pair = paired(self.reference.tensors[name], self.align(name, other.tensors[name]))
        return float("inf") if pair is None else distance(*(self.real.part(name, x) for x in pair))

    def reached(self, other: Recording, least: float = 0.0) -> int:
        """How many tensors agree before the first that does not."""
        names = enumerate(self.tolerance.items())
        return next((i for i, (name, most) in names if self.apart(name, other) > max(most, least)), len(self.tolerance))


@dataclass(frozen=True)
class _Trial:
    suspect: Suspect
    model: nn.Module
    edits: Edits
    recording: Recording
    reached: int


def causes(case: Case, b: nn.Module, found: Sequence[Suspect]) -> tuple[Cause, ...]:
    """The repairs that carry the agreement from one parting to the next, each told with what is left after it."""
    if not is_ours(b):
        return _of_one_tensor(case, b)
    edits: Edits = {}
    least, left, told = 0.0, list(found), list[Cause]()
    names = list(case.tolerance)
    now = record(b, case.inputs)
    reached = case.reached(now)
    while reached < len(names) and len(told) < CAUSES:
        best = _best(case, b, edits, now, names[reached], reached, left, least)
        if best is None:
            break
        suspect = best.suspect
        rest = case.apart(names[reached], best.recording)
        told.append(Cause(names[reached], suspect.place, suspect.what, suspect.remedy, rest, suspect.others))
        b, edits, now, reached = best.model, best.edits, best.recording, best.reached
        left = [other for other in left if other is not suspect]
        least = least if suspect.exact else LOOSE
        reached = max(reached, case.reached(now, least))
    return tuple(told)


def _best(
    case: Case, b: nn.Module, edits: Edits, now: Recording, at: str, reached: int, left: Sequence[Suspect], least: float
) -> _Trial | None:
    """The repair that says most among those that get past a tensor; of several the one that gets furthest."""
    best: _Trial | None = None
    for suspect in _tried(case, now, at, left):
        if best is not None and suspect.weight < best.suspect.weight:
            break  # those that say less come last
        trial = _trial(case, b, edits, suspect, least)
        if trial is None or trial.reached <= reached:
            continue
        if best is None or trial.reached > best.reached:
            best = trial
        if trial.reached == len(case.tolerance):
            break
    return best


def _tried(case: Case, now: Recording, at: str, left: Sequence[Suspect]) -> list[Suspect]:
    """The suspects to try, those that say most first; of these the nearest."""
    known = sorted(left, key=lambda suspect: -max(_shared(place, at) for place in suspect.places))
    # What the tape of B no longer holds cannot be guessed at.
    found = list(_guessed(case, now, at))
    return sorted([*known[:TRIES], *found], key=lambda suspect: -suspect.weight)


def _guessed(case: Case, now: Recording, at: str) -> Iterator[Suspect]:
    if at not in now.tape.tensors:
        return
    a, b = case.reference.tensors[at], now.tensors[at]
    if a.shape == b.shape == case.align(at, b).shape:  # else its operands do not fit A's either
        yield from guesses(at, a, b, case.reference.tape, now.tape, case.real)


def _shared(place: str, at: str) -> float:
    """How much of a path two names share; what belongs to the whole model is as near as the layer."""
    parts, others = place.split("."), at.split(".")
    pairs = enumerate(zip(parts, others, strict=False))
    shared = next((i for i, (part, other) in pairs if part != other), min(len(parts), len(others)))
    of_all = len(parts) <= 2 and not any(part.isdigit() for part in parts)
    return shared + 1.5 if of_all else float(shared)


def _trial(case: Case, b: nn.Module, edits: Edits, suspect: Suspect, least: float) -> _Trial | None:
    """A copy of B with one more repair; ``None`` where the repair does not fit what else is wrong."""
    repaired = copy.deepcopy(b)
    more = {name: [*edits.get(name, []), edit] for name, edit in suspect.edits.items()}
    try:
        suspect.repair(repaired)
        recording = record(repaired, case.inputs, {**edits, **more})
    except (UserError, RuntimeError, IndexError, AttributeError, AssertionError):
        return None
    least = least if suspect.exact else LOOSE
    return _Trial(suspect, repaired, {**edits, **more}, recording, case.reached(recording, least))


def _of_one_tensor(case: Case, b: nn.Module) -> tuple[Cause, ...]:
    """Guesses for a model that cannot be edited: whether they hold for the first tensor that parts."""
    now = record(b, case.inputs)
    names = list(case.tolerance)
    reached = case.reached(now)
    if reached == len(names):
        return ()
    at = names[reached]
    for suspect in sorted(_guessed(case, now, at), key=lambda suspect: -suspect.weight):
        repaired = suspect.edits[at](case.align(at, now.tensors[at]))
        rest = case.apart(at, replace(now, tensors={**now.tensors, at: repaired}))
        return (Cause(at, suspect.place, suspect.what, suspect.remedy, rest),)
    return ()
