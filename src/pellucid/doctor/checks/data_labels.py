"""Is the user's own batch what the model should learn from?"""

from __future__ import annotations

from pellucid.doctor.check import Check
from pellucid.doctor.data import faults
from pellucid.doctor.finding import Finding
from pellucid.doctor.spec import Spec
from pellucid.doctor.subject import Subject

CHECK = Check("data.labels", "quick", "Is a batch of the real data what it should be?")


@CHECK
def answer(subject: Subject) -> Finding:
    """The surest harm that :func:`pellucid.doctor.data.faults` finds."""
    batch = subject.spec.batch
    if batch is None:
        return CHECK.skipped("no batch of the real data is given", "Spec(batch=Batch(ids=…, keep=…, labels=…))")
    done = f"looked through a batch of {batch.ids.size(0)} rows of {batch.ids.size(1)}"
    found = sorted(faults(batch, subject.spec), key=lambda fault: not fault.surely)
    if not found:
        return CHECK.passed(done, "nothing is wrong with it")
    worst = found[0]
    seen = worst.seen + (f"; and {len(found) - 1} more" if len(found) > 1 else "")
    evidence = {"faults": [fault.seen for fault in found]}
    if worst.surely:
        return CHECK.failed(
            done, seen, cause=worst.cause, fix=worst.fix, evidence=evidence,
            references=("huggingface/trl#1623", "pytorch/torchtune#949"),
            script=_script(subject.spec),
        )  # fmt: skip
    return CHECK.warned(done, seen, cause=worst.cause, fix=worst.fix, evidence=evidence)


def _script(spec: Spec) -> str:
    laws = ["assert asked.numel(), 'nothing is asked'"]
    if spec.vocab_size is not None:
        laws.append(f"assert ids.min() >= 0 and ids.max() < {spec.vocab_size} and asked.max() < {spec.vocab_size}")
    if spec.pad_id is not None and spec.pad_id != spec.eos_id:
        laws.append(f"assert not (asked == {spec.pad_id}).any(), 'padding is asked'")
    if spec.eos_id is not None and spec.kind != "encoder":
        laws.append(f"assert (asked == {spec.eos_id}).any(), 'the end is never asked'")
    if spec.bos_id is not None and spec.bos_id not in (spec.eos_id, spec.pad_id):
        twice = f"(ids[:, 1:] == {spec.bos_id}) & (ids[:, :-1] == {spec.bos_id})"
        laws.append(f"assert not ({twice}).any(), 'a row has the start twice'")
    told = "\n".join(laws)
    return f"""
ids, labels = ..., ...  # fill in: a batch as you train on it; -100 where nothing is asked
print(list(zip(ids[0].tolist(), labels[0].tolist())))
asked = labels[labels != -100]
{told}
"""
