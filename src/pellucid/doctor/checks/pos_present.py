"""Is the model told in which order tokens stand?"""

from __future__ import annotations

import re

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.constant import constant
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("pos.present", "quick", "Is order told to the model?")
DONE = "read one token repeated: all that can then differ between positions is their order"
POSITIONS = re.compile(
    r"(^|\.|_)(pos\w*|pe|wpe|rope|rotary\w*|alibi\w*|position\w*|relative\w*)($|\.|_)", re.IGNORECASE
)


@CHECK
def answer(subject: Subject) -> Finding:
    """Looks at the first layer's scores as well, in which relative positions show and outputs do not."""
    spec = subject.spec
    if not subject.per_position:
        return CHECK.skipped("there is no output for every position")
    found = constant(subject)
    told = found.varies > tolerances.CONTROL
    scheme = found.scheme or ("absolute" if told else None)
    evidence = {"scheme": scheme, "varies": found.varies}
    if scheme is None:
        return CHECK.unsure(
            DONE, "outputs do not differ, and no attention is understood in which order could show", **evidence
        )
    if scheme != "none":
        return CHECK.passed(DONE, f"order is told by {scheme} positions", **evidence)
    if told:
        return CHECK.passed(DONE, "outputs differ by position, though not in the first layer's scores", **evidence)
    if "no_positions" in spec.declare or spec.positions == "none":
        return CHECK.passed(DONE, "no order is told, as declared", **evidence)
    there = _there(subject)
    if there or spec.positions is not None or spec.kind == "encoder":
        seen = "neither outputs nor scores differ between positions"
        return CHECK.failed(
            DONE,
            seen + (f", though the model has {', '.join(there[:2])}" if there else ""),
            cause="positions are made and not added, or one position is given to all: pe[:, T] in place of pe[:, :T]",
            fix="x = tokens + positions(torch.arange(T)), or rotate q and k of each position by its own angle; if no order "
            'is meant, declare it: declare={"no_positions"}',
            references=("Lightning-AI/pytorch-lightning#20099", "theEricMa/DiffPoseTalk#20"),
            evidence=evidence,
            script="""
model.eval()
ids = sample(1)[:1]
shuffled = ids[:, torch.randperm(ids.size(1))]
print((call(ids)[:, -1] - call(shuffled)[:, -1]).abs().max())  # zero: order is not told
same = ids[:, :1].expand_as(ids)
assert (call(same) - call(same)[:, :1]).abs().max() > 0, "every position gives the same"
""",
        )
    return CHECK.warned(
        DONE, "no order is told: a causal decoder can learn without (NoPE), anything else cannot",
        fix='declare it if it is meant so: declare={"no_positions"}', evidence=evidence,
    )  # fmt: skip


def _there(subject: Subject) -> list[str]:
    """Parameters, buffers and modules of the model whose names speak of positions."""
    if subject.module is None:
        return []
    names = [name for name, _ in (*subject.module.named_parameters(), *subject.module.named_buffers())]
    return [name for name in (*names, *(name for name, _ in subject.module.named_modules())) if POSITIONS.search(name)]
