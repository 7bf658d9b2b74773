"""From findings to causes: what fails together, and what passes beside it, tells one fault from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pellucid.doctor.finding import Diagnosis, Finding, Status
from pellucid.doctor.spec import Spec

Found = Mapping[str, Finding]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A cause and how its findings look.

    Attributes:
        when: whether the findings look like it; the sentence that says why, or nothing.
        explains: the checks whose failure it explains.
    """

    name: str
    when: Callable[[Found, Spec], str]
    fix: str
    explains: tuple[str, ...]
    references: tuple[str, ...] = ()


def diagnosed(findings: Sequence[Finding], spec: Spec) -> tuple[Diagnosis, ...]:
    """The causes that explain what failed; each failure is explained once, by the first pattern that fits."""
    from pellucid.doctor.causes import PATTERNS

    found = {finding.check: finding for finding in findings}
    open_ = {finding.check for finding in findings if finding.status is Status.FAIL}
    causes = []
    for pattern in PATTERNS:
        explained = tuple(check for check in pattern.explains if check in open_)
        if not explained:
            continue
        if why := pattern.when(found, spec):
            causes.append(
                Diagnosis(
                    name=pattern.name, why=why, fix=pattern.fix, references=pattern.references, explains=explained
                )
            )
            open_ -= set(explained)
    for finding in findings:
        if finding.check in open_:
            causes.append(
                Diagnosis(
                    name=finding.cause or finding.seen, why=finding.seen, fix=finding.fix,
                    references=finding.references, explains=(finding.check,),
                )
            )  # fmt: skip
    return tuple(causes)
