"""What an experiment is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = dict[str, Any]
"""What one seed gave: numbers, texts, lists and dictionaries of them, as JSON has them."""

Say = Callable[[str], None]
"""Takes a line about how far an experiment is."""


@dataclass(frozen=True)
class Kept:
    """What one seed gave, and a model that is worth keeping.

    Attributes:
        save: writes the folder of the model, and a file ``example.*`` for it to read.
    """

    measured: Measured
    save: Callable[[Path], None]


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        shows: whether the claim shows at this size, with every seed.
        said: with which figures, in a sentence or two.
    """

    shows: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One argument for the architecture, as something to run.

    Attributes:
        name: on the command line.
        question: which it asks.
        claim: what is said, in a sentence.
        source: who says so, and where.
        setting: what is run, at which size.
        minutes: it takes, with three seeds on two cores.
        measure: runs it with a seed; it is told where to say how far it is.
        judge: says what all seeds together show.
        draw: the figure.
        data: a set of the catalogue that it needs, whose folder ``measure`` is then given too.
    """

    name: str
    question: str
    claim: str
    source: str
    setting: str
    minutes: float
    measure: Callable[..., Measured | Kept]
    judge: Callable[[Sequence[Measured]], Verdict]
    draw: Callable[[Figure, Sequence[Measured]], None]
    data: str | None = None
