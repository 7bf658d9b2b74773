"""Writes which check catches which bug of the zoo: ``PYTHONPATH=tests python -m zoo.table``, some ten minutes."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import pellucid as pl
import zoo
from zoo.entry import Bug

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "doctor-zoo.md"
HEAD = """# The bug zoo: which check catches which bug

{bugs} faults that people really made, planted in small decoders, encoders and encoder–decoders ({published} of them in
classes of `transformers`), each examined as a user would, at `level="standard"` or `"full"` where it needs training.
Numbers with # are those of the catalogue that the zoo was made from; others name a report. The first check is the one
that names the fault best. Written by `PYTHONPATH=tests python -m zoo.table`; `tests/zoo/test_zoo.py` keeps it true.

"""


def bugs() -> list[Bug]:
    """Those of every file of the zoo."""
    files = [found.name for found in pkgutil.iter_modules(zoo.__path__) if not found.name.startswith("test_")]
    return [
        bug for file in files if file != "table" for bug in getattr(importlib.import_module(f"zoo.{file}"), "BUGS", ())
    ]


def caught(bug: Bug) -> list[str]:
    """The checks that fail, the one that names the fault before the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, spec = bug.made()
        level = "full" if bug.level == "full" else "standard"
        failed = [finding.check for finding in pl.doctor(model, spec, level).failed]
    return sorted(failed, key=lambda name: bug.checks.index(name) if name in bug.checks else len(bug.checks))


def main() -> None:
    every = bugs()
    rows, count = [], Counter[str]()
    for place, bug in enumerate(every, 1):
        found = caught(bug)
        count.update(found)
        rows.append(f"| {bug.name} | {bug.family.replace('_', '–')} | {bug.reference} | {', '.join(found)} |")
        print(f"\r{place}/{len(every)}", end="", file=sys.stderr, flush=True)
    head = HEAD.format(bugs=len(every), published=sum(bug.published for bug in every))
    checks = "| check | bugs |\n|---|---|\n" + "".join(f"| `{name}` | {n} |\n" for name, n in count.most_common())
    table = "| bug | family | reference | FAIL |\n|---|---|---|---|\n" + "\n".join(rows)
    PAGE.write_text(f"{head}## How many each check catches\n\n{checks}\n## Every bug\n\n{table}\n")


if __name__ == "__main__":
    main()
