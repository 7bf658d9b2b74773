"""Does the residual stream keep its size from layer to layer?"""

from __future__ import annotations

import itertools

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.health import blocks, rms, seen
from pellucid.doctor.stream import not_around
from pellucid.doctor.subject import Subject

CHECK = Check("health.residual", "standard", "Does the residual stream keep its size?")


@CHECK
def answer(subject: Subject) -> Finding:
    """Something must go around every layer. Of the root mean square it warns alone: trained models grow on purpose."""
    if subject.module is None:
        return CHECK.skipped("a callable shows no layers", "a module in place of a callable")
    if path := not_around(subject):
        return _replaced(path)
    layers = blocks(subject.module)
    if len(layers) < 2:
        return CHECK.skipped("no list of layers is found")
    with seen(layers) as outputs:
        subject(subject.batch())
    sizes = {name: rms(found[0]) for name, found in outputs.items() if found}
    values = list(sizes.values())
    if len(values) < 2 or min(values) == 0:
        return CHECK.skipped("the layers' outputs are not seen")
    done = f"took the root mean square of the residual stream after {len(values)} layers"
    growth = max(b / a for a, b in itertools.pairwise(values))
    seen_ = f"from {values[0]:.2g} to {values[-1]:.2g}; in one layer by up to {growth:.2g}"
    if growth > tolerances.RESIDUAL_GROWTH and values[-1] / values[0] > tolerances.RESIDUAL_TOTAL:
        return CHECK.warned(
            done, seen_, cause="outputs of the sub-layers are drawn too large for this depth, or a norm is missing",
            fix="scale the last projection of each sub-layer by 1/√(2·layers)", evidence={"rms": sizes},
        )  # fmt: skip
    return CHECK.passed(done, seen_, rms=sizes)


def _replaced(path: str) -> Finding:
    return CHECK.failed(
        "set the weights of each layer's linear parts to zero, and looked whether tokens still move outputs",
        f"{path} gives nothing besides what its sub-layers make of what it reads: there is no residual connection",
        where=path,
        cause="the result of a sub-layer replaces its input in place of being added to it",
        fix="x = x + attention(norm(x)); x = x + feed_forward(norm(x))",
        references=("Vaswani et al. 2017, §3.1", "He et al. 2016"),
        evidence={"layer": path},
        script=f"""
model.eval()
with torch.no_grad():
    for part in model.get_submodule({path!r}).modules():
        for parameter in part.parameters(recurse=False):
            if parameter.dim() >= 2:
                parameter.zero_()  # attention and feed-forward network now give the same for all tokens
moved = (call(sample(1)) - call(sample(2))).abs().max()
assert moved > 1e-6, "no token goes around this layer"
""",
    )
