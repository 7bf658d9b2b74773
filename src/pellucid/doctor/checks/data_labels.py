"""Is the user's own batch what the model should learn from?"""

from __future__ import annotations

from torch import Tensor

from pellucid.doctor.check import Check
from pellucid.doctor.data import faults
from pellucid.doctor.finding import Finding
from pellucid.doctor.padding import Read, masks_by_id, padded
from pellucid.doctor.scripts.data import laws, own_batch
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.ways.size import largest

CHECK = Check("data.labels", "quick", "Is a batch of the real data what it should be?")


@CHECK
def answer(subject: Subject) -> Finding:
    """The surest harm that :func:`pellucid.doctor.data.faults` finds."""
    batch = subject.spec.batch
    if batch is None:
        return CHECK.skipped("no batch of the real data is given", "Spec(batch=Batch(ids=…, keep=…, labels=…))")
    done = f"looked through a batch of {batch.ids.size(0)} rows of {batch.ids.size(1)}"
    known = largest(subject.model)  # a source may have a table of its own
    size = None if known is None else max(subject.spec.vocab_size or 0, known)
    given = faults(_with_mask(subject, batch), subject.spec, size)
    found = sorted(given, key=lambda fault: not fault.surely)
    if not found:
        return CHECK.passed(done, "nothing is wrong with it")
    worst = found[0]
    seen = worst.seen + (f"; and {len(found) - 1} more" if len(found) > 1 else "")
    evidence = {"faults": [fault.seen for fault in found]}
    if worst.surely:
        return CHECK.failed(
            done, seen, cause=worst.cause, fix=worst.fix, evidence=evidence,
            references=("huggingface/trl#1623", "pytorch/torchtune#949"),
            script=f"{own_batch(batch)}\n{laws(subject.spec, None if batch.source is None else size or 0)}",
        )  # fmt: skip
    return CHECK.warned(done, seen, cause=worst.cause, fix=worst.fix, evidence=evidence)


def _with_mask(subject: Subject, batch: Batch) -> Batch:
    """With the mask that a model makes of the ids by itself, and needs not be given."""
    pad = subject.spec.pad_id
    parts: tuple[tuple[Read, str], ...] = (("ids", "keep"), ("source", "source_keep"))
    for read, name in parts:
        text: Tensor | None = getattr(batch, read)
        if text is None or pad is None or getattr(batch, name) is not None or text.dim() != 2:
            continue
        kind = "encoder_decoder" if read == "source" else "encoder"
        asked = subject.spec.kind == kind and bool((text == pad).any())
        if asked and masks_by_id(subject, padded(subject, "right", read, told=False)):
            batch = batch.with_(**{name: text != pad})
    return batch
