"""Are positions counted along the text, and not along the batch?"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.constant import constant
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import RANDOM, Subject

CHECK = Check("pos.axis", "quick", "Are positions counted along the text?")
DONE = "read one token repeated in three equal rows"


@CHECK
def answer(subject: Subject) -> Finding:
    """Equal rows must give equal outputs."""
    if not subject.per_position:
        return CHECK.skipped("there is no output for every position")
    if "batch_coupled" in subject.spec.declare:
        return CHECK.skipped("rows are declared to differ")
    if subject.random:
        return CHECK.unsure("", RANDOM)
    found = constant(subject)
    if found.rows > tolerances.SHAPE_FAIL:
        return CHECK.failed(
            DONE,
            f"equal rows give outputs that differ by {found.rows:.2g} of the largest",
            cause="positions are added along the batch: pe[:x.size(0)] on a batch-first (B, T, D)",
            fix="x + pe[:, : x.size(1)]",
            references=("TalWayn/influenza_transformer#9",),
            evidence={"rows": found.rows, "varies": found.varies},
            script="""
model.eval()
same = sample(1)[:1, :1].expand(3, sample(1).size(1)).contiguous()
out = call(same)
assert (out - out[:1]).abs().max() < 1e-4 * out.abs().max(), "equal rows give different outputs"
""",
        )
    return CHECK.passed(DONE, f"equal rows give the same within {found.rows:.1e}", rows=found.rows)
