"""The few highest of many scores, without sorting them all. Shapes: N rows, V vocabulary, C candidates."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

IN_BLOCK = 16


def highest(scores: Float[Tensor, "N V"], count: int) -> Int[Tensor, "N C"]:
    """The places of the highest scores, in no order; the plain twin is ``scores.topk(count).indices``.

    Of as many blocks as there are places to fill, those with the highest maxima, none can lie outside: so that only
    they need be sorted. A block's scores stand apart, so that a CPU finds the maxima of neighbouring blocks at once.
    """
    blocks = scores.size(1) // IN_BLOCK
    if blocks <= count:
        return scores.topk(min(count, scores.size(1)), dim=1, sorted=False).indices
    end = blocks * IN_BLOCK
    maxima = scores[:, :end].unflatten(1, (IN_BLOCK, blocks)).amax(dim=1)
    chosen = maxima.topk(count, dim=1, sorted=False).indices
    places = (chosen[:, :, None] + torch.arange(0, end, blocks, device=scores.device)).flatten(1)
    rest = torch.arange(end, scores.size(1), device=scores.device).expand(scores.size(0), -1)
    places = torch.cat([places, rest], dim=1)
    return places.gather(1, scores.gather(1, places).topk(count, dim=1, sorted=False).indices)
