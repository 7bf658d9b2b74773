"""Is the encoder's output the source's alone, whatever the decoder has written?"""

from __future__ import annotations

import re

import torch

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.localise import first_where
from pellucid.doctor.subject import Subject

CHECK = Check("cross.encoder_alone", "quick", "Does the encoder read the source alone?")
DONE = "replaced the target and looked at everything inside the encoder"


@CHECK
def answer(subject: Subject) -> Finding:
    """Looks at modules under a name with ``encoder`` in it, or ``src``."""
    if subject.spec.kind != "encoder_decoder":
        return CHECK.skipped("there is no encoder beside a decoder")
    if subject.module is None:
        return CHECK.skipped("a callable shows nothing of its encoder", "a module in place of a callable")
    names = [name for name, _ in subject.module.named_modules() if re.search(r"(^|\.)(encoder|enc|src)", name)]
    if not names or subject.spec.example is not None:
        return CHECK.skipped("no module is called an encoder")
    batch = subject.batch()
    assert batch.source is not None
    other = batch.with_(ids=subject.other(batch.ids, 9))
    differs = lambda a, b: not torch.equal(a, b)  # noqa: E731
    where = first_where(subject, batch, other, differs, axis=batch.source.size(1), within=r"(^|\.)(encoder|enc|src)")
    if where:
        return CHECK.failed(
            DONE,
            f"replacing the target moved {where}",
            where=where,
            cause="the encoder is given the target, or a state of the decoder",
            fix="encode(source) once, before and without the target",
            script="""
model.eval()
# hook the encoder's output and compare it for two targets: it must be the same
""",
        )
    return CHECK.passed(DONE, f"all {len(names)} modules of the encoder kept their bits")
