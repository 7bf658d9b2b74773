"""Is the encoder's output the source's alone, whatever the decoder has written?"""

from __future__ import annotations

import re

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.localise import first_where
from pellucid.doctor.measures import gap
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

CHECK = Check("cross.encoder_alone", "quick", "Does the encoder read the source alone?")
DONE = "replaced the target and looked at everything as long as the source, but for the decoder"
ENCODES = r"^(?!(.*\.)?(?![^.]*encoder)[^.]*(decoder|dec_|cross|tgt|target))"
"""No part of the path speaks of a decoder, but for one that speaks of an encoder as well."""


@CHECK
def answer(subject: Subject) -> Finding:
    """Looks at modules whose outputs are (B, S, …), or (S, B, …), and whose path speaks of no decoder."""
    if subject.spec.kind != "encoder_decoder":
        return CHECK.skipped("there is no encoder beside a decoder")
    if subject.module is None:
        return CHECK.skipped("a callable shows nothing of its encoder", "a module in place of a callable")
    names = [name for name, _ in subject.module.named_modules() if re.search(ENCODES, name)]
    if subject.spec.example is not None:
        return CHECK.skipped("what it reads is no text")
    batch = subject.batch()
    assert batch.source is not None
    source = batch.source

    def moved(other: Batch) -> str:
        differs = lambda a, b: gap(b, a).share > tolerances.EXACT_NOISE  # noqa: E731
        return first_where(subject, batch, other, differs, axis=source.size(1), within=ENCODES)

    if where := moved(batch.with_(ids=subject.other(batch.ids, 9))):
        return CHECK.failed(
            DONE,
            f"replacing the target moved {where}",
            where=where,
            cause="the encoder is given the target, or a state of the decoder",
            fix="encode(source) once, before and without the target",
            script=f"""
model.eval()
outputs, source = [], sample_source(9)
part = model.get_submodule({where.partition(" ")[0].partition("#")[0]!r})
part.register_forward_hook(lambda part, given, found: outputs.append(found if torch.is_tensor(found) else found[0]))
translated(source, sample(1))
half = len(outputs)
translated(source, sample(2))
gaps = [(one - two).abs().max() / one.abs().max() for one, two in zip(outputs[:half], outputs[half:])]
assert max(gaps) <= {tolerances.EXACT_NOISE}, f"what the encoder gives depends on the target, by {{max(gaps):.3g}}"
""",
        )
    if not moved(batch.with_(source=subject.other(source, 9))):
        return CHECK.unsure(DONE, "but nothing that was looked at depends on the source either")
    return CHECK.passed(DONE, f"all {len(names)} modules before the decoder gave the same, but for rounding")
