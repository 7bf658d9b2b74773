"""From findings to causes: what fails together, and what passes beside it, tells one fault from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.doctor.finding import Diagnosis, Finding, Status
from pellucid.doctor.spec import Spec


class Found:
    """The findings by the names of their checks; a check that was not asked neither failed nor passed."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self._findings: Mapping[str, Finding] = {finding.check: finding for finding in findings}

    def failed(self, *checks: str) -> bool:
        """Whether all of these failed."""
        return all(check in self._findings and self._findings[check].status is Status.FAIL for check in checks)

    def asked(self, check: str) -> bool:
        """Whether it is among the findings at all, with whatever answer."""
        return check in self._findings

    def passed(self, check: str) -> bool:
        """Whether it passed."""
        return check in self._findings and self._findings[check].status is Status.PASS

    def evidence(self, check: str, key: str) -> Any:
        """A figure of a finding; ``None`` where there is none."""
        return self._findings[check].evidence.get(key) if check in self._findings else None

    def where(self, check: str) -> str:
        """The place that a finding names; empty where it names none."""
        return self._findings[check].where if check in self._findings else ""

    def seen(self, check: str) -> str:
        """What a check saw."""
        return self._findings[check].seen if check in self._findings else ""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A cause and how its findings look.

    Attributes:
        when: whether the findings look like it; the sentence that says why, or nothing.
        begins: the checks of which one must be failed and not yet explained: the cause is theirs.
        explains: further checks whose failure it explains.
        part: a figure of a check that the cause is named with.
    """

    name: str
    when: Callable[[Found, Spec], str]
    fix: str
    begins: tuple[str, ...]
    explains: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    part: tuple[str, str] | None = None

    def named(self, found: Found) -> str:
        """The cause, with the part that it is about."""
        return self.name if self.part is None else f"{self.name}: {found.evidence(*self.part)}"


def diagnosed(findings: Sequence[Finding], spec: Spec) -> tuple[Diagnosis, ...]:
    """The causes that explain what failed; each failure is explained once, by the first pattern that fits."""
    from pellucid.doctor.causes import PATTERNS

    found = Found(findings)
    open_ = [finding.check for finding in findings if finding.status is Status.FAIL]
    causes = []
    for pattern in PATTERNS:
        if not any(check in open_ for check in pattern.begins) or not (why := pattern.when(found, spec)):
            continue
        own = dict.fromkeys((*pattern.begins, *pattern.explains))
        explained = tuple(check for check in own if check in open_)
        open_ = [check for check in open_ if check not in explained]
        causes.append(
            Diagnosis(
                name=pattern.named(found), why=why, fix=pattern.fix, references=pattern.references, explains=explained
            )
        )
    return (*causes, *(_alone(finding) for finding in findings if finding.check in open_))


def _alone(finding: Finding) -> Diagnosis:
    """A failure that no pattern explains is a cause of its own."""
    return Diagnosis(
        name=finding.cause or finding.seen, why=finding.seen, fix=finding.fix, references=finding.references,
        explains=(finding.check,),
    )  # fmt: skip
