"""Looking inside a model: every tensor that matters has a name, can be watched, explained and replaced."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from pellucid.trace.calls import record_modules
from pellucid.trace.edits import Where, add, change, edit, mean, patch, replace, scale, skip, steer, swap, zero
from pellucid.trace.explain import Explanation, Term
from pellucid.trace.finder import Found, find_attention
from pellucid.trace.operations import (
    Elementwise,
    Gated,
    Given,
    Linear,
    LinearIn,
    Lookup,
    Norm,
    Operation,
    Prepended,
    Rearranged,
    Same,
    Softmax,
    Sum,
    UnitLength,
)
from pellucid.trace.statistics import Statistics
from pellucid.trace.tape import Edit, Entry, Tape
from pellucid.trace.taps import Tapped, trace
from pellucid.trace.working import Step

__all__ = [
    "Edit", "Elementwise", "Entry", "Explanation", "Found", "Gated", "Given", "Linear", "LinearIn", "Lookup", "Norm",
    "Operation", "Prepended", "Rearranged", "Same", "Softmax", "Statistics", "Step", "Sum", "Tape", "Tapped", "Term",
    "UnitLength", "Where", "add", "change", "edit", "find_attention", "mean", "patch", "record_modules", "replace",
    "scale", "skip", "steer", "swap", "trace", "zero",
]  # fmt: skip


class _Trace(ModuleType):
    """``pellucid.trace`` names this package and, called, its main function: the import system would hide the latter."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return trace(*arguments, **named)


sys.modules[__name__].__class__ = _Trace
