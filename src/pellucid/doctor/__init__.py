"""The doctor: what is wrong with a Transformer, ours or anybody's.

>>> import pellucid as pl
>>> print(pl.doctor(model, pl.Spec(kind="decoder", vocab_size=50257)))
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from pellucid.doctor.data import batch
from pellucid.doctor.examine import examine
from pellucid.doctor.finding import Diagnosis, Finding, Report, Status
from pellucid.doctor.record import Record
from pellucid.doctor.spec import Batch, Spec
from pellucid.doctor.watch import watch

__all__ = ["Batch", "Diagnosis", "Finding", "Record", "Report", "Spec", "Status", "batch", "examine", "watch"]


class _Doctor(ModuleType):
    """``pellucid.doctor`` names this package and, called, its main function: the import system would hide the latter."""

    def __call__(self, *arguments: Any, **named: Any) -> Report:
        return examine(*arguments, **named)


sys.modules[__name__].__class__ = _Doctor
