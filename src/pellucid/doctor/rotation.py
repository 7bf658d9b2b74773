"""Which of queries, keys and values are told positions, and how: read from what a model makes of one token repeated.

Shapes: H heads, G key/value heads, T positions, K head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.constant import Reading, settled, tells, visible
from pellucid.trace.sites import Site, for_each_head

LOOSE, TURNED = 1e-4, 1e-2
"""Share by which lengths may differ that a rotation keeps: its sines are those of float32 angles; by which what is
rotated differs between positions at the least."""


def turned(reading: Reading) -> tuple[str, Site] | None:
    """What is rotated and should not be, and where: ``values``, or ``queries`` where keys are not; ``None``: nothing.

    Places after the first whose values differ read what is no longer one token repeated, and tell nothing.
    """
    start = reading.settled if reading.settled <= reading.first.v.size(2) // 2 else 0
    for site in reading.places:
        q, k, v = (x[0, :, start:].double() for x in (site.q, site.k, site.v))
        if float((v - v[:, -1:]).abs().max()) > TURNED * float(v.abs().max()):
            return ("values", site) if _is_rotated(v) else None
        if not tells(site, start) and _moves(q) and not _moves(k):
            return "queries", site
    return None


def one_speed(reading: Reading) -> bool:
    """Whether all pairs of channels that are rotated turn by the same angle from position to position."""
    q = reading.site.q[0].double()
    for pairs in _paired(q):
        if not _same(pairs.norm(dim=-1)):
            continue
        turns = torch.view_as_complex(pairs.contiguous())
        step = (turns[:, 1:] * turns[:, :-1].conj()).angle().abs()  # (H, T-1, K/2)
        speeds = step.median(1).values.median(0).values
        speeds = speeds[speeds > LOOSE]
        return speeds.numel() > 1 and bool((speeds - speeds[0]).abs().max() <= LOOSE)
    return False


def _paired(x: Tensor) -> list[Tensor]:
    """(…, K) as (…, K/2, 2): halves, and neighbours."""
    if x.size(-1) % 2:
        return []
    return [torch.stack(x.chunk(2, -1), -1), x.reshape(*x.shape[:-1], -1, 2)]


def _is_rotated(x: Tensor) -> bool:
    """Whether (G, T, K) differs between positions by rotations of pairs alone: each keeps its length."""
    return any(_same(pairs.norm(dim=-1)) for pairs in _paired(x))


def _same(x: Tensor) -> bool:
    return bool((x - x[:, -1:]).abs().max() <= LOOSE * x.abs().max().clamp_min(1e-30))


def _moves(x: Tensor) -> bool:
    """Whether the directions of (H, T, K) differ between positions; a temperature changes lengths alone."""
    unit = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return settled(unit.transpose(0, 1).flatten(1)[None]) > x.size(1) // 2


def unit_scores(reading: Reading) -> Tensor | None:
    """(H, T', T'): the cosines between queries and keys, visible places alone; ``None`` where a bias is added."""
    site = reading.site
    if site.replay is not None or site.formula.bias is not None:
        return None
    q, k = (x[:1].double() / x[:1].double().norm(dim=-1, keepdim=True).clamp_min(1e-30) for x in (site.q, site.k))
    cosines = (q @ for_each_head(k, q).mT)[0].masked_fill(visible(site)[0].isnan(), torch.nan)
    return cosines[:, reading.settled :, reading.settled :]


def away(scores: Tensor) -> bool:
    """Whether (H, T, T) grows in proportion to distance in every head, as ALiBi's penalty would with the wrong sign."""
    last = scores[:, -1].flip(-1)  # from the query itself into the past
    last = last[:, : int((~last.isnan().any(0)).long().cumprod(0).sum())]
    if last.size(-1) < 4:
        return False
    steps = last.diff(dim=-1)
    return bool((steps > 0).all()) and bool((steps.diff(dim=-1).abs() <= tolerances.TOEPLITZ * steps[:, 1:]).all())
