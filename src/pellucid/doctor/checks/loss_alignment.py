"""Is each position asked for the token that it should be asked for?

The gradient of the loss with respect to the outputs tells, whatever the loss is: at each asked position the one entry
that is pushed up is the label. Where that label stands in what the model read gives the offset: 1 for a decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

CHECK = Check("loss.alignment", "standard", "Is every position asked for the right token?")
OFFSETS = range(-2, 4)
DONE = "took the gradient of the loss with respect to the outputs: the entry it pushes up is the label"
NAMES = {
    0: "labels are not shifted: each position is asked for the token it reads, which it can copy",
    2: "labels are shifted twice, by the caller and by the loss: each position is asked for the token after the next",
    -1: "labels are shifted the wrong way: each position is asked for the token before it",
}


@CHECK
def answer(subject: Subject) -> Finding:
    """Finds the offset, and whether padding or other ignored places have a gradient."""
    spec = subject.spec
    if not subject.writes and spec.labels is None:
        return CHECK.skipped("nothing says what is asked", 'Spec(labels="same", loss=…) for a masked language model')
    batch = ragged(subject)
    found = asked(subject, batch)
    if isinstance(found, Finding):
        return found
    rows = found
    wanted = {"next": 1, "same": 0, None: 1}[spec.labels]
    matches = {k: _match(rows, batch, k) for k in OFFSETS}
    best = max(matches, key=lambda k: matches[k])
    evidence = {"offsets": {str(k): round(v, 3) for k, v in matches.items()}, "asked": int((rows >= 0).sum())}
    if batch.keep is not None and (stray := _stray(rows, batch.keep, wanted)):
        return _padding(stray, evidence)
    if matches[best] < tolerances.LABEL_MATCH:
        return CHECK.unsure(
            DONE, f"no offset explains the labels; the nearest, {best:+d}, explains {matches[best]:.0%}", **evidence
        )
    if best == wanted:
        return CHECK.passed(DONE, f"all labels stand {best:+d} from their position", **evidence)
    return CHECK.failed(
        DONE,
        f"{matches[best]:.0%} of the labels stand {best:+d} from their position, and should stand {wanted:+d}",
        cause=NAMES.get(best, f"labels are {best - wanted} off"),
        fix="shift once: cross_entropy(logits[:, :-1], ids[:, 1:]); where the model shifts, give it the ids as labels",
        references=(
            "huggingface/transformers#47394",
            "Project-MONAI/GenerativeModels#314",
            "huggingface/transformers#32944",
        ),
        evidence={**evidence, "offset": best},
        script="""
ids = sample(1)
loss, logits = loss_of(ids)  # your loss, and the outputs it is taken of
(gradient,) = torch.autograd.grad(loss, logits)
labels = gradient.argmin(-1)  # what each position is pushed towards
for offset in (0, 1, 2):
    share = (labels[:, : ids.size(1) - offset] == ids[:, offset:]).float().mean()
    print(offset, share)  # a decoder should have 1.0 at offset 1
""",
    )


def ragged(subject: Subject) -> Batch:
    """Rows padded on the right where the model honours padding: what is padding must not be asked."""
    batch = subject.batch()
    if not subject.spec.masked or subject.spec.example is not None:
        return batch
    rows, length = batch.ids.shape[:2]
    keep = torch.arange(length) < torch.tensor([length - 2 * row for row in range(rows)])[:, None]
    pad = subject.spec.pad_id
    ids = batch.ids if pad is None else batch.ids.where(keep.to(batch.ids.device), torch.full_like(batch.ids, pad))
    return batch.with_(ids=ids, keep=keep.to(batch.ids.device))


def asked(subject: Subject, batch: Batch) -> Tensor | Finding:
    """(B, T): the token each position is pushed towards, -1 where nothing is asked; or why that cannot be seen."""
    found = gradient(subject, batch)
    if isinstance(found, Finding):
        return found
    quiet = found.abs().amax(-1) == 0
    return found.argmin(-1).masked_fill(quiet, -1)


def gradient(subject: Subject, batch: Batch) -> Tensor | Finding:
    """(B, T, V): of the loss with respect to the outputs."""
    spec = subject.spec
    if spec.loss is None and spec.criterion is None:
        return CHECK.skipped("nothing says how the loss is taken", "Spec(criterion=lambda outputs, batch: loss)")
    with subject.mode(False), torch.enable_grad():
        subject.reseed()
        if spec.loss is not None:
            loss, outputs = spec.loss(subject.model, batch)
        else:
            assert spec.criterion is not None and spec.call is not None
            outputs = spec.call(subject.model, batch).detach().requires_grad_()
            loss = spec.criterion(outputs, batch)
        if not loss.requires_grad or not outputs.requires_grad:
            return CHECK.unsure(DONE, "the loss has no gradient")
        (found,) = torch.autograd.grad(loss, outputs, allow_unused=True)
    if found is None:
        return CHECK.unsure(DONE, "the outputs returned are not those the loss was taken of")
    return found.detach()


def _match(rows: Tensor, batch: Batch, offset: int) -> float:
    """The share of the asked positions whose label stands at an offset from them."""
    ids, length = batch.ids, batch.ids.size(1)
    width = min(rows.size(1), length)
    at = torch.arange(width, device=ids.device)
    inside = (at + offset >= 0) & (at + offset < length)
    labels = rows[:, :width][:, inside]
    there = ids[:, (at + offset)[inside]]
    counted = labels >= 0
    total = (rows >= 0).sum()
    # A few labels at the edges cannot stand in what was read: they are no evidence against an offset.
    return float((labels[counted] == there[counted]).sum() / counted.sum()) if total and counted.any() else 0.0


def _stray(rows: Tensor, keep: Tensor, wanted: int) -> int:
    """How many asked positions have a label that is padding."""
    width = min(rows.size(1), keep.size(1))
    real = torch.zeros_like(keep)
    if wanted:
        real[:, :-wanted] = keep[:, wanted:]
    else:
        real = keep
    return int(((rows[:, :width] >= 0) & ~real[:, :width]).sum())


def _padding(stray: int, evidence: dict[str, object]) -> Finding:
    return CHECK.failed(
        DONE,
        f"{stray} positions whose label is padding are asked as well",
        cause="padding is not ignored: no ignore_index, one that is not the padding's id, or a smoothing term that is not "
        "masked",
        fix="labels.masked_fill(~keep, -100) and cross_entropy(…, ignore_index=-100); mask the smoothing term alike",
        references=("pytorch/pytorch#73205", "awslabs/sockeye#200"),
        evidence={**evidence, "padding_asked": stray},
        script="""
loss, logits = loss_of(padded_ids)  # your loss on rows that end in padding
(gradient,) = torch.autograd.grad(loss, logits)
print(gradient.abs().amax(-1) > 0)  # must be False where the label is padding
""",
    )
