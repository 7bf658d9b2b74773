"""What a name of a script stands for, and whether it gives what the spec's own function gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.doctor.measures import gap
from pellucid.doctor.scripts.observing import Observed, observed
from pellucid.doctor.scripts.sources import source_of
from pellucid.doctor.subject import Subject

SAME = 1e-4
"""Share of the largest output: what a script computes may take other kernels."""


@dataclass(frozen=True)
class Definition:
    """Lines that define a name, and the imports that they need."""

    text: str
    imports: tuple[str, ...] = ()


def to_fill(head: str, what: str) -> Definition:
    """A function whose body is for the reader to write."""
    return Definition(f"def {head}:\n    raise NotImplementedError  # fill in: {what}")


def own(function: Any, name: str, wrapper: str, subject: Subject) -> Definition | None:
    """A function as its user wrote it, under a name of ours, and what calls it."""
    found = source_of(function, name, subject.model)
    return None if found is None else Definition(f"{found.lines()}\n\n{wrapper}", found.imports)


def copied(function: Any, head: str, what: str, subject: Subject) -> Definition:
    """A function as its user wrote it, under the name in ``head``; a line to fill in where that cannot be had."""
    found = None if function is None else source_of(function, head.partition("(")[0], subject.model)
    return to_fill(head, what) if found is None else Definition(found.lines(), found.imports)


AS_BATCH = Definition(
    "def as_batch(ids, keep=None, source=None, source_keep=None, labels=None, positions=None):\n"
    "    return SimpleNamespace(**locals())",
    ("from types import SimpleNamespace",),
)
"""What the spec's own functions are given."""


def watched(subject: Subject, run: Callable[[Any], Any]) -> Observed | None:
    """The one call of the model that a function makes."""
    try:
        with subject.mode(False), torch.no_grad():
            subject.reseed()
            return observed(subject.model, run)
    except Exception:  # a script is a help, and must not cost the finding
        return None


def holds(
    subject: Subject, definition: Definition, write: Callable[[dict[str, Any]], Any], run: Callable[[Any], Any]
) -> bool:
    """Whether what is defined gives what the spec's function gives.

    Args:
        write: calls it, given the names of the script.
        run: calls the spec's function, given the model.
    """
    space: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "model": subject.model}
    try:
        with subject.mode(False), torch.no_grad():
            subject.reseed()
            expected = run(subject.model)
    except Exception:  # what cannot be run cannot be compared: a user's function as it is written is then the best
        return True
    try:
        with subject.mode(False), torch.no_grad():
            for each in (AS_BATCH, definition):
                exec("\n".join([*each.imports, each.text]), space)
            subject.reseed()
            found = write(space)
    except Exception:  # a name that is nowhere found, a stand-in that lacks something
        return False
    one, other = (x[0] if isinstance(x, tuple) else x for x in (found, expected))
    return isinstance(one, Tensor) and one.shape == other.shape and gap(_flat(one), _flat(other)).share < SAME


def _flat(x: Tensor) -> Tensor:
    return x.reshape(1, -1)
