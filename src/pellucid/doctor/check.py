"""One question about a model: its name, how much it costs to ask, and who answers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pellucid.doctor.finding import Finding, Status
from pellucid.doctor.levels import Level

if TYPE_CHECKING:
    from pellucid.doctor.subject import Subject

Answer = Callable[["Subject"], Finding]


class Check:
    """A question; used as a decorator on the function that answers it.

    Args:
        name: ``category.question``.
        level: at which it is asked.
        question: in words, to which PASS is the good answer.
        awake: whether parameters that are zero throughout are woken for it; not where it asks how training starts.
    """

    def __init__(self, name: str, level: Level, question: str, *, awake: bool = True) -> None:
        self.name, self.level, self.question, self.awake = name, level, question, awake
        self.answer: Answer = self._unanswered

    def __call__(self, answer: Answer) -> Answer:
        """Registers who answers."""
        self.answer = answer
        return answer

    def passed(self, done: str, seen: str, **evidence: Any) -> Finding:
        """The good answer."""
        return Finding(check=self.name, status=Status.PASS, done=done, seen=seen, evidence=evidence)

    def failed(self, done: str, seen: str, *, cause: str, fix: str, **more: Any) -> Finding:
        """The bad answer; ``more`` are other fields of a finding."""
        return Finding(check=self.name, status=Status.FAIL, done=done, seen=seen, cause=cause, fix=fix, **more)

    def warned(self, done: str, seen: str, **more: Any) -> Finding:
        """Something that is often a fault and may be meant so."""
        return Finding(check=self.name, status=Status.WARN, done=done, seen=seen, **more)

    def unsure(self, done: str, seen: str, **evidence: Any) -> Finding:
        """It ran and cannot tell."""
        return Finding(check=self.name, status=Status.INCONCLUSIVE, done=done, seen=seen, evidence=evidence)

    def skipped(self, why: str, enable: str = "") -> Finding:
        """It was not asked: why, and the one line that would enable it; none where the question does not arise."""
        return Finding(check=self.name, status=Status.SKIP, seen=why, enable=enable)

    def _unanswered(self, subject: Subject) -> Finding:
        raise NotImplementedError(self.name)
