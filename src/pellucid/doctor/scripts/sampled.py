"""How a script writes ids that are longer than its ``sample``."""

from __future__ import annotations

from pellucid.doctor.subject import Subject


def sampled(subject: Subject) -> str:
    """A sample as long as what the subject reads: repeated and cut where that is longer than usual."""
    length, usual = subject.length, subject.usual_length
    return "sample(1)" if length == usual else f"sample(1).repeat(1, {-(-length // usual)})[:, :{length}]"
