"""A report in SARIF 2.1.0, the format that code review reads: OASIS Standard, 2020."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from pellucid.doctor.checks import CHECKS
from pellucid.doctor.finding import Finding, Report, Status
from pellucid.doctor.report.parts import explained, place, question
from pellucid.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {Status.FAIL: "error", Status.WARN: "warning"}


def sarif(report: Report, source: tuple[str, int] | None = None) -> dict[str, Any]:
    """One run, its rules the checks, its results what failed and what is warned of.

    Args:
        source: the file, relative to where the repository begins, and the line that a finding is put at which names
            neither; code review shows no result without a place.
    """
    rules = [_rule(check.name, check.question) for check in CHECKS]
    names = [rule["id"] for rule in rules]
    causes = {finding.check: cause.name for cause, findings in explained(report) for finding in findings}
    results = []
    for finding in report.of(*LEVELS):
        if finding.check not in names:  # of a batch: faults are named as they are found
            names.append(finding.check)
            rules.append(_rule(finding.check, finding.cause or finding.seen))
        results.append(_result(finding, names.index(finding.check), causes.get(finding.check, ""), source))
    driver = {"name": "pellucid doctor", "version": __version__, "semanticVersion": __version__, "rules": rules}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "invocations": [{"executionSuccessful": True}],
                "columnKind": "unicodeCodePoints",
                "results": results,
                "properties": {"model": report.model, "level": report.level, "seed": report.seed},
            }
        ],
    }


def _rule(name: str, text: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": "".join(part.capitalize() for part in name.replace(".", "_").split("_")),
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["transformer", name.split(".")[0]]},
    }


def _result(finding: Finding, index: int, cause: str, source: tuple[str, int] | None) -> dict[str, Any]:
    result = {
        "ruleId": finding.check,
        "ruleIndex": index,
        "level": LEVELS[finding.status],
        "message": {"text": _message(finding, cause)},
        "partialFingerprints": {"check/v1": finding.check},
    }
    at = place(finding)
    if at is None or not Path(at[0]).is_file():  # of a file elsewhere only the name is told
        at = source
    if at is not None:
        result["locations"] = [_location(finding, *at)]
    return result


def _message(finding: Finding, cause: str) -> str:
    asked = question(finding.check)
    parts = [f"{asked} No: {finding.seen}" if asked else finding.seen]
    parts += [f"{name}: {text}" for name, text in (
        ("Cause", cause), ("Usual cause", finding.cause if finding.cause != cause else ""), ("Fix", finding.fix),
        ("Where", finding.where),
    ) if text]  # fmt: skip
    return ". ".join(part.rstrip(".") for part in parts) + "."


def _location(finding: Finding, path: str, line: int) -> dict[str, Any]:
    physical = {
        "artifactLocation": {"uri": quote(path), "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": max(1, line)},
    }
    found: dict[str, Any] = {"physicalLocation": physical}
    if finding.where:
        found["logicalLocations"] = [{"fullyQualifiedName": finding.where.partition(" ")[0], "kind": "member"}]
    return found
