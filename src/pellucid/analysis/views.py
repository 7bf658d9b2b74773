"""Who looks where: what a mask lets through, and masks drawn by another rule.

Shapes: B batch, T queries, S keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from pellucid.errors import UserError
from pellucid.nn.masks import Mask, Sites


@dataclass(frozen=True)
class Seen:
    """What one mask lets through.

    Attributes:
        queries, keys: how many there are.
        pairs: that may meet.
        blind: the queries that see nothing.
        unseen: the keys that nobody sees, as those of padding.
    """

    queries: int
    keys: int
    pairs: int
    blind: tuple[int, ...]
    unseen: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def seen(allowed: Bool[Tensor, "1 1 T S"]) -> Seen:
    """What a mask of one text lets through."""
    pairs = allowed[0, 0]
    blind, unseen = ((~pairs.any(dim=axis)).nonzero().flatten().tolist() for axis in (1, 0))
    return Seen(pairs.size(0), pairs.size(1), int(pairs.sum()), tuple(blind), tuple(unseen))


def redrawn(causal: bool, window: int | None = None) -> Callable[[Tensor], Tensor]:
    """An edit of a mask: the same text under another rule.

    What was padding stays hidden: a query that saw nothing sees nothing, a key that nobody saw is seen by nobody.

    Raises (when applied):
        UserError: for a causal rule or a window where queries and keys are not of one text.
    """

    def edit(allowed: Bool[Tensor, "B 1 T S"]) -> Bool[Tensor, "B 1 T S"]:
        queries, keys = allowed.shape[-2:]
        if (causal or window is not None) and queries != keys:
            raise UserError("mask", f"{queries} queries and {keys} keys", "a mask of a text over itself")
        sites = [Sites.of(1, length, allowed.device) for length in (queries, keys)]
        rule = Mask(query=sites[0], key=sites[1], causal=causal, window=window).allowed()
        return rule & allowed.any(dim=-1, keepdim=True) & allowed.any(dim=-2, keepdim=True)

    return edit


def rule_of(mask: Mask) -> dict[str, Any]:
    """The rule of a mask as it was given, before any edit."""
    padded = any(sites.segments is not None for sites in (mask.query, mask.key))
    return {"causal": mask.causal, "window": mask.window, "padding": padded, "bias": mask.bias is not None}
