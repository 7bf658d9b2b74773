"""Do relative positions depend on distance alone?

With one token repeated, scores of the first layer under rotary, ALiBi or relative positions are the same along each
diagonal. Halves mixed up with pairs break that at once; angles in half precision break it far out.
"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.constant import constant, toeplitz_deviation
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("pos.rope", "quick", "Do relative positions depend on distance alone?")
LONG = 256


@CHECK
def answer(subject: Subject) -> Finding:
    """Measures the deviation along the diagonals near the start, and over a long text."""
    if not subject.per_position:
        return CHECK.skipped("there is no output for every position")
    found = constant(subject, rows=1)
    if found.scheme != "relative" or found.scores is None:
        return CHECK.skipped(f"positions are not relative here: {found.scheme or 'not understood'}")
    near = toeplitz_deviation(found.scores)
    longest = min(LONG, subject.spec.max_length or LONG)
    far = near
    if longest > subject.length:
        long = constant(subject, longest, rows=1)
        far = near if long.scores is None else toeplitz_deviation(long.scores[:, -64:, -64:])
    done = f"read one token {max(longest, subject.length)} times and compared the scores along each diagonal"
    evidence = {"near": near, "far": far, "length": longest}
    worst = max(near, far)
    if worst <= tolerances.TOEPLITZ:
        return CHECK.passed(done, f"they deviate by {worst:.1e} of their spread", **evidence)
    begins = near > tolerances.TOEPLITZ
    return CHECK.failed(
        done,
        f"they deviate by {worst:.2g} of their spread, "
        + ("from the start" if begins else f"only at {longest} tokens"),
        cause="frequencies of pairs (0, 1), (2, 3) are used with rotation of halves, or the other way round"
        if begins
        else "angles are computed in half precision: position times frequency needs float32",
        fix="angles (T, K/2) repeated as cat([a, a], -1) for rotate_half, as repeat_interleave(a, 2, -1) for pairs"
        if begins
        else "positions and inverse frequencies in float32; cast cos and sin at the end",
        references=("rasbt/LLMs-from-scratch#747", "huggingface/transformers#25199")
        if begins
        else ("EleutherAI/gpt-neox#1003", "huggingface/transformers#29285"),
        evidence=evidence,
        script="""
# q and k of the first layer for one token repeated, after they are rotated, (T, K):
# scores = q @ k.T must be the same along each diagonal
""",
    )
