"""What a model makes of one token repeated: all that then differs between positions is their order.

Shapes: B batch, T positions, H heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.trace.sites import Site

Scheme = Literal["absolute", "relative", "none"]


@dataclass(frozen=True, eq=False)
class Reading:
    """How one sequence of equal tokens is attended to.

    Attributes:
        name: which sequence.
        scheme: how order is told: ``absolute`` where values of the first layer differ between positions, ``relative``
            where scores of some layer differ between the keys of a query, ``none``.
        site: the first place in which order shows in the scores; the first of all where it shows nowhere.
        first: the first place.
        settled: from which position on the values of the first place are all the same; 0 where they are throughout.
        places: all of them, one layer after the other.
        clear: those whose values are all the same from there on, and in whose scores order shows beyond all rounding.
    """

    name: str
    scheme: Scheme
    site: Site
    first: Site
    settled: int
    places: tuple[Site, ...] = ()
    clear: tuple[Site, ...] = ()

    @property
    def each(self) -> tuple[Reading, ...]:
        """The same once for each place in which order shows: layers may have tables and biases of their own."""
        return (self, *(replace(self, site=site) for site in self.clear if site is not self.site))

    def scores(self) -> Tensor:
        """(H, T', T') of ``site`` from ``settled`` on, with what may not be seen as NaN."""
        return visible(self.site)[0, :, self.settled :, self.settled :]


@dataclass(frozen=True, eq=False)
class Constant:
    """One token throughout.

    Attributes:
        output: (B, T, V), of equal rows that read the same token everywhere.
        varies: by how much outputs differ between positions, as a share of the largest.
        rows: by how much they differ between rows.
        text: how what is written, or read by a model of one sequence, is attended to; ``None`` where no attention over
            all of it is understood.
        source: the same of the source.
    """

    output: Tensor
    varies: float
    rows: float
    text: Reading | None
    source: Reading | None

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Those that are understood."""
        return tuple(reading for reading in (self.text, self.source) if reading is not None)


def constant(subject: Subject, length: int | None = None, rows: int = 3) -> Constant:
    """Runs a batch of one token, and looks at every place that attends."""
    batch = repeated(subject, subject.length if length is None else length, rows)
    output = subject(batch)
    largest = output.abs().max().clamp_min(1e-30)
    varies = float((output - output[:, :1]).abs().max() / largest)
    differ = float((output - output[:1]).abs().max() / largest)
    text, source = readings(subject, batch)
    return Constant(output, varies, differ, text, source)


def repeated(subject: Subject, length: int, rows: int) -> Batch:
    """(rows, length) of one token; the source of an encoder–decoder as well, two shorter."""
    batch = subject.batch(1, length, source_length=max(1, length - 2))
    ids = batch.ids[:, :1].expand(rows, length, *batch.ids.shape[2:]).contiguous()
    if batch.source is None:
        return Batch(ids=ids)
    if subject.spec.example is not None:
        return Batch(ids=ids, source=batch.source.expand(rows, *batch.source.shape[1:]).contiguous())
    width = batch.source.size(1)
    source = batch.source[:, :1].expand(rows, width, *batch.source.shape[2:]).contiguous()
    return Batch(ids=ids, source=source)


def readings(subject: Subject, batch: Batch) -> tuple[Reading | None, Reading | None]:
    """Of the text and of the source, where attention over all of them is understood."""
    if subject.module is None:
        return None, None
    sites = [site for site in subject.attention_of(batch).sites if site.kind != "cross"]

    def reading(name: str, sequence: Tensor | None) -> Reading | None:
        if sequence is None:
            return None
        own = [site for site in sites if site.q.size(2) == site.k.size(2) == sequence.size(1)]
        return _reading(name, own) if own else None

    fixed = subject.spec.example is not None  # images and sounds are not repeated tokens
    return reading("the text", batch.ids), reading("the source", None if fixed else batch.source)


def _reading(name: str, sites: Sequence[Site]) -> Reading:
    first, length = sites[0], sites[0].k.size(2)
    start = settled(first.v.transpose(1, 2).flatten(2))
    if start > length // 2:
        return Reading(name, "absolute", first, first, start, tuple(sites))
    # Where the beginning differs, as after a convolution, later layers carry that on, and tell nothing of their own.
    alike = [site for site in sites if not settled(site.v.transpose(1, 2).flatten(2)[:, start:])]
    site = next((site for site in alike if tells(site, start)), None)
    clear = tuple(site for site in alike if tells(site, start, tolerances.CLEAR))
    if site is not None:
        return Reading(name, "relative", site, first, start, tuple(sites), clear)
    return Reading(name, "absolute" if start else "none", first, first, start, tuple(sites))


def settled(x: Tensor) -> int:
    """The first position of (B, T, D) from which on all are the same, but for rounding."""
    differs = (x - x[:, -1:]).abs().amax((0, 2)) > tolerances.SAME * x.abs().max().clamp_min(1e-30)
    return int(differs.nonzero().max()) + 1 if bool(differs.any()) else 0


def visible(site: Site) -> Tensor:
    """(B, H, T, S) in double precision, with keys that have no weight as NaN."""
    return site.scores().double().masked_fill(site.weights() <= 0, torch.nan)


def tells(site: Site, start: int, least: float = tolerances.SAME) -> bool:
    """Whether the scores of a query differ between its keys by a share of how large they can be, from a position on."""
    scores = visible(site)[..., start:, start:]
    low, high = scores.nan_to_num(torch.inf).amin(-1), scores.nan_to_num(-torch.inf).amax(-1)
    spread = (high - low).masked_fill(~high.isfinite() | ~low.isfinite(), 0.0)
    return float(spread.max()) > least * max(float(scores.nan_to_num(0.0).abs().max()), _size(site))


def _size(site: Site) -> float:
    """How large a score can be: rounding is a share of that."""
    scale = site.scale
    factor = float(scale.abs().max()) if isinstance(scale, Tensor) else abs(scale)
    return factor * float(site.q.norm(dim=-1).max()) * float(site.k.norm(dim=-1).max())


def toeplitz_deviation(scores: Tensor) -> float:
    """How far (H, T, T) is from depending on distance alone: deviation along the diagonals over that of the whole.

    What all keys of a query have in common is no difference: ALiBi may add the key's position in place of its distance.
    Nor is the first position, which some models keep for a token of its own that stands nowhere.
    """
    scores = scores[:, 1:, 1:] if scores.size(-1) > 8 else scores
    own = scores.diagonal(dim1=-2, dim2=-1)[..., None].nan_to_num(0.0)
    return min(_along_diagonals(scores), _along_diagonals(scores - own))


def _along_diagonals(scores: Tensor) -> float:
    known = [head[~head.isnan()] for head in scores]
    spread = max((float(head.std()) for head in known if head.numel() > 1), default=0.0)
    worst, length = 0.0, scores.size(-1)
    for offset in range(1 - length, length):
        diagonal = scores.diagonal(offset, dim1=-2, dim2=-1)
        low, high = diagonal.nan_to_num(torch.inf).amin(-1), diagonal.nan_to_num(-torch.inf).amax(-1)
        seen = ~diagonal.isnan().all(-1)
        if bool(seen.any()):
            worst = max(worst, float((high - low)[seen].max()))
    return worst / max(spread, 1e-30)
