"""Looking inside a model: every tensor that matters has a name, can be watched and can be replaced."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType

from torch import nn

from pellucid.trace.taps import Edit, Tape, Tapped, trace

__all__ = ["Edit", "Tape", "Tapped", "trace"]


class _Trace(ModuleType):
    """``pellucid.trace`` names this package and, called, its main function: the import system would hide the latter."""

    def __call__(
        self, model: nn.Module, watch: str | Sequence[str] = "*", edits: Mapping[str, Edit] | None = None
    ) -> AbstractContextManager[Tape]:
        return trace(model, watch, edits)


sys.modules[__name__].__class__ = _Trace
