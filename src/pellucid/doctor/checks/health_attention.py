"""Is attention neither frozen on one key nor spread over all?"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.health import entropy
from pellucid.doctor.subject import Subject

CHECK = Check("health.attention", "standard", "Is attention alive?")
SATURATED, UNIFORM, LARGE = 0.05, 0.999, 50.0


@CHECK
def answer(subject: Subject) -> Finding:
    """Warns alone: sinks and copying heads are sharp by nature."""
    found = subject.attention
    if found is None or not found.sites:
        return CHECK.skipped("no attention is understood here")
    done = f"took the entropy of the weights in {len(found.sites)} places, as a share of the greatest there can be"
    values, largest = [], 0.0
    for site in found.sites:
        share = entropy(site.weights().float())
        values += share[~share.isnan()].flatten().tolist()
        scores = site.scores().float()
        seen = scores[scores > tolerances.MASKED]
        largest = max(largest, float(seen.abs().max()) if seen.numel() else 0.0)
    if not values:
        return CHECK.skipped("no query sees as many as 8 keys")
    values.sort()
    middle = values[len(values) // 2]
    evidence = {"median": middle, "lowest": values[0], "highest": values[-1], "largest_score": largest}
    if middle < SATURATED or largest > LARGE:
        return CHECK.warned(
            done, f"half of the heads are below {middle:.3f}, and scores reach {largest:.0f}: the softmax is saturated",
            cause="scores are too large: their scale is missing, or queries and keys have grown",
            fix="norm queries and keys, lower the rate, or look at attn.scale", evidence=evidence,
        )  # fmt: skip
    if values[0] > UNIFORM and subject.spec.pretrained:
        return CHECK.warned(
            done, "all heads spread over all keys, as before training", cause="attention has not learned anything",
            evidence=evidence,
        )  # fmt: skip
    return CHECK.passed(done, f"the median head is at {middle:.2f}, and scores reach {largest:.1f}", **evidence)
