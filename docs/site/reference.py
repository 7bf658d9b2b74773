"""Pages of the reference: which modules are shown, in which order. What is said of them are their docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pellucid

SOURCE = Path(pellucid.__file__).parent
SHOWN = {
    "config": ("model", "parts", "run", "start", "optimisation", "presets", "files"),
    "data": ("corpora", "tokenizers", "catalog", "batches", "masking", "images", "sounds"),
    "nn": ("attention", "masks", "kernels", "cache", "positions", "norms", "feed_forward", "embedding", "block"),
    "models": ("build", "encoder", "decoder", "encoder_decoder", "heads", "tower", "checkpoint", "load", "convert",
               "onnx"),
    "trace": ("tape", "taps", "edits", "explain", "store", "finder"),
    "analysis": (),
    "training": ("loop", "objectives", "optim", "schedule", "evaluate", "resume", "distributed"),
    "inference": ("predict", "decode", "sampling", "rules", "constraints", "beam", "speculative", "guesses",
                  "engine", "encode", "prefixes", "invariant", "translating", "alternatives", "alignments", "scores",
                  "transcribe"),
    "doctor": ("examine", "spec", "finding", "watch", "data", "pytest_plugin"),
    "lab": ("experiment", "fitting", "makers", "tasks"),
}  # fmt: skip
"""The modules of a package that people use; none named: all of them."""


def reference() -> Iterator[tuple[str, str]]:
    """Each page's name and text."""
    yield "index", "# Reference\n\nWhat stands in `pellucid` itself; the other pages go by package.\n\n" + _public()
    for package, names in SHOWN.items():
        modules = names or sorted(path.stem for path in (SOURCE / package).glob("[a-z]*.py"))
        yield package, f"# pellucid.{package}\n\n" + "\n".join(f"::: pellucid.{package}.{name}\n" for name in modules)


def _public() -> str:
    modules = {name: home for name, home in sorted(pellucid._HOMES.items()) if not home.endswith(":")}
    return "\n".join(f"::: {home}.{name}\n" for name, home in modules.items())
