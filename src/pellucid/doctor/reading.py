"""What the outputs that a loss is taken of have read: the input of a decoder may be shifted on its way to it.

Shapes: B batch, T positions, V outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.measures import gap, moved
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.xray import Xray, taken


@dataclass(frozen=True)
class Reading:
    """What the outputs that the loss is taken of have read.

    Attributes:
        shift: by how many places the input was moved to the right on its way to the decoder; ``None``: cannot be told.
        wraps: whether the last token comes round to the first place.
    """

    shift: int | None
    wraps: bool = False


def reading_of(subject: Subject, batch: Batch, ray: Xray) -> Reading:
    """Replaces a token in the middle, then the last of a full row and of a padded one."""
    width, last = ray.outputs.size(1), batch.ids.size(1) - 1
    bare = subject(batch)[:, :width]
    middle = max(batch.ids.size(1) // 2, subject.spec.prefix or 0)
    if _first(subject(_replaced(subject, batch, 0, middle)), subject(batch), 0) not in (middle, None):
        return Reading(None)  # the future leaks, or nothing is read: another check says so
    keep = torch.ones_like(batch.ids[:, :width], dtype=torch.bool) if batch.keep is None else batch.keep[:, :width]
    if (
        bare.shape == ray.outputs.shape
        and gap(bare[keep][None], ray.outputs[keep][None]).share <= tolerances.SHAPE_FAIL
    ):
        return Reading(0)

    def first(row: int, place: int) -> int | None:
        return _first(taken(subject, _replaced(subject, batch, row, place)), ray.outputs, row)

    begins = first(0, middle)
    if begins is None or begins < middle:
        return Reading(None)
    end = first(0, last)
    # Some models begin with the last real token on purpose (mBART's language): it is found in padded rows as well.
    short = int(keep[-1].sum()) - 1
    designed = short < last and first(batch.ids.size(0) - 1, short) == 0
    return Reading(begins - middle, wraps=end is not None and end < last and not designed)


def _replaced(subject: Subject, batch: Batch, row: int, place: int) -> Batch:
    ids = batch.ids.clone()
    ids[row, place] = subject.other(batch.ids, 13)[row, place]
    return batch.with_(ids=ids)


def _first(outputs: Tensor, base: Tensor, row: int) -> int | None:
    """The first position of a row that moved; ``None`` where none did, or shapes differ."""
    if outputs.shape != base.shape:
        return None
    places = (moved(outputs, base)[row] > tolerances.EXACT_NOISE).nonzero()
    return int(places[0]) if len(places) else None
