"""A report in Markdown: causes first, the map drawn, a script that shows each fault."""

from __future__ import annotations

import re
from html import escape

from pellucid.doctor.finding import Finding, Report, Status
from pellucid.doctor.report.parts import explained, headline, influence, leaks, question, references, told, unanswered
from pellucid.doctor.report.picture import characters, svg

CAPTION = "Row: the output that moves; column: the token that was replaced; darker: by more."


def markdown(report: Report) -> str:
    """All of a report; nothing is fetched from anywhere to show it."""
    lines = [f"# {_plain(headline(report))}", ""]
    for number, (cause, findings) in enumerate(explained(report), 1):
        lines += [f"## {number}. {_plain(cause.name)}", "", f"**Fix:** {_plain(cause.fix)}", ""]
        lines += [f"Why: {_plain(cause.why)}", ""]
        for finding in findings:
            lines += _finding(finding, dict(told(finding, cause)))
        if more := references(cause, findings):
            lines += [f"See {_plain(more)}.", ""]
    for status, title in ((Status.WARN, "Warnings"), (Status.INCONCLUSIVE, "Not clear")):
        if found := report.of(status):
            lines += [f"## {title}", ""]
            lines += [line for finding in found for line in _finding(finding, dict(told(finding)))]
    return "\n".join([*lines, *_map(report), *_inferred(report), *_answers(report)]).rstrip() + "\n"


def _finding(finding: Finding, fields: dict[str, str]) -> list[str]:
    lines = [f"### {finding.status} `{finding.check}`: {_plain(question(finding.check))}".rstrip(": "), ""]
    lines += [f"- {name}: {_plain(text)}" for name, text in fields.items()] + [""]
    if finding.script:
        lines += ["<details><summary>A script that shows it</summary>", "", *_code(finding.repro(), "python"), ""]
        lines += ["</details>", ""]
    return lines


def _code(text: str, language: str = "") -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}{language}", text.rstrip(), fence]


def _map(report: Report) -> list[str]:
    drawn = influence(report)
    if not drawn:
        return []
    picture = svg(drawn, forbidden=leaks(report)).replace("\n", "")
    return ["## What moves what", "", picture, "", *_code("\n".join(characters(drawn)), "text"), "", CAPTION, ""]


def _inferred(report: Report) -> list[str]:
    if not report.inferred:
        return []
    return ["## Found out about the model", "", *(f"- {_plain(note)}" for note in report.inferred), ""]


def _answers(report: Report) -> list[str]:
    lines = []
    if passed := report.of(Status.PASS):
        lines += ["## Passed", "", "| check | seen |", "|---|---|"]
        lines += [f"| `{finding.check}` | {_plain(finding.seen)} |" for finding in passed] + [""]
    if rows := unanswered(report):
        lines += ["## Not asked", "", "| checks | why | to ask it |", "|---|---|---|"]
        lines += [f"| {_plain(names)} | {_plain(why)} | {_plain(enable)} |" for names, why, enable in rows] + [""]
    return lines


def _plain(text: str) -> str:
    """Text that is no markup, whatever a model's parts are called."""
    text = escape(" ".join(text.split()), quote=False)
    for mark in "\\`*_[]|":
        text = text.replace(mark, f"\\{mark}")
    return text
