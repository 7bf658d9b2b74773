"""What the patterns of attention look like: one number for each row and head, from the weights alone.

Weights are those of a tape, ``….self_attention.weights`` or ``….cross_attention.weights``. Every number is a mean over
the real queries of a row: ``keep`` says which those are, ``source_keep`` which keys are real; without them all are.

Shapes: B batch, T queries, S keys, H heads.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.errors import UserError
from pellucid.trace.working import wide

Keep = Bool[Tensor, "B T"]


def entropy(weights: Float[Tensor, "B H T S"], keep: Keep | None = None) -> Float[Tensor, "B H"]:
    """-Σ w ln w in nats: 0 where a head looks at one key, ln S where it looks at all alike (Clark et al. 2019, §3.2).

    Raises:
        UserError: for weights or ``keep`` of another shape.
    """
    _check(weights)
    return _mean(torch.special.entr(wide(weights)).sum(-1), keep)


def mean_distance(weights: Float[Tensor, "B H T T"], keep: Keep | None = None) -> Float[Tensor, "B H"]:
    """Σ w |t - s|: how many positions away a head looks (Vig & Belinkov 2019, "attention distance").

    Raises:
        UserError: for weights that are not those of self-attention over a whole text.
    """
    position = _check_square(weights, "a distance")
    distance = (position[:, None] - position).abs()
    return _mean((wide(weights) * distance).sum(-1), keep)


def previous_token_score(weights: Float[Tensor, "B H T T"], keep: Keep | None = None) -> Float[Tensor, "B H"]:
    """The weight on the token before, from 0 to 1; the first real token has none before it and is left out.

    Such heads are one half of the induction circuit of Elhage et al. 2021.

    Raises:
        UserError: for weights that are not those of self-attention over a whole text.
    """
    _check_square(weights, "the token before")
    before = weights.diagonal(-1, -2, -1)
    if keep is None:
        return _mean(before, None)
    _check_keep(keep, weights.size(0), weights.size(-2), "keep")
    return _mean(before, keep[:, 1:] & keep[:, :-1])


def repeated_tokens(
    rows: int,
    *,
    period: int,
    repeats: int,
    vocab_size: int,
    first: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B T"]:
    """Random tokens, repeated: what induction heads are found on (Olsson et al. 2022, prefix matching).

    Args:
        period: how many tokens are drawn for each row, none twice where the vocabulary is large enough.
        repeats: how often they stand in a row.
        first: a token to stand before them, such as that of the beginning of a text.

    Raises:
        UserError: for fewer than two repeats.
    """
    if repeats < 2:
        raise UserError("repeats", f"found {repeats}", "2 or more, since a head is to find what came before")
    chance = torch.ones(rows, vocab_size)
    once = chance.multinomial(period, replacement=period > vocab_size, generator=generator)
    tokens = once.repeat(1, repeats)
    return tokens if first is None else torch.cat([torch.full((rows, 1), first), tokens], dim=1)


def induction_score(weights: Float[Tensor, "B H T T"], *, period: int, first: bool = False) -> Float[Tensor, "B H"]:
    """The weight on the tokens that came after the same token before (Olsson et al. 2022, "prefix matching score").

    A query counts from the second repeat on. Its weights on the successors of all its earlier occurrences are summed.

    Args:
        weights: on :func:`repeated_tokens` of this ``period``.
        first: whether a token stands before them.

    Raises:
        UserError: for fewer than two repeats, or weights that are not those of self-attention over a whole text.
    """
    position = _check_square(weights, "an earlier occurrence")
    length = weights.size(-1) - first
    if not 2 <= period <= length // 2:
        raise UserError("period", f"{period} in a text of {length} tokens", f"2 to {length // 2}, so that it repeats")
    distance = position[:, None] - position
    successor = (distance > 0) & (distance % period == period - 1) & (position > first)  # of what came before
    return _mean((wide(weights) * successor).sum(-1)[..., first + period :], None)


def sink_mass(
    weights: Float[Tensor, "B H T S"], keep: Keep | None = None, source_keep: Bool[Tensor, "B S"] | None = None
) -> Float[Tensor, "B H"]:
    """The weight on the first real key, the attention sink (Xiao et al. 2023, §3.1).

    In a causal model the first query can look nowhere else, so that even a head without a sink has 1/T.

    Raises:
        UserError: for weights, ``keep`` or ``source_keep`` of another shape.
    """
    _check(weights)
    if source_keep is None:
        return _mean(weights[..., 0], keep)
    _check_keep(source_keep, weights.size(0), weights.size(-1), "source_keep")
    first = source_keep & (source_keep.cumsum(1) == 1)
    return _mean((weights * first[:, None, None]).sum(-1), keep)


def padding_mass(
    weights: Float[Tensor, "B H T S"], source_keep: Bool[Tensor, "B S"], keep: Keep | None = None
) -> Float[Tensor, "B H"]:
    """The weight on padding: 0 in a model whose mask hides it, so that anything else is a leak.

    Raises:
        UserError: for weights, ``keep`` or ``source_keep`` of another shape.
    """
    _check(weights)
    _check_keep(source_keep, weights.size(0), weights.size(-1), "source_keep")
    return _mean((wide(weights) * ~source_keep[:, None, None]).sum(-1), keep)


def head_divergence(weights: Float[Tensor, "B H T S"], keep: Keep | None = None) -> Float[Tensor, "B H H"]:
    """The Jensen–Shannon divergence between heads, in nats: 0 for equal ones, ln 2 for two that share no key.

    The measure of Clark et al. 2019, §6. Heads of several layers are compared by putting them side by side first, as in
    ``torch.cat(weights, dim=1)``.

    Raises:
        UserError: for weights or ``keep`` of another shape.
    """
    _check(weights)
    weights = wide(weights)
    own = torch.special.entr(weights).sum(-1)
    rows = []
    for head in range(weights.size(1)):  # one against all: all against all would take H times the memory
        mixed = torch.special.entr((weights + weights[:, head, None]) / 2).sum(-1)
        rows.append(_mean(mixed - (own + own[:, head, None]) / 2, keep))
    return torch.stack(rows, dim=1).clamp(min=0)


def _mean(values: Float[Tensor, "B H T"], keep: Keep | None) -> Float[Tensor, "B H"]:
    """Over the real queries; zero where a row has none."""
    values = wide(values)
    if keep is None:
        return values.sum(-1) / max(values.size(-1), 1)
    _check_keep(keep, values.size(0), values.size(-1), "keep")
    return (values * keep[:, None]).sum(-1) / keep.sum(-1, keepdim=True).clamp(min=1)


def _check(weights: Tensor) -> None:
    if weights.dim() != 4:
        raise UserError("weights", f"shape {tuple(weights.shape)}", "(B, H, T, S)")


def _check_square(weights: Tensor, what: str) -> Int[Tensor, " T"]:
    """The positions, which are those of the keys too."""
    _check(weights)
    if weights.size(-1) != weights.size(-2):
        found = f"{weights.size(-2)} queries and {weights.size(-1)} keys"
        raise UserError("weights", found, "self-attention over a whole text", f"only there {what} can be told")
    return torch.arange(weights.size(-1), device=weights.device)


def _check_keep(keep: Tensor, rows: int, length: int, name: str) -> None:
    if keep.shape != (rows, length):
        raise UserError(name, f"shape {tuple(keep.shape)}", f"({rows}, {length})")


def patterns(weights: Float[Tensor, "1 H T S"], *, of_itself: bool) -> list[dict[str, float | None]]:
    """What each head of one text is like, by name.

    Args:
        of_itself: whether the text attends to itself, all of it: else distances mean nothing and are ``None``.
    """
    found = {
        "entropy": entropy(weights),
        "distance": mean_distance(weights) if of_itself else None,
        "previous": previous_token_score(weights) if of_itself and weights.size(-1) > 1 else None,
        "sink": sink_mass(weights),
        "peak": weights.amax(dim=-1).mean(dim=-1),
    }
    return [
        {name: None if values is None else values[0, head].item() for name, values in found.items()}
        for head in range(weights.size(1))
    ]
