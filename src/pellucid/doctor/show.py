"""A report as lines of text.

Colours belong to the terminal and are put on there; what stands here reads the same in a log.
"""

from __future__ import annotations

import textwrap
from collections import Counter

from pellucid.doctor.finding import Finding, Report, Status

WIDTH = 110
MARKS = {Status.PASS: "ok", Status.WARN: "warn", Status.FAIL: "FAIL", Status.INCONCLUSIVE: "?", Status.SKIP: "-"}


def plain(report: Report) -> str:
    """What is wrong first, with cause, fix and evidence; then what was found out, and every question in one line."""
    return "\n".join([headline(report), "", *_causes(report), *_details(report), *_inferred(report), *_table(report)])


def headline(report: Report) -> str:
    """One line: the model, and how many findings there are of each status."""
    count = Counter(finding.status for finding in report.findings)
    figures = ", ".join(f"{count[status]} {status}" for status in Status if count[status])
    state = "healthy" if report.healthy else "not healthy"
    return f"{report.model}: {state} ({figures}; {report.level}, seed {report.seed}, {report.seconds:.1f} s)"


def _causes(report: Report) -> list[str]:
    lines = []
    for number, cause in enumerate(report.diagnoses, 1):
        lines += _wrapped(f"{number}. {cause.name}", indent="   ")
        lines += _wrapped(f"   why: {cause.why} ({', '.join(cause.explains)})", indent="     ")
        lines += _wrapped(f"   fix: {cause.fix}", indent="     ")
        if cause.references:
            lines.append(f"   see: {', '.join(cause.references)}")
        lines.append("")
    return lines


def _details(report: Report) -> list[str]:
    lines = []
    for finding in report.of(Status.FAIL, Status.WARN, Status.INCONCLUSIVE):
        lines += _wrapped(f"{MARKS[finding.status]} {finding.check}: {finding.seen}", indent="  ")
        for name in ("done", "where", "cause", "fix"):
            if getattr(finding, name):
                lines += _wrapped(f"  {name}: {getattr(finding, name)}", indent="    ")
        if finding.references:
            lines.append(f"  see: {', '.join(finding.references)}")
        lines.append("")
    return lines


def _inferred(report: Report) -> list[str]:
    if not report.inferred:
        return []
    return ["found out about the model:", *(f"  {note}" for note in report.inferred), ""]


def _table(report: Report) -> list[str]:
    return [line for finding in report.findings for line in _line(finding)]


def _line(finding: Finding) -> list[str]:
    more = f" To ask it: {finding.enable}" if finding.enable else ""
    return _wrapped(f"{MARKS[finding.status]:>4} {finding.check}: {finding.seen}{more}", indent="       ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
