"""Does the residual stream keep its size from layer to layer?"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.health import blocks, rms, seen
from pellucid.doctor.subject import Subject

CHECK = Check("health.residual", "standard", "Does the residual stream keep its size?")


@CHECK
def answer(subject: Subject) -> Finding:
    """The root mean square after each layer; warns alone, since trained models grow on purpose."""
    if subject.module is None:
        return CHECK.skipped("a callable shows no layers", "a module in place of a callable")
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
    growth = max(b / a for a, b in zip(values, values[1:], strict=False))
    seen_ = f"from {values[0]:.2g} to {values[-1]:.2g}; in one layer by up to {growth:.2g}"
    if growth > tolerances.RESIDUAL_GROWTH and values[-1] / values[0] > tolerances.RESIDUAL_TOTAL:
        return CHECK.warned(
            done, seen_, cause="outputs of the sub-layers are drawn too large for this depth, or a norm is missing",
            fix="scale the last projection of each sub-layer by 1/√(2·layers)", evidence={"rms": sizes},
        )  # fmt: skip
    return CHECK.passed(done, seen_, rms=sizes)
