"""What a loss is given to look at, and how what it asks lies against the text.

Shapes: B batch, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.xray import Xray, xray


def ragged(subject: Subject) -> Batch:
    """Rows that end in the end token and are padded on the right, where there are such: padding must not be asked."""
    batch, spec = subject.batch(), subject.spec
    if spec.features is not None or spec.example is not None or not (subject.writes or spec.masked):
        return batch
    rows, length = batch.ids.shape
    pad, end = (known(each, subject) for each in (spec.pad_id, spec.eos_id))
    short = 2 if pad is not None else 0
    lengths = torch.tensor([length - short * row for row in range(rows)], device="cpu")[:, None]
    places = torch.arange(length, device="cpu")
    ids = batch.ids.cpu()
    if subject.writes and end is not None:
        ids = torch.where(places == lengths - 1, end, ids)
    if pad is None:
        return batch.with_(ids=ids.to(batch.ids.device))
    keep = places < lengths
    return batch.with_(ids=torch.where(keep, ids, pad).to(batch.ids.device), keep=keep.to(batch.ids.device))


def known(token: int | None, subject: Subject) -> int | None:
    """A special token, if the vocabulary has it: some configs keep the ids of a larger one."""
    size = subject.spec.vocab_size
    return token if token is not None and (size is None or 0 <= token < size) else None


def match(labels: Tensor, text: Tensor, offset: int) -> float:
    """The share of the asked positions whose label stands at an offset from them in some text."""
    width, length = labels.size(1), text.size(1)
    at = torch.arange(width, device=text.device)
    inside = (at + offset >= 0) & (at + offset < length)
    found, there = labels[:, inside], text[:, (at + offset)[inside]]
    counted = found >= 0
    # A few labels at the edges cannot stand in what was read: they are no evidence against an offset.
    return float((found[counted] == there[counted]).float().mean()) if bool(counted.any()) else 0.0


def rows_of_others(labels: Tensor, text: Tensor, offset: int) -> bool:
    """Whether every row is asked for the text of some row, and not all for their own."""
    rows = range(labels.size(0))
    found = [[match(labels[r : r + 1], text[o : o + 1], offset) >= tolerances.LABEL_MATCH for o in rows] for r in rows]
    return all(map(any, found)) and not all(found[r][r] for r in rows)


def padding_asked(ray: Xray, batch: Batch, offset: int, subject: Subject) -> tuple[int, int]:
    """How many positions are asked whose label is padding, and how many whose label is real.

    The first place after a text is apart where padding is the end too.
    """
    keep = batch.keep
    assert keep is not None
    if subject.spec.pad_id == subject.spec.eos_id and subject.writes:
        keep = keep | torch.cat([keep[:, :1], keep[:, :-1]], dim=1)
    at = torch.arange(ray.labels.size(1), device=keep.device) + offset
    inside = (at >= 0) & (at < keep.size(1))
    real = keep[:, at.clamp(0, keep.size(1) - 1)]
    return int((ray.asked & ~real & inside).sum()), int((ray.asked & real & inside).sum())


def told_by_labels(batch: Batch, offset: int, subject: Subject) -> bool:
    """Whether padding is not asked when labels say so, unshifted or shifted, and the rest is asked as before."""
    assert batch.keep is not None
    unshifted = batch.ids.masked_fill(~batch.keep, -100)
    shifted = torch.cat([unshifted[:, 1:], torch.full_like(unshifted[:, :1], -100)], dim=1)
    for labels in (unshifted, shifted):
        told = batch.with_(labels=labels)
        try:
            ray = xray(subject, told)
        except Exception:  # a loss that takes no labels, or others
            continue
        if match(ray.labels, batch.ids, offset) >= tolerances.LABEL_MATCH:
            stray, real = padding_asked(ray, told, offset, subject)
            if real and not stray:
                return True
    return False
