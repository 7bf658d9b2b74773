"""All experiments, in the order in which a reader may want to meet them."""

from __future__ import annotations

from importlib import import_module

from pellucid.errors import UserError, nearest
from pellucid.lab.experiment import Experiment

NAMES = (
    "recall", "reversal", "steps", "scale", "heads", "positions", "warmup", "residuals", "mask", "tied", "smoothing",
    "induction", "length", "images", "mnist", "sounds", "pictures",
)  # fmt: skip


def find(name: str) -> Experiment:
    """An experiment by its name.

    Raises:
        UserError: for one that does not exist, with the nearest.
    """
    if name not in NAMES:
        raise UserError(f'experiment "{name}"', "there is none of this name", hint=nearest(name, NAMES))
    found: Experiment = import_module(f"pellucid.lab.experiments.{name}").EXPERIMENT
    return found
