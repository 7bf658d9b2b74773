"""A report as lines of text.

Colours belong to the terminal and are put on there, by the style of a line; what stands here reads the same in a log.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pellucid.doctor.finding import Diagnosis, Finding, Report, Status
from pellucid.doctor.report.parts import explained, headline, influence, question, references, told, unanswered
from pellucid.doctor.report.picture import characters

Style = Literal["head", "FAIL", "WARN", "INCONCLUSIVE", "PASS", "SKIP", "text"]
WIDTH = 110
MARKS = {Status.PASS: "ok", Status.WARN: "WARN", Status.FAIL: "FAIL", Status.INCONCLUSIVE: "?", Status.SKIP: "-"}


@dataclass(frozen=True)
class Line:
    """A line of a report and how it is meant."""

    text: str
    style: Style = "text"


def plain(report: Report) -> str:
    """All of a report, without colours."""
    return "\n".join(line.text for line in lines(report)).rstrip()


def lines(report: Report) -> Iterator[Line]:
    """What is wrong first, each failure once and under its cause; then what was found out, and every other answer."""
    yield Line(headline(report), "PASS" if report.healthy else "FAIL")
    yield Line("")
    for number, (cause, findings) in enumerate(explained(report), 1):
        yield from _cause(report, number, cause, findings)
    for status, title in ((Status.WARN, "warnings"), (Status.INCONCLUSIVE, "not clear")):
        if found := report.of(status):
            yield Line(f"{title}:", "head")
            for finding in found:
                yield from _finding(report, finding, None)
            yield Line("")
    if report.inferred:
        yield Line("found out about the model:", "head")
        for note in report.inferred:
            yield from _wrapped(f"  {note}", "text", "    ")
        yield Line("")
    yield from _answers(report)


def _cause(report: Report, number: int, cause: Diagnosis, findings: tuple[Finding, ...]) -> Iterator[Line]:
    yield from _wrapped(f"{number}. {cause.name}", "head", "   ")
    if cause.why not in [finding.seen for finding in findings]:
        yield from _wrapped(f"   why: {cause.why}", "text", "        ")
    yield from _wrapped(f"   fix: {cause.fix}", "text", "        ")
    if more := references(cause, findings):
        yield from _wrapped(f"   see: {more}", "text", "        ")
    for finding in findings:
        yield from _finding(report, finding, cause)
    yield Line("")


def _finding(report: Report, finding: Finding, cause: Diagnosis | None) -> Iterator[Line]:
    mark = MARKS[finding.status]
    yield from _wrapped(
        f"   {mark} {finding.check}: {question(finding.check)}".rstrip(": "), finding.status.value, "     "
    )
    for name, text in told(finding, cause):
        yield from _wrapped(f"     {name}: {text}", "text", "       ")
    if finding.check == "influence.map":
        for row in characters(influence(report)):
            yield Line(f"       {row}")


def _answers(report: Report) -> Iterator[Line]:
    if passed := report.of(Status.PASS):
        yield Line("passed:", "head")
        for finding in passed:
            yield from _wrapped(f"  {MARKS[Status.PASS]} {finding.check}: {finding.seen}", "PASS", "     ")
        yield Line("")
    if rows := unanswered(report):
        yield Line("not asked:", "head")
        for names, why, enable in rows:
            more = f" To ask it: {enable}" if enable else ""
            yield from _wrapped(f"  {MARKS[Status.SKIP]} {names}: {why}.{more}", "SKIP", "    ")
        yield Line("")
    if report.failed:
        first = report.failed[0].check
        yield from _wrapped(
            f'A script that shows a fault without this package: report["{first}"].repro() in Python, '
            "--repro FOLDER on the command line.", "text", "",
        )  # fmt: skip


def _wrapped(text: str, style: Style, indent: str) -> Iterator[Line]:
    for line in textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False):
        yield Line(line, style)
