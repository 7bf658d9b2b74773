"""The patterns of findings that name a cause, the most particular first."""

from __future__ import annotations

from pellucid.doctor.diagnose import Found, Pattern
from pellucid.doctor.finding import Status
from pellucid.doctor.spec import Spec


def failed(found: Found, check: str) -> bool:
    """Whether a check failed."""
    return check in found and found[check].status is Status.FAIL


def passed(found: Found, check: str) -> bool:
    """Whether a check passed."""
    return check in found and found[check].status is Status.PASS


def _only_in_training(found: Found, spec: Spec) -> str:
    leak = found["causal.prefix_invariance"].evidence
    return "the future leaks in training mode and not in evaluation" if leak.get("only_in_training") else ""


PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        name="the causal mask is lost on the path that training takes",
        when=_only_in_training,
        fix="apply the mask in the branch that runs with dropout or returns scores as well; compare both branches",
        explains=("causal.prefix_invariance",),
        references=("keras-team/keras#23038",),
    ),
)
