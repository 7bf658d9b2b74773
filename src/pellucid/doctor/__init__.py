"""The doctor: what is wrong with a Transformer, ours or anybody's.

>>> import pellucid as pl
>>> print(pl.doctor(model, pl.Spec(kind="decoder", vocab_size=50257)))
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.doctor.data import batch  # noqa: TC004
    from pellucid.doctor.examine import examine  # noqa: TC004
    from pellucid.doctor.finding import Diagnosis, Finding, Report, Status  # noqa: TC004
    from pellucid.doctor.record import Record  # noqa: TC004
    from pellucid.doctor.spec import Batch, Spec  # noqa: TC004
    from pellucid.doctor.watch import watch  # noqa: TC004

__all__ = ["Batch", "Diagnosis", "Finding", "Record", "Report", "Spec", "Status", "batch", "examine", "watch"]


def _from(home: str, name: str) -> Any:
    """Imported on first use: pytest loads the plugin of this package at every start, and must not wait for torch."""
    # Modules of the same name would take its place when they are imported: they are told that they did.
    return property(lambda self: getattr(import_module(f"pellucid.doctor.{home}"), name), lambda self, module: None)


class _Doctor(ModuleType):
    """``pellucid.doctor`` names this package and, called, its main function: importing it would hide the latter."""

    batch = _from("data", "batch")
    examine = _from("examine", "examine")
    watch = _from("watch", "watch")
    Diagnosis, Finding = _from("finding", "Diagnosis"), _from("finding", "Finding")
    Report, Status = _from("finding", "Report"), _from("finding", "Status")
    Record = _from("record", "Record")
    Batch, Spec = _from("spec", "Batch"), _from("spec", "Spec")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.examine(*arguments, **named)


sys.modules[__name__].__class__ = _Doctor
