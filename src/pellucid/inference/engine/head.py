"""The scores of a vocabulary, from packed weights.

Rounded weights find the tokens that come into question; the scores of the best few are taken again in float32, so that
rounding the largest matrix of all does not change which token is the likeliest.

Shapes: N positions, D d_model, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.inference.engine.products import Products

CANDIDATES = 32


class Head:
    """A language head, packed."""

    def __init__(self, head: nn.Module, products: Products) -> None:
        project = head.project
        assert isinstance(project, nn.Linear)
        self.project, self.prepare = products.of(project.weight, project.bias), _preparing(head)
        self.weight, self.bias = project.weight.detach(), None if project.bias is None else project.bias.detach()
        self.softcap: float | None = head.softcap  # type: ignore[assignment]
        self.exact = products.weights == "float32"

    def __call__(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        ready = self.prepare(states)
        logits = self.project(ready)
        if not self.exact:
            best = likeliest(logits, min(CANDIDATES, logits.size(1)))
            again = torch.bmm(self.weight[best].float(), ready[:, :, None])[:, :, 0]
            logits.scatter_(1, best, again if self.bias is None else again + self.bias[best])
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


BLOCK = 64


def likeliest(scores: Float[Tensor, "N V"], count: int) -> Tensor:
    """The places of the highest scores, in no order.

    Of as many blocks as there are places to fill, those with the highest maxima, none can lie outside: so that only
    they need be sorted.
    """
    blocks = scores.size(1) // BLOCK
    if blocks <= count:
        return scores.topk(count, dim=1, sorted=False).indices
    whole = scores[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    chosen = whole.amax(dim=2).topk(count, dim=1, sorted=False).indices
    places = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
    rest = torch.arange(blocks * BLOCK, scores.size(1), device=scores.device).expand(scores.size(0), -1)
    places = torch.cat([places, rest], dim=1)
    return places.gather(1, scores.gather(1, places).topk(count, dim=1, sorted=False).indices)


def _preparing(head: nn.Module) -> Callable[[Tensor], Tensor]:
    scale: float = head.scale  # type: ignore[assignment]
    return (lambda states: states) if scale == 1.0 else (lambda states: states * scale)
