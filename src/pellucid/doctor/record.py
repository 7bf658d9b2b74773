"""What was measured of a training after one of its steps.

Shapes: H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite
from statistics import median
from typing import Any

from pellucid.doctor import tolerances
from pellucid.doctor.finding import Finding, finite

Figures = Mapping[str, float]
OfHeads = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One forward pass of a few rows, without dropout.

    Attributes:
        entropy: of each place that attends, for each of its H heads: the median over queries that see 8 keys and more,
            as a share of the greatest there can be. NaN where no query sees that many.
        scores: the largest score of each head, without its sign.
        dead: of each activation, the share of units that were silent over ``tokens``.
        tokens: that this is known of, over the last measurements together.
        residual: root mean square of what each layer gave.
        normed: whether every layer's output is one of a norm.
        width: the last axis of what the model returned: the vocabulary of a language model.
    """

    entropy: OfHeads = field(default_factory=dict)
    scores: OfHeads = field(default_factory=dict)
    dead: Figures = field(default_factory=dict)
    tokens: int = 0
    residual: Figures = field(default_factory=dict)
    normed: bool = False
    width: int | None = None

    @property
    def entropies(self) -> list[float]:
        """Of all heads of which it is known, the lowest first."""
        return sorted(value for heads in self.entropy.values() for value in heads if value == value)

    @property
    def judges_units(self) -> bool:
        """Whether units had tokens enough to fire in."""
        return self.tokens >= tolerances.UNITS_TOKENS

    @property
    def growth(self) -> dict[str, tuple[float, float]]:
        """Of each stack of layers: the greatest growth in one layer, and that from the first to the last."""
        stacks: dict[str, list[float]] = {}
        for name, value in self.residual.items():
            stacks.setdefault(name.rpartition(".")[0], []).append(value)
        return {
            name: (max(_over(b, a) for a, b in pairwise(values)), _over(values[-1], values[0]))
            for name, values in stacks.items()
            if len(values) > 1
        }


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one step of the optimiser did.

    Attributes:
        gradients: norm of the gradient of each layer, as the optimiser is given it; ``rest`` is all outside of layers.
        norm: of all gradients; before clipping if the loop told it, else as the optimiser was given them.
        ratios: norm of the change of each layer's parameters over theirs; nothing where it was not seen.
    """

    gradients: Figures = field(default_factory=dict)
    norm: float | None = None
    ratios: Figures = field(default_factory=dict)

    @property
    def spread(self) -> float | None:
        """The largest gradient of a layer over the smallest in its stack; ``None`` for fewer than two layers."""
        stacks: dict[str, list[float]] = {}
        for name, value in self.gradients.items():
            if value > 0 and "." in name:
                stacks.setdefault(name.rpartition(".")[0], []).append(value)
        return max((max(values) / min(values) for values in stacks.values() if len(values) > 1), default=None)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A training after one step.

    Attributes:
        step: counted from 1.
        loss: mean since the last record. error: its standard error; ``None`` where there was one loss alone.
        losses: how many these are of.
        rate: the learning rate, the largest of all groups.
        forward: what a pass showed; ``None`` where there was nothing to run the model on.
        update: what the step did; ``None`` where there were no gradients to be seen.
        nonfinite: what is NaN or infinite: ``loss``, ``parameter …``, ``gradient of …`` a layer, ``output of …`` one.
        findings: what is wrong now, by all records so far.
        new: the findings of those that the last record had not.
        notes: what could not be measured, and why.
    """

    step: int
    loss: float | None = None
    error: float | None = None
    losses: int = 0
    rate: float | None = None
    forward: Forward | None = None
    update: Update | None = None
    nonfinite: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    new: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def figures(self) -> dict[str, float]:
        """The course in a few numbers, by name; what was not measured, or is not finite, is left out."""
        found: dict[str, float | None] = {"loss": self.loss, "findings": float(len(self.findings))}
        if (forward := self.forward) is not None:
            entropies, growth = forward.entropies, forward.growth.values()
            found |= {
                "entropy": median(entropies) if entropies else None,
                "entropy_lowest": entropies[0] if entropies else None,
                "score_largest": max((max(heads) for heads in forward.scores.values()), default=None),
                "dead_most": max(forward.dead.values(), default=None) if forward.judges_units else None,
                "residual_growth": max((total for _, total in growth), default=None),
            }
        if (update := self.update) is not None:
            found |= {
                "gradient_norm": update.norm,
                "gradient_spread": update.spread,
                "update_ratio": median(update.ratios.values()) if update.ratios else None,
            }
        return {name: value for name, value in found.items() if value is not None and isfinite(value)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in which what is not finite is ``None``."""
        told: dict[str, Any] = {
            "step": self.step,
            "loss": self.loss,
            "error": self.error,
            "rate": self.rate,
            "nonfinite": list(self.nonfinite),
            "findings": [finding.as_dict() for finding in self.findings],
            "notes": list(self.notes),
        }
        if self.forward is not None:
            names = ("entropy", "scores", "dead", "tokens", "residual", "normed", "width")
            told["forward"] = {name: getattr(self.forward, name) for name in names}
        if self.update is not None:
            told["update"] = {name: getattr(self.update, name) for name in ("gradients", "norm", "ratios")}
        plain: dict[str, Any] = finite(told)
        return plain

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self.figures().items() if name != "findings")
        lines = [f"step {self.step}: {figures}"]
        return "\n".join([*lines, *(f"  {told(finding)}" for finding in self.findings)])


def told(finding: Finding) -> str:
    """A finding in one line: what was seen, the usual cause and what helps."""
    parts = [f"{finding.status} {finding.check}: {finding.seen}"]
    parts += [f"{name}: {text}" for name in ("cause", "fix") if (text := getattr(finding, name))]
    return "; ".join(parts)


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else inf
