"""Does the decoder read the source, all of it?"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import moved
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

CHECK = Check("cross.source", "quick", "Does every source token reach the decoder?")
DONE = "replaced the source, then each of its {positions} tokens alone, and looked at the outputs"


@CHECK
def answer(subject: Subject) -> Finding:
    """A source that moves nothing is a fault; so is a token of it that moves nothing, unless memory is pooled."""
    if subject.spec.kind != "encoder_decoder":
        return CHECK.skipped("there is no source")
    batch = subject.batch()
    assert batch.source is not None
    base = subject(batch)
    positions = batch.source.size(-1 if subject.spec.example is not None else 1)
    done = DONE.format(positions=positions)
    changed = subject.other(batch.source, 8)
    whole = float(moved(subject(batch.with_(source=changed)), base).max())
    if whole <= tolerances.CONTROL:
        return CHECK.failed(
            done,
            f"replacing the whole source moved the outputs by {whole:.1e} of the largest",
            cause="the decoder never looks at the encoder's output: keys and values of cross-attention come from the "
            "decoder itself, its result is thrown away, or all of the memory is masked",
            fix="cross_attention(query=x, key=memory, value=memory), its result added to the residual",
            references=("keras-team/keras-io#1046",),
            evidence={"moved": whole},
            script=_script(),
        )
    if subject.spec.example is not None:
        return CHECK.passed("replaced the source", f"it moved the outputs by {whole:.2g} of the largest", moved=whole)
    silent = _silent(subject, batch)
    # Of a target that is shorter than the source as well: a source may be cut to its length.
    silent = silent or _silent(subject, subject.batch(length=max(1, positions // 2), source_length=positions))
    if silent and "one_way" not in subject.spec.declare:
        return CHECK.failed(
            done,
            f"source positions {', '.join(map(str, silent[:8]))} of {positions} move no output",
            cause="the mask of the memory is that of another sequence, or causal; or the source is cut to the length "
            "of the target",
            fix="mask the memory by the padding of the source alone: (B, 1, 1, S)",
            references=("zhouhaoyi/Informer2020#38", "keras-team/keras-io#1964"),
            evidence={"silent": silent, "moved": whole},
            script=_script(),
        )
    return CHECK.passed(done, f"each moves the outputs; all together by {whole:.2g} of the largest", moved=whole)


def _silent(subject: Subject, batch: Batch) -> list[int]:
    """Source positions that move no output when they are replaced alone."""
    assert batch.source is not None
    base, changed, silent = subject(batch), subject.other(batch.source, 8), []
    for position in range(batch.source.size(1)):
        source = batch.source.clone()
        source[:, position] = changed[:, position]
        if float(moved(subject(batch.with_(source=source)), base).max()) == 0:
            silent.append(position)
    return silent


def _script() -> str:
    return """
model.eval()
source = sample_source(2)
longer, shorter = sample(1), sample(1)[:, : source.size(1) // 2]
for position in range(source.size(1)):
    other = source.clone()
    other[:, position] = sample_source(3)[:, position]
    for ids in (longer, shorter):
        moved = (translated(other, ids) - translated(source, ids)).abs().max()
        assert moved > 0, f"source position {position} moves nothing of {ids.size(1)} outputs"
"""
