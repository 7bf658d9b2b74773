"""What does the doctor say of the architectures of transformers?

All of ``tests/zoo/field.py``, tiny, from their configs, with random weights, at the level ``standard``, three seeds.
Every FAIL and every INCONCLUSIVE must be one of ``tests/zoo/explained.py``, whose evidence is on the page.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from common import require_quiet, write_page

import pellucid as pl
from pellucid.doctor.finding import Report, Status

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.zoo.explained import CAUSES, Explained, explained
from tests.zoo.field import FIELD, Architecture, tiny

SEEDS = (0, 1, 2)
OPEN = (Status.FAIL, Status.INCONCLUSIVE)


@dataclass(frozen=True)
class Row:
    """One architecture.

    Attributes:
        reports: with each seed.
        seconds: that the first took.
    """

    architecture: Architecture
    reports: tuple[Report, ...]
    seconds: float

    @property
    def unexplained(self) -> set[str]:
        known = explained(self.architecture.name)
        return {f.check for report in self.reports for f in report.of(*OPEN) if f.check not in known}

    @property
    def same(self) -> bool:
        """Whether all seeds give the same statuses."""
        return len({tuple((f.check, f.status) for f in report) for report in self.reports}) == 1

    @property
    def wavering(self) -> list[str]:
        by_check = [{finding.status for finding in findings} for findings in zip(*self.reports, strict=True)]
        return [f.check for f, statuses in zip(self.reports[0], by_check, strict=True) if len(statuses) > 1]

    def __str__(self) -> str:
        first = self.reports[0]
        count = Counter(finding.status for finding in first)
        figures = " | ".join(str(count[status] or "") for status in Status)
        open_ = ", ".join(f.check for f in first.of(*OPEN))
        warned = ", ".join(f.check for f in first.of(Status.WARN))
        return f"| {self.architecture.name} | {self.architecture.kind} | {figures} | {open_} | {warned} |"


def examined(architecture: Architecture, seeds: tuple[int, ...]) -> Row:
    began = time.perf_counter()
    reports = [pl.doctor(tiny(architecture), seed=seeds[0])]
    seconds = time.perf_counter() - began
    reports += [pl.doctor(tiny(architecture), seed=seed) for seed in seeds[1:]]
    return Row(architecture, tuple(reports), seconds)


def page(rows: list[Row]) -> str:
    count = Counter(row.architecture.kind for row in rows)
    faults = [cause for cause in CAUSES if cause.kind == "fault"]
    limits = [cause for cause in CAUSES if cause.kind == "limit"]
    open_ = [(row, finding) for row in rows for finding in row.reports[0].of(*OPEN)]
    unexplained = [f"{row.architecture.name}: {', '.join(sorted(row.unexplained))}" for row in rows if row.unexplained]
    wavering = [f"{row.architecture.name} ({', '.join(row.wavering)})" for row in rows if not row.same]
    healthy = sum(not row.reports[0].of(*OPEN) for row in rows)
    kinds = ", ".join(f"{number} {kind.replace('_', '–')}s" for kind, number in count.items())
    return f"""
{len(rows)} architectures of transformers {transformers.__version__}: {kinds}. {healthy} of them have no finding that is
FAIL or INCONCLUSIVE. The others have {len(open_)}, all of them explained by {len(CAUSES)} causes:
{len(faults)} faults of the models, and {len(limits)} limits that are known and meant. Unexplained: {
        "; ".join(unexplained) or "none"
    }.

With the seeds {", ".join(map(str, SEEDS))} the statuses are the same in {sum(row.same for row in rows)} of {len(rows)}{
        "; not in " + ", ".join(wavering) if wavering else ""
    }. An examination at the level `standard` takes {sum(row.seconds for row in rows) / len(rows):.1f} s.

## Faults

{chr(10).join(map(told, faults))}

## Limits

{chr(10).join(map(told, limits))}

## All of them

| architecture | kind | {" | ".join(Status)} | FAIL or INCONCLUSIVE, explained above | WARN |
|---|---|{"---|" * len(Status)}---|---|
{chr(10).join(map(str, rows))}
"""


def told(cause: Explained) -> str:
    return f"- **{', '.join(cause.architectures)}** ({', '.join(cause.checks)}): {cause.why}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of names; writes nothing")
    chosen = parser.parse_args().only
    torch.set_num_threads(1)
    require_quiet()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows = []
    for architecture in FIELD:
        if not architecture.present or (chosen and not architecture.name.startswith(tuple(chosen))):
            continue
        rows.append(examined(architecture, SEEDS))
        print(
            rows[-1],
            "" if rows[-1].same else rows[-1].wavering,
            "UNEXPLAINED" if rows[-1].unexplained else "",
            flush=True,
        )
    if chosen:
        print(page(rows))
    else:
        write_page("doctor_field", "The doctor in the field", page(rows))
    if any(row.unexplained for row in rows):
        sys.exit("some findings are not explained")


if __name__ == "__main__":
    main()
