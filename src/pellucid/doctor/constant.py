"""What a model makes of one token repeated: all that then differs between positions is their order.

Shapes: B batch, T positions, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.trace.sites import HIDDEN, Site

Scheme = Literal["absolute", "relative", "none"]


@dataclass(frozen=True, eq=False)
class Constant:
    """One token throughout.

    Attributes:
        output: (B, T, V), of equal rows that read the same token everywhere.
        scheme: how order is told: ``absolute`` added to the tokens, ``relative`` in the scores of the first layer,
            ``none``; ``None`` where that cannot be told.
        scores: (H, T, T) of the first layer, with what may not be seen as NaN.
        varies: by how much outputs differ between positions, as a share of the largest.
        rows: by how much they differ between rows.
    """

    output: Tensor
    scheme: Scheme | None
    scores: Tensor | None
    varies: float
    rows: float


def constant(subject: Subject, length: int | None = None, rows: int = 3) -> Constant:
    """Runs a batch of one token, and looks at the first place that attends."""
    batch = repeated(subject, subject.length if length is None else length, rows)
    output = subject(batch)
    largest = output.abs().max().clamp_min(1e-30)
    varies = float((output - output[:, :1]).abs().max() / largest)
    differ = float((output - output[:1]).abs().max() / largest)
    site = first_site(subject, batch)
    if site is None:
        return Constant(output, None, None, varies, differ)
    scores = _visible(site)
    if not _equal(site.v.transpose(1, 2).flatten(2)):
        return Constant(output, "absolute", scores, varies, differ)
    spread = float((scores - scores.nanmean()).nan_to_num().abs().max())
    scheme: Scheme = "relative" if spread > 1e-5 * max(1.0, float(scores.nan_to_num().abs().max())) else "none"
    return Constant(output, scheme, scores, varies, differ)


def repeated(subject: Subject, length: int, rows: int) -> Batch:
    """(rows, length) of one token; the source of an encoder–decoder as well."""
    batch = subject.batch(1, length)
    ids = batch.ids[:, :1].expand(rows, length, *batch.ids.shape[2:]).contiguous()
    if batch.source is None:
        return Batch(ids=ids)
    if subject.spec.example is not None:
        return Batch(ids=ids, source=batch.source.expand(rows, *batch.source.shape[1:]).contiguous())
    width = batch.source.size(1)
    source = batch.source[:, :1].expand(rows, width, *batch.source.shape[2:]).contiguous()
    return Batch(ids=ids, source=source)


def first_site(subject: Subject, batch: Batch) -> Site | None:
    """The first place in which what is written attends to itself."""
    if subject.module is None:
        return None
    length = batch.ids.shape[1]
    sites = subject.attention_of(batch).sites
    return next((site for site in sites if site.q.size(2) == site.k.size(2) == length), None)


def _visible(site: Site) -> Tensor:
    scores = site.scores()[0].double()
    return scores.masked_fill(scores <= HIDDEN, torch.nan)


def _equal(x: Tensor) -> bool:
    """Whether (B, T, D) is the same at every position, but for rounding."""
    return bool((x - x[:, :1]).abs().max() <= 1e-5 * x.abs().max().clamp_min(1e-30))


def toeplitz_deviation(scores: Tensor) -> float:
    """How far (H, T, T) is from depending on distance alone: deviation along the diagonals over that of the whole."""
    scores = scores - scores.diagonal(dim1=-2, dim2=-1)[..., None]  # what all keys of a query share is no difference
    worst, length = 0.0, scores.size(-1)
    spread = float(torch.stack([head[~head.isnan()].std() for head in scores]).max())
    for offset in range(1 - length, length):
        diagonal = scores.diagonal(offset, dim1=-2, dim2=-1)
        known = ~diagonal.isnan()
        if int(known[0].sum()) < 2:
            continue
        for head, mask in zip(diagonal, known, strict=True):
            if int(mask.sum()) > 1:
                worst = max(worst, float(head[mask].max() - head[mask].min()))
    return worst / max(spread, 1e-30)
