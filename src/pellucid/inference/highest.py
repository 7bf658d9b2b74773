"""The few highest of many scores, without sorting them all. Shapes: N rows, V vocabulary, C candidates."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 64


def highest(scores: Float[Tensor, "N V"], count: int) -> Int[Tensor, "N C"]:
    """The places of the highest scores, in no order; the plain twin is ``scores.topk(count).indices``.

    Of as many blocks as there are places to fill, those with the highest maxima, none can lie outside: so that only
    they need be sorted.
    """
    blocks = scores.size(1) // BLOCK
    if blocks <= count:
        return scores.topk(min(count, scores.size(1)), dim=1, sorted=False).indices
    whole = scores[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    chosen = whole.amax(dim=2).topk(count, dim=1, sorted=False).indices
    places = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
    rest = torch.arange(blocks * BLOCK, scores.size(1), device=scores.device).expand(scores.size(0), -1)
    places = torch.cat([places, rest], dim=1)
    return places.gather(1, scores.gather(1, places).topk(count, dim=1, sorted=False).indices)
