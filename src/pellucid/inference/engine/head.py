"""The scores of a vocabulary, from packed weights.

Rounded weights find the tokens that come into question; the scores of the best few are taken again in float32, so that
rounding the largest matrix of all does not change which token is the likeliest.

Shapes: N positions, D d_model, V vocabulary, C candidates.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.inference.engine.products import Products
from pellucid.inference.highest import highest

CANDIDATES = 32


class Head:
    """A language head, packed."""

    def __init__(self, head: nn.Module, products: Products) -> None:
        project = head.project
        assert isinstance(project, nn.Linear)
        self.project, self.prepare = products.of(project.weight, project.bias), _preparing(head)
        self.weight = project.weight.detach().float()  # the same, where it is float32
        self.bias = None if project.bias is None else project.bias.detach()
        self.softcap: float | None = head.softcap  # type: ignore[assignment]
        self.exact = products.weights == "float32"

    def __call__(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        ready = self.prepare(states)
        logits = self.project(ready)
        if not self.exact:
            best = highest(logits, CANDIDATES)
            again = chosen_products(ready, self.weight, best)
            logits.scatter_(1, best, again if self.bias is None else again + self.bias[best])
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def chosen_products(
    x: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], rows: Int[Tensor, "N C"]
) -> Float[Tensor, "N C"]:
    """Of x Wᵀ the entries at some rows of W for each row of x.

    On a CPU, rows are multiplied where they stand, as at the places of a sparse matrix; elsewhere, and as its plain
    twin, they are copied.
    """
    if x.device.type != "cpu":
        return copied_products(x, weight, rows)
    return torch.sparse.sampled_addmm(_pattern(rows, len(weight)), x, weight.t(), beta=0.0).values().view(rows.shape)


def copied_products(
    x: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], rows: Int[Tensor, "N C"]
) -> Float[Tensor, "N C"]:
    """The plain twin of :func:`chosen_products`."""
    return torch.bmm(weight[rows], x[:, :, None])[:, :, 0]


def _pattern(columns: Int[Tensor, "N C"], width: int) -> Float[Tensor, "N V"]:
    """A sparse matrix of zeros, with as many places in each row."""
    _hush()
    count, each = columns.shape
    ends = torch.arange(0, (count + 1) * each, each)
    return torch.sparse_csr_tensor(
        ends, columns.flatten(), torch.zeros(count * each), (count, width), check_invariants=False
    )


@cache
def _hush() -> None:
    """Lets PyTorch say once, to nobody, that such matrices are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.zeros(1, 1).to_sparse_csr()


def _preparing(head: nn.Module) -> Callable[[Tensor], Tensor]:
    scale: float = head.scale  # type: ignore[assignment]
    return (lambda states: states) if scale == 1.0 else (lambda states: states * scale)
