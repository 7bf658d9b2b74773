"""pellucid: the Transformer you can see through.

>>> import pellucid as pl
>>> run = pl.load("runs/demo-encoder-decoder")
>>> pl.translate(run, ["vendredi 13 mars 2071"])
['2071-03-13']
>>> with pl.trace(run.model, watch="*.cross_attention.weights") as tape:
...     pl.translate(run, ["3 March 2021"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pellucid.version import __version__

if TYPE_CHECKING:
    from pellucid import doctor
    from pellucid.analysis.compare import diff
    from pellucid.analysis.size import size
    from pellucid.config.presets import preset
    from pellucid.doctor.spec import Spec
    from pellucid.explorer.notebook import explore
    from pellucid.inference.beam import Power, Wu, beam_search
    from pellucid.inference.decode import Prompt, generate, stream
    from pellucid.inference.engine import Engine, fast
    from pellucid.inference.predict import classify, complete, embed, fill, tag, translate, write
    from pellucid.inference.transcribe import transcribe
    from pellucid.models.build import build
    from pellucid.models.convert import convert
    from pellucid.models.load import load
    from pellucid.trace import Tape, edit, edits, trace
    from pellucid.training.evaluate import evaluate
    from pellucid.training.loop import train

# Loaded on first use, so that reading a config or printing a version does not wait for torch.
_HOMES = {
    "beam_search": "pellucid.inference.beam",
    "build": "pellucid.models.build",
    "classify": "pellucid.inference.predict",
    "complete": "pellucid.inference.predict",
    "convert": "pellucid.models.convert",
    "diff": "pellucid.analysis.compare",
    "doctor": "pellucid.doctor:",
    "edit": "pellucid.trace",
    "edits": "pellucid.trace.edits:",
    "embed": "pellucid.inference.predict",
    "evaluate": "pellucid.training.evaluate",
    "Engine": "pellucid.inference.engine",
    "explore": "pellucid.explorer.notebook",
    "fast": "pellucid.inference.engine",
    "fill": "pellucid.inference.predict",
    "generate": "pellucid.inference.decode",
    "load": "pellucid.models.load",
    "Power": "pellucid.inference.beam",
    "preset": "pellucid.config.presets",
    "Prompt": "pellucid.inference.decode",
    "size": "pellucid.analysis.size",
    "Spec": "pellucid.doctor.spec",
    "stream": "pellucid.inference.decode",
    "Tape": "pellucid.trace",
    "tag": "pellucid.inference.predict",
    "trace": "pellucid.trace",
    "train": "pellucid.training.loop",
    "transcribe": "pellucid.inference.transcribe",
    "translate": "pellucid.inference.predict",
    "write": "pellucid.inference.predict",
    "Wu": "pellucid.inference.beam",
}

__all__ = [
    "Engine",
    "Power",
    "Prompt",
    "Spec",
    "Tape",
    "Wu",
    "__version__",
    "beam_search",
    "build",
    "classify",
    "complete",
    "convert",
    "diff",
    "doctor",
    "edit",
    "edits",
    "embed",
    "evaluate",
    "explore",
    "fast",
    "fill",
    "generate",
    "load",
    "preset",
    "size",
    "stream",
    "tag",
    "trace",
    "train",
    "transcribe",
    "translate",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    module, whole, _ = _HOMES[name].partition(":")
    found = import_module(module)
    return found if whole else getattr(found, name)


def __dir__() -> list[str]:
    return __all__
