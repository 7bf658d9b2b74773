"""What every form of a report is made of: causes with the findings that they explain, figures, places."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.doctor.checks import CHECKS
from pellucid.doctor.finding import Diagnosis, Finding, Report, Status

LABELS = {
    "gaps": "deviations, as shares of the largest output",
    "in_double": "in double precision",
    "chunks": "sizes of the chunks",
    "offsets": "shares of labels at each offset",
    "own_offsets": "shares of your own labels at each offset",
    "asked": "positions asked",
    "padding_asked": "padding asked",
    "hidden": "not registered",
    "visible": "pairs seen",
    "allowed": "pairs that may be seen",
    "kernel": "computed by",
    "leaks": "moved, by the cut",
    "cuts": "cut at",
    "silent": "without effect or gradient",
    "zero": "with a gradient of zero",
    "idle": "never used",
    "missing": "not in the optimizer",
    "untaught": "not reached by the loss",
    "by_gradient": "told by its gradient",
    "score_std": "deviation of the scores",
    "of_rows": "ratio over rows",
    "rms": "sizes",
    "twins": "alike",
    "unrun": "not run",
    "sites": "places that attend",
}
"""Names of figures as a reader has them, where they are not words already; JSON has them as they are."""

SAID = (
    "way", "why", "what", "offset", "apart", "read_shift", "site", "scale", "expected", "margin", "module", "away",
    "over", "added", "mask", "gap", "kept", "only_in_training", "missed", "cause", "kind", "side", "read", "share",
    "path", "how", "table", "layer", "parameter", "projection", "dtype", "lost", "written", "left",
)  # fmt: skip
"""Figures that what was seen says already: they are in the JSON alone."""

LONGEST = 400
"""Characters of one figure: longer ones are in the JSON alone."""
PLACE = re.compile(r"(?:^|[(,]) ?([^(),:]+\.py):(\d+)")


def headline(report: Report) -> str:
    """One line: the model, and how many findings there are of each status."""
    count = Counter(finding.status for finding in report.findings)
    figures = ", ".join(f"{count[status]} {status}" for status in Status if count[status])
    state = "healthy" if report.healthy else "not healthy"
    return f"{report.model}: {state} ({figures}; {report.level}, seed {report.seed}, {report.seconds:.1f} s)"


def question(check: str) -> str:
    """The question of a check; nothing for a finding about a batch, which is no check's."""
    return next((each.question for each in CHECKS if each.name == check), "")


def explained(report: Report) -> list[tuple[Diagnosis, tuple[Finding, ...]]]:
    """Each cause with the failures that it explains; every failure stands under exactly one."""
    open_ = {finding.check: finding for finding in report.failed}
    found = []
    for cause in report.diagnoses:
        findings = tuple(open_.pop(check) for check in cause.explains if check in open_)
        if findings:
            found.append((cause, findings))
    for finding in open_.values():
        name = finding.cause or finding.seen
        alone = Diagnosis(name=name, why=finding.seen, fix=finding.fix, explains=(finding.check,))
        found.append((alone, (finding,)))
    return found


def told(finding: Finding, cause: Diagnosis | None = None) -> Iterator[tuple[str, str]]:
    """What a finding says, by name, without what its cause has said already."""
    said = set() if cause is None else {cause.name, cause.fix}
    for name, text in (
        ("seen", finding.seen),
        ("where", finding.where),
        ("done", finding.done),
        ("usual cause", finding.cause),
        ("fix", finding.fix),
        ("evidence", figures(finding.evidence)),
        ("see", ", ".join(finding.references) if cause is None else ""),  # else once, with the cause
    ):
        if text and text not in said:
            yield name, text


def references(cause: Diagnosis, findings: tuple[Finding, ...]) -> str:
    """Those of a cause and of the failures that it explains, each once."""
    return ", ".join(dict.fromkeys([*cause.references, *(each for found in findings for each in found.references)]))


def figures(evidence: Mapping[str, Any]) -> str:
    """Figures in one line, the long ones left out."""
    shown = {label(name): value for name, value in evidence.items() if name not in SAID and value not in ("", None)}
    parts = [f"{name}: {figure(value)}" for name, value in shown.items()]
    return "; ".join(part for part in parts if len(part) <= LONGEST)


def label(name: str) -> str:
    """A figure's name in words."""
    return LABELS.get(name, name.replace("_", " "))


def figure(value: Any) -> str:
    """A figure with three digits, however deep it stands."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {figure(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(figure, value)) or "none"
    return str(value)


def place(finding: Finding) -> tuple[str, int] | None:
    """The file and line that a finding names."""
    found = PLACE.search(finding.where)
    return None if found is None else (found[1].replace("\\", "/"), int(found[2]))


def unanswered(report: Report) -> list[tuple[str, str, str]]:
    """Of what was not asked: names of checks, why, and the line that would enable them; one row for each reason."""
    rows: dict[tuple[str, str], list[str]] = {}
    for finding in report.of(Status.SKIP):
        rows.setdefault((finding.seen, finding.enable), []).append(finding.check)
    return [(", ".join(names), why, enable) for (why, enable), names in rows.items()]


def influence(report: Report) -> list[list[float]]:
    """(T, T): by how much an output (row) moves when a token (column) is replaced; empty where it was not asked."""
    for finding in report.findings:
        if finding.check == "influence.map":
            drawn: list[list[float]] = finding.evidence.get("map", [])
            return drawn
    return []


def leaks(report: Report) -> bool:
    """Whether what stands right of the diagonal is a fault."""
    return any(finding.check == "causal.prefix_invariance" for finding in report.failed)
