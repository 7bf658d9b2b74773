"""How much of each input token is in each position, if attention were all that moved it (Abnar & Zuidema 2020).

A head's weights say where one layer looks, but what is looked at is itself a mixture already. Rollout multiplies the
mixtures; flow asks how much the narrowest places between an input and an output let through.

Shapes: B batch, T positions, S source positions, H heads, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.flow import Network
from pellucid.analysis.passes import Progress, unheard
from pellucid.errors import UserError

Weights = Float[Tensor, "B H T S"]


@dataclass(frozen=True, eq=False)
class CrossRollout:
    """What the positions of a decoder are made of after each of its layers; the two add up to 1.

    Attributes:
        source: the share of each source token.
        target: the share of each target token.
    """

    source: Float[Tensor, "L B T S"]
    target: Float[Tensor, "L B T T"]


def rollout(weights: Sequence[Weights]) -> Float[Tensor, "L B T T"]:
    """The share of each input token in each position, after each layer (Abnar & Zuidema 2020, eq. 1).

    Ã(l) = A(l) Ã(l - 1), where A = 0.5 W + 0.5 I, W being the mean over the heads and I the residual connection. A
    query that sees nothing stays as it is.

    Args:
        weights: of self-attention, by layer, (B, H, T, T) each.

    Raises:
        UserError: for no layers, or weights that are not square or not of one size.
    """
    mixtures = [_with_residual(layer) for layer in _checked(weights, "weights")]
    after = [mixtures[0]]
    for mixture in mixtures[1:]:
        after.append(mixture @ after[-1])
    return torch.stack(after)


def cross_rollout(encoder: Sequence[Weights], decoder: Sequence[Weights], cross: Sequence[Weights]) -> CrossRollout:
    """Rollout through an encoder–decoder: the share of source and of target tokens in each target position.

    Equation 1 of Abnar & Zuidema 2020, once for each sub-layer: self-attention mixes target positions, cross-attention
    mixes what the encoder's rollout says its states are made of. Each keeps half of what was there.

    Args:
        encoder: weights of its self-attention, by layer, (B, H, S, S) each.
        decoder: weights of its self-attention, by layer, (B, H, T, T) each.
        cross: weights of its cross-attention, by layer, (B, H, T, S) each.

    Raises:
        UserError: for weights whose shapes do not fit together.
    """
    states = rollout(encoder)[-1]
    layers = [_with_residual(layer) for layer in _checked(decoder, "decoder")]
    if len(cross) != len(layers):
        raise UserError("cross", f"weights of {len(cross)} layers", f"those of {len(layers)}, as in decoder")
    shape = (layers[0].size(0), layers[0].size(-1), states.size(-1))
    target = torch.eye(shape[1]).to(states).expand(shape[0], -1, -1)
    source = torch.zeros(shape).to(states)
    found: list[tuple[Tensor, Tensor]] = []
    for mixture, layer in zip(layers, cross, strict=True):
        read = layer.mean(1)
        if read.shape != shape:
            raise UserError(
                "cross", f"weights of shape {tuple(read.shape)} for a head", f"{shape}, from target to source"
            )
        seen = read.sum(-1, keepdim=True)  # 1, or 0 for a query that sees nothing and keeps what it has
        source, target = mixture @ source, mixture @ target
        source, target = (source + read @ states) / (1 + seen), target / (1 + seen)
        found.append((source, target))
    return CrossRollout(torch.stack([s for s, _ in found]), torch.stack([t for _, t in found]))


def attention_flow(
    weights: Sequence[Weights], queries: Sequence[int] | None = None, progress: Progress = unheard
) -> Float[Tensor, "B Q T"]:
    """The largest flow from each position of the last layer to each input token (Abnar & Zuidema 2020, §3).

    Positions of neighbouring layers are joined by edges with the capacities A = 0.5 W + 0.5 I of rollout. A flow is at
    most 1; those to different inputs are asked one at a time and need not add up to 1. It takes B · Q · T searches in a
    network of L · T² edges: for sentences, not for documents.

    Args:
        weights: of self-attention, by layer, (B, H, T, T) each.
        queries: the positions of the last layer to ask for; all of them when left out.

    Raises:
        UserError: for no layers, or weights that are not square or not of one size.
    """
    mixtures = torch.stack([_with_residual(layer) for layer in _checked(weights, "weights")]).double().cpu()
    layers, rows, length = mixtures.shape[:3]
    asked = list(range(length) if queries is None else queries)
    flows = torch.zeros(rows, len(asked), length)
    for row in range(rows):
        network = Network(_layered(mixtures[:, row]))
        for i, query in enumerate(asked):
            for token in range(length):
                flows[row, i, token] = network.flow(layers * length + query, token)
            progress(row * len(asked) + i + 1, rows * len(asked))
    return flows


def _layered(mixtures: Float[Tensor, "L T T"]) -> Float[Tensor, "N N"]:
    """The capacities of a network of L + 1 rows of T nodes, the inputs first, with edges from each row to the last."""
    layers, length = mixtures.shape[:2]
    capacity = torch.zeros((layers + 1) * length, (layers + 1) * length, dtype=mixtures.dtype)
    for layer, mixture in enumerate(mixtures):
        start = layer * length
        capacity[start + length : start + 2 * length, start : start + length] = mixture
    return capacity


def _with_residual(weights: Weights) -> Float[Tensor, "B T T"]:
    """0.5 W + 0.5 I, rows adding up to 1 also where a query saw nothing."""
    mean = weights.mean(1)
    mixture = mean + torch.eye(mean.size(-1)).to(mean)
    return mixture / mixture.sum(-1, keepdim=True)


def _checked(weights: Sequence[Weights], where: str) -> Sequence[Weights]:
    if not weights:
        raise UserError(where, "no layers", "the weights of every layer, from the first to the last")
    first = weights[0].shape
    for layer, shape in enumerate(w.shape for w in weights):
        if len(shape) != 4 or shape[2] != shape[3] or (shape[0], shape[2]) != (first[0], first[2]):
            found = f"shape {tuple(shape)} in layer {layer}"
            raise UserError(where, found, "(B, H, T, T) in every layer: self-attention over a whole text")
    return weights
