"""What a head could do, from its weights alone: the OV and the QK circuit (Elhage et al. 2021).

OV says what is written into the stream when a token is looked at, QK which pairs of states make a large score. Both are
D × D matrices of rank K at most, which are never formed: with A = Q₁ R₁ and B = Q₂ R₂, the singular values of A Bᵀ are
those of R₁ R₂ᵀ, a K × K matrix.

Shapes: D d_model, E width of what is read, H heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.analysis.streams import matrix
from pellucid.errors import UserError
from pellucid.nn.attention import Attention


@torch.no_grad()
def ov_singular_values(attention: Attention) -> Float[Tensor, "H K"]:
    """The K singular values of W_O W_V for each head, largest first.

    How many of them are large is the number of directions that a head copies. Biases and the gains of norms are left
    out; heads in one group share their values.
    """
    value = _heads(attention.value, attention.head_dim).mT  # (G, E, K)
    out = matrix(attention.out).reshape(attention.out.out_features, -1, attention.head_dim).transpose(0, 1)  # (H, D, K)
    return _singular_values(out, _for_each_head(value, out))


@torch.no_grad()
def qk_singular_values(attention: Attention) -> Float[Tensor, "H K"]:
    """The K singular values of W_Qᵀ W_K for each head, largest first.

    Biases, the gains of norms and the scale of the scores are left out. With rotary positions this is the circuit of a
    token with itself: over any distance the two sides are turned against each other first.

    Raises:
        UserError: with norms on queries and keys, where a score is no product of two states with one matrix.
    """
    if not isinstance(attention.query_norm, nn.Identity):
        expected = "an attention without qk_norm, whose scores are products of two states with one matrix"
        raise UserError("the QK circuit", "queries and keys are normed", expected)
    query, key = (_heads(layer, attention.head_dim).mT for layer in (attention.query, attention.key))
    return _singular_values(query, _for_each_head(key, query))


def _singular_values(a: Float[Tensor, "H D K"], b: Float[Tensor, "H E K"]) -> Float[Tensor, "H K"]:
    """Of a bᵀ."""
    triangles = [torch.linalg.qr(side.double(), mode="r").R for side in (a, b)]
    return torch.linalg.svdvals(triangles[0] @ triangles[1].mT).to(a.dtype)


def _heads(layer: nn.Linear, head_dim: int) -> Float[Tensor, "G K D"]:
    return matrix(layer).reshape(-1, head_dim, layer.in_features)


def _for_each_head(grouped: Float[Tensor, "G E K"], heads: Float[Tensor, "H D K"]) -> Float[Tensor, "H E K"]:
    return grouped.repeat_interleave(heads.size(0) // grouped.size(0), dim=0)
