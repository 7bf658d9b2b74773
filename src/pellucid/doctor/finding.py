"""What the doctor found: one finding a check, a report of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any

from pellucid.errors import UserError, nearest


class Status(StrEnum):
    """What a check came to.

    ``INCONCLUSIVE``: it ran and cannot tell, as where nothing mixes and so nothing could leak. ``SKIP``: it was not
    asked, or lacks what it needs.
    """

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    SKIP = "SKIP"


Evidence = Mapping[str, Any]


def finite(value: Any) -> Any:
    """What JSON can hold: NaN and infinity, however deep they stand, as ``None``."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer of one check.

    Attributes:
        check: its name, such as ``causal.prefix_invariance``; what is before the dot is the category.
        status: what it came to.
        done: what was done, in a sentence.
        seen: what was seen, in a sentence, with the figures.
        where: the first module in which it shows, with its class and source line.
        cause: what is usually to blame.
        fix: what usually helps.
        references: reports of the same fault in public projects, or papers.
        evidence: figures: differences, positions, the noise floor, the seed.
        enable: of a check that was skipped, the one line that would enable it.
        script: the lines of ``repro`` that show it.
        build: the lines before them that make ``model``, as well as could be known.
    """

    check: str
    status: Status
    done: str = ""
    seen: str = ""
    where: str = ""
    cause: str = ""
    fix: str = ""
    references: tuple[str, ...] = ()
    evidence: Evidence = field(default_factory=dict)
    enable: str = ""
    script: str = field(default="", repr=False)
    build: str = field(default="", repr=False)

    @property
    def category(self) -> str:
        """What it is about: ``causal``, ``kv``, ``loss``, ``pad`` and so on."""
        return self.check.split(".")[0]

    def repro(self, build: str = "") -> str:
        """A script, torch alone besides the model, that shows the fault without this package.

        It ends in an assertion that fails while the fault is there.

        Args:
            build: lines that define ``model``, in place of those that were found out.

        Raises:
            UserError: for a finding that shows no fault.
        """
        if not self.script:
            raise UserError(self.check, f"{self.status} has nothing to reproduce", "a finding that is FAIL or WARN")
        title = f"{self.check}: {self.seen}".replace("\\", "/").replace('"', "'")
        return f'"""{title}"""\n\nimport torch\n{build or self.build}\n\n{self.script.strip()}\n'

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in which what is not finite is ``None``."""
        told = {name: getattr(self, name) for name in ("check", "done", "seen", "where", "cause", "fix", "enable")}
        more = {"status": self.status.value, "category": self.category, "references": list(self.references)}
        return told | more | {"evidence": finite(self.evidence), "repro": self.repro() if self.script else ""}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One cause that explains several findings.

    Attributes:
        name: the cause, in a few words.
        why: which findings together say so.
        fix: what usually helps.
        references: of the same fault in public projects.
        explains: the checks whose findings it explains.
    """

    name: str
    why: str
    fix: str
    references: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "why": self.why,
            "fix": self.fix,
            "references": list(self.references),
            "explains": list(self.explains),
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings about one model.

    Attributes:
        model: what was examined.
        level: how much was asked.
        seed: that all random choices come from.
        inferred: what was not said and found out, one sentence each.
        findings: in the order of the checks' value.
        diagnoses: the causes that explain what failed, the most certain first.
        seconds: that it took.
    """

    model: str
    level: str
    seed: int
    inferred: tuple[str, ...]
    findings: tuple[Finding, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    seconds: float = 0.0

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that are FAIL."""
        return self.of(Status.FAIL)

    @property
    def answered(self) -> bool:
        """Whether there was an answer to any question, good or bad."""
        return bool(self.of(Status.PASS, Status.WARN, Status.FAIL))

    def of(self, *statuses: Status) -> tuple[Finding, ...]:
        """The findings of some statuses."""
        return tuple(finding for finding in self.findings if finding.status in statuses)

    def __getitem__(self, check: str) -> Finding:
        """The finding of a check.

        Raises:
            UserError: when there is none of that name.
        """
        names = [finding.check for finding in self.findings]
        if check not in names:
            raise UserError("check", f'found "{check}"', hint=nearest(check, names))
        return self.findings[names.index(check)]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the same twice for the same model and seed, but for the seconds."""
        return {
            "model": self.model,
            "level": self.level,
            "seed": self.seed,
            "healthy": self.healthy,
            "inferred": list(self.inferred),
            "diagnoses": [diagnosis.as_dict() for diagnosis in self.diagnoses],
            "findings": [finding.as_dict() for finding in self.findings],
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        from pellucid.doctor.show import plain

        return plain(self)
