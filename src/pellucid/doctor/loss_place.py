"""Where a loss is taken: the line that calls the cross-entropy, and the function that the user named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pellucid.doctor.localise import file_line, written_at
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.xray import xray

NAMES = ("cross_entropy", "nll_loss", "log_softmax")
OTHERS = (Path(torch.__file__).parent, Path(__file__).parent)
"""What lies in these folders is not the user's to mend."""


def loss_place(subject: Subject, batch: Batch) -> str:
    """The line that takes the loss; where none is seen, that of the function that gives it, or of the model's pass."""
    seen = _Lines()
    try:
        with seen:
            xray(subject, batch)
    except Exception:  # a place is a help, and must not cost the finding
        seen.found.clear()
    if seen.found:
        return seen.found[0]
    given = subject.spec.loss or subject.spec.criterion
    if given is not None and not str(getattr(given, "__module__", "")).startswith("pellucid."):
        at = written_at(given)
        return f"{getattr(given, '__name__', 'the loss')} ({at})" if at else ""
    if subject.module is None:
        return ""
    kind = type(subject.module)
    at = written_at(kind.forward)
    return f"{kind.__name__}.forward ({at})" if at else ""


class _Lines(TorchFunctionMode):
    """Collects the lines from which losses are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in getattr(function, "__name__", "") for name in NAMES):
            frame = sys._getframe(1)
            while frame.f_back is not None and _of_others(frame.f_code.co_filename):
                frame = frame.f_back
            if not _of_others(frame.f_code.co_filename):
                self.found.append(
                    f"{frame.f_code.co_qualname} ({file_line(Path(frame.f_code.co_filename), frame.f_lineno)})"
                )
        return function(*args, **(kwargs or {}))


def _of_others(name: str) -> bool:
    return name.startswith("<") or any(Path(name).is_relative_to(folder) for folder in OTHERS)
