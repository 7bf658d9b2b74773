"""Do relative positions depend on distance alone?

With one token repeated, scores under rotary, ALiBi or relative positions are the same along each diagonal. Halves mixed
up with pairs break that at once; angles in half precision break it far out. Rotating values, or queries alone, tells
the wrong part; a penalty of the wrong sign prefers what is far.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.constant import Constant, Reading, constant, toeplitz_deviation
from pellucid.doctor.finding import Finding
from pellucid.doctor.rotation import away, one_speed, turned, unit_scores
from pellucid.doctor.subject import Subject
from pellucid.trace.sites import Site

CHECK = Check("pos.rope", "quick", "Do relative positions depend on distance alone?")
LONG, END = 256, 64
HALVES = (
    "frequencies of pairs (0, 1), (2, 3) are used with rotation of halves, or the other way round; or a sign is lost",
    "angles (T, K/2) repeated as cat([a, a], -1) for rotate_half, as repeat_interleave(a, 2, -1) for pairs",
    ("rasbt/LLMs-from-scratch#747", "huggingface/transformers#25199"),
)
PRECISION = (
    "angles are computed in half precision: position times frequency needs float32",
    "positions and inverse frequencies in float32; cast cos and sin at the end",
    ("EleutherAI/gpt-neox#1003", "huggingface/transformers#29285"),
)


@CHECK
def answer(subject: Subject) -> Finding:
    """Measures the deviation along the diagonals near the start, and over a long text."""
    if not subject.per_position:
        return CHECK.skipped("there is no output for every position")
    found = constant(subject, rows=1)
    if not found.readings:
        return CHECK.skipped("no attention over a whole sequence is understood")
    for reading in found.readings:
        if part := turned(reading):
            return _part(reading, *part)
    relative = _relative(found)
    if not relative:
        return CHECK.skipped(f"positions are not relative here: {found.readings[0].scheme}")
    for reading in relative:
        if away(reading.scores()):
            return _upside(reading)
        if one_speed(reading):
            return _one_speed(reading)
    near, site = _worst(relative)
    length, far, last = _far(subject, near, site)
    done = f"read one token {length} times and compared the scores along each diagonal"
    evidence = {"near": near, "far": far, "length": length}
    worst = max(near, far)
    if worst <= tolerances.TOEPLITZ:
        return CHECK.passed(done, f"they deviate by {worst:.1e} of their spread", **evidence)
    begins = near > tolerances.TOEPLITZ
    cause, fix, references = HALVES if begins else PRECISION
    first = site if begins else last
    return CHECK.failed(
        done,
        f"they deviate by {worst:.2g} of their spread, " + ("from the start" if begins else f"only at {length} tokens"),
        where=f"{first.name} ({first.module})",
        cause=cause,
        fix=fix,
        references=references,
        evidence=evidence,
        script=SCRIPT.format(
            length=max(length, subject.length), more=", ids" if subject.spec.kind == "encoder_decoder" else ""
        ),
    )


SCRIPT = """
model.eval()
ids = sample(1)[:1, :1].repeat(1, {length})  # one token repeated
for _, scores, _ in attention(ids{more}):
    if scores.shape[-2:] != ({length}, {length}):
        continue
    scores = scores.flatten(0, -3)[:, -64:, -64:].detach().double()
    scores = scores - scores.diagonal(dim1=-2, dim2=-1)[..., None]
    lines = [scores.diagonal(-offset, dim1=-2, dim2=-1) for offset in range(1, scores.size(-1) - 1)]
    lines = [line for line in lines if (line > -1e4).all()]
    worst = max((line.amax(-1) - line.amin(-1)).max() for line in lines)
    spread = torch.cat(lines, -1).std(-1).max()
    assert worst < 0.01 * spread + 1e-6, f"along a diagonal scores deviate by {{worst / spread:.2g}} of their spread"
"""
PARTS = {
    "values": """
model.eval()
outputs = call(sample(1)[:1, :1].repeat(1, 16))  # one token repeated: with relative positions all outputs are the same
moved = (outputs - outputs[:, :1]).abs().max() / outputs.abs().max()
assert moved < 1e-4, f"values are told where they stand: outputs differ by {moved:.2g} of the largest"
""",
    "queries": """
model.eval()
found = [scores for _, scores, _ in attention(sample(1)[:1, :1].repeat(1, 16)) if scores.shape[-2:] == (16, 16)]
last = found[0].flatten(0, -3)[:, -1]  # what the last query makes of each key, in every head of the first layer
spread = max((row[row > -1e4].max() - row[row > -1e4].min()).item() for row in last)
assert spread > 1e-5, "the scores of a query do not differ between keys: queries alone are rotated"
""",
}
ONE_SPEED = """
model.eval()
found = [scores for _, scores, _ in attention(sample(1)[:1, :1].repeat(1, 16)) if scores.shape[-2:] == (16, 16)]
last = found[0].flatten(0, -3)[:, -1].detach().double()  # what the last query makes of each key
sides, middle = last[:, 2:] + last[:, :-2], last[:, 1:-1]
factor = (sides * middle).sum(-1, keepdim=True) / middle.square().sum(-1, keepdim=True)
rest = (sides - factor * middle).abs().max() / last.abs().max()
assert rest > 1e-3, "scores are one sinusoid of the distance, and should be a sum of many"
"""
UPSIDE = """
model.eval()
found = [scores for _, scores, _ in attention(sample(1)[:1, :1].repeat(1, 16)) if scores.shape[-2:] == (16, 16)]
last = found[0].flatten(0, -3)[:, -1]  # what the last query makes of each key: the nearest stands last
assert (last.diff() >= 0).all(), "what is farthest is seen most"
"""


def _deviation(reading: Reading, last: int | None = None) -> float:
    """Of the scores, or of the cosines in them where a temperature differs from query to query."""
    scores = reading.scores() if last is None else reading.scores()[:, -last:, -last:]
    deviation = toeplitz_deviation(scores)
    if deviation <= tolerances.TOEPLITZ or (unit := unit_scores(reading)) is None:
        return deviation
    return min(deviation, toeplitz_deviation(unit if last is None else unit[:, -last:, -last:]))


def _worst(readings: Sequence[Reading], last: int | None = None) -> tuple[float, Site]:
    """The largest deviation, and the first place that has it."""
    return max(((_deviation(reading, last), reading.site) for reading in readings), key=itemgetter(0))


def _relative(found: Constant) -> list[Reading]:
    """One for each place in whose scores relative positions show."""
    return [each for reading in found.readings if reading.scheme == "relative" for each in reading.each]


def _far(subject: Subject, near: float, site: Site) -> tuple[int, float, Site]:
    """How long a text was read, the deviation at its end, where; that near the start where it takes no longer one."""
    longest = min(LONG, subject.spec.max_length or LONG)
    if longest <= subject.length:
        return subject.length, near, site
    try:
        found = constant(subject, longest, rows=1)
    except Exception:  # a table of positions that nobody told of may be shorter
        return subject.length, near, site
    relative = _relative(found)
    return longest, *(_worst(relative, END) if relative else (near, site))


def _in(reading: Reading, site: Site, script: str) -> str:
    """A script that looks at the first place that attends, for another."""
    return script.replace("found[0]", f"found[{reading.places.index(site)}]")


def _part(reading: Reading, part: str, site: Site) -> Finding:
    causes = {
        "values": "values are rotated, with keys or in place of them: what is passed on then depends on where it stood",
        "queries": "queries alone are rotated, and the scores of a query then do not differ between its keys",
    }
    return CHECK.failed(
        "read one token repeated, and compared queries, keys and values of different positions",
        f"in {site.name}, {part} are told their positions" + (" and keys are not" if part == "queries" else ""),
        where=f"{site.name} ({site.module})",
        cause=causes[part],
        fix="q, k = rotate(q), rotate(k); values stay as they are",
        references=("Su et al. 2021, eq. 16",),
        evidence={"site": site.name, "rotated": part},
        script=_in(reading, site, PARTS[part]),
    )


def _one_speed(reading: Reading) -> Finding:
    return CHECK.failed(
        "read one token repeated, and followed queries from position to position",
        f"in {reading.site.name}, all pairs of channels turn by the same angle: one frequency in place of many",
        where=f"{reading.site.name} ({reading.site.module})",
        cause="a whole division in the exponent: arange(0, K, 2) // K is zero throughout",
        fix="base ** (-torch.arange(0, K, 2) / K)",
        references=("Su et al. 2021, §3.2.2",),
        evidence={"site": reading.site.name},
        script=_in(reading, reading.site, ONE_SPEED),
    )


def _upside(reading: Reading) -> Finding:
    return CHECK.failed(
        "read one token repeated, and followed the scores of a query over its keys",
        f"in {reading.site.name} they grow in proportion to distance, in every head: what is farthest is seen most",
        where=f"{reading.site.name} ({reading.site.module})",
        cause="the penalty of ALiBi has the wrong sign",
        fix="bias = -slopes[:, None, None] * (query_position - key_position)",
        references=("Press et al. 2022, §3",),
        evidence={"site": reading.site.name},
        script=_in(reading, reading.site, UPSIDE),
    )
