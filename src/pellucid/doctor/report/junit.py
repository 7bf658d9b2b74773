"""A report in JUnit's XML, which every CI shows: one test case a check."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pellucid.doctor.finding import Finding, Report, Status
from pellucid.doctor.report.parts import explained, question, told

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def junit(report: Report) -> str:
    """FAIL is a failure; SKIP and INCONCLUSIVE, which is no answer either, are skipped; WARN passes and says so."""
    count = {status: len(report.of(status)) for status in Status}
    suite = Element(
        "testsuite",
        name=f"pellucid doctor: {_clean(report.model)}",
        tests=str(len(report.findings)),
        failures=str(count[Status.FAIL]),
        errors="0",
        skipped=str(count[Status.SKIP] + count[Status.INCONCLUSIVE]),
        time=f"{report.seconds:.3f}",
    )
    causes = {
        finding.check: _lines(finding, cause.name) for cause, findings in explained(report) for finding in findings
    }
    for finding in report.findings:
        suite.append(_case(finding, causes.get(finding.check, _lines(finding))))
    whole = Element("testsuites", {key: suite.attrib[key] for key in ("tests", "failures", "errors", "time")})
    whole.append(suite)
    indent(whole)
    return tostring(whole, encoding="unicode", xml_declaration=True) + "\n"


def _case(finding: Finding, text: str) -> Element:
    case = Element("testcase", classname=f"pellucid.doctor.{finding.category}", name=finding.check, time="0")
    seen = _clean(finding.seen)
    if finding.status is Status.FAIL:
        SubElement(case, "failure", message=seen, type=finding.check).text = text
    elif finding.status in (Status.SKIP, Status.INCONCLUSIVE):
        more = f" To ask it: {_clean(finding.enable)}" if finding.enable else ""
        SubElement(case, "skipped", message=f"{finding.status}: {seen}{more}")
    else:
        SubElement(case, "system-out").text = text if finding.status is Status.WARN else seen
    return case


def _lines(finding: Finding, cause: str = "") -> str:
    lines = [f"{finding.status} {finding.check}: {question(finding.check)}", *([f"cause: {cause}"] if cause else [])]
    lines += [f"{name}: {text}" for name, text in told(finding)]
    return _clean("\n".join(lines))


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
