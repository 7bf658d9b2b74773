"""What a table of embeddings holds: which tokens point the same way, and how long their vectors are.

Shapes: V vocabulary, D d_model, N neighbours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import UserError


@dataclass(frozen=True)
class Neighbour:
    """A token, and the cosine of the angle between its vector and another's."""

    id: int
    cosine: float
    norm: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def nearest(table: Float[Tensor, "V D"], token: int, top: int = 10, *, centred: bool = False) -> list[Neighbour]:
    """The other tokens by the cosine of their vectors to that of a token, the nearest first (Mikolov et al. 2013, §4).

    Args:
        centred: from the mean of the table on. Where all vectors share a direction, as they often do, every cosine is
            large until it is taken away (Mu & Viswanath 2018, §2).

    Raises:
        UserError: for a token that the table does not have.
    """
    if not 0 <= token < len(table):
        raise UserError("token", f"found {token}", f"ids from 0 to {len(table) - 1}")
    origin = table.mean(dim=0) if centred else table.new_zeros(table.size(1))
    own = table[token] - origin
    lengths = (table - origin).norm(dim=1) if centred else table.norm(dim=1)
    near = (table @ own - origin @ own) / (lengths * own.norm()).clamp(min=torch.finfo(table.dtype).tiny)
    near[token] = -torch.inf
    best = near.topk(min(top, len(table) - 1)).indices
    # What is printed is computed with more digits than what is searched.
    exact = torch.cosine_similarity(table[best].double() - origin.double(), own.double(), dim=1, eps=1e-300)
    order = exact.argsort(descending=True, stable=True)
    norms = table[best].double().norm(dim=1)
    return [Neighbour(int(best[i]), exact[i].item(), norms[i].item()) for i in order.tolist()]


@torch.no_grad()
def norms(table: Float[Tensor, "V D"]) -> Float[Tensor, " V"]:
    """The length of each token's vector."""
    return table.norm(dim=1)
