"""Is the user's own batch what the model should learn from?"""

from __future__ import annotations

from pellucid.doctor.check import Check
from pellucid.doctor.data import faults
from pellucid.doctor.finding import Finding
from pellucid.doctor.padding import masks_by_id, padded
from pellucid.doctor.scripts.data import laws, own_batch
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

CHECK = Check("data.labels", "quick", "Is a batch of the real data what it should be?")


@CHECK
def answer(subject: Subject) -> Finding:
    """The surest harm that :func:`pellucid.doctor.data.faults` finds."""
    batch = subject.spec.batch
    if batch is None:
        return CHECK.skipped("no batch of the real data is given", "Spec(batch=Batch(ids=…, keep=…, labels=…))")
    done = f"looked through a batch of {batch.ids.size(0)} rows of {batch.ids.size(1)}"
    found = sorted(faults(_with_mask(subject, batch), subject.spec), key=lambda fault: not fault.surely)
    if not found:
        return CHECK.passed(done, "nothing is wrong with it")
    worst = found[0]
    seen = worst.seen + (f"; and {len(found) - 1} more" if len(found) > 1 else "")
    evidence = {"faults": [fault.seen for fault in found]}
    if worst.surely:
        return CHECK.failed(
            done, seen, cause=worst.cause, fix=worst.fix, evidence=evidence,
            references=("huggingface/trl#1623", "pytorch/torchtune#949"),
            script=f"{own_batch(batch)}\n{laws(subject.spec)}",
        )  # fmt: skip
    return CHECK.warned(done, seen, cause=worst.cause, fix=worst.fix, evidence=evidence)


def _with_mask(subject: Subject, batch: Batch) -> Batch:
    """With the mask that a model makes of the ids by itself, and needs not be given."""
    pad = subject.spec.pad_id
    if batch.keep is not None or pad is None or batch.ids.dim() != 2 or not bool((batch.ids == pad).any()):
        return batch
    by_itself = not subject.writes and masks_by_id(subject, padded(subject, "right", told=False))
    return batch.with_(keep=batch.ids != pad) if by_itself else batch
