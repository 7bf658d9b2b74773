"""What a unit of a feed-forward network responds to: the tokens of a corpus at which it is most active.

Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories", §3: the patterns that a key detects are read
off the texts that activate it most.

Shapes: B batch, T positions, F d_ff, U units, R best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.analysis.passes import Pass, recorded
from pellucid.errors import UserError
from pellucid.trace import trace


@dataclass(frozen=True, eq=False)
class Passage:
    """A batch of texts and how the model reads them.

    Attributes:
        run: a pass over the batch.
        tokens: what the tower of the units reads: of an encoder–decoder, the source or the target.
        keep: True where a token is real; all are when left out.
    """

    run: Pass
    tokens: Int[Tensor, "B T"]
    keep: Bool[Tensor, "B T"] | None = None


@dataclass(frozen=True, eq=False)
class Best:
    """The largest activations of some units of one layer, largest first.

    With fewer than R tokens in the corpus the rest is -inf, at row -1.

    Attributes:
        units: which units, in the order asked.
        values: what they were.
        tokens: at which token.
        rows: in which text, counted over all batches.
        positions: and where in it.
    """

    units: tuple[int, ...]
    values: Float[Tensor, "U R"]
    tokens: Int[Tensor, "U R"]
    rows: Int[Tensor, "U R"]
    positions: Int[Tensor, "U R"]


@torch.no_grad()
def top_activations(
    model: nn.Module, passages: Iterable[Passage], units: Mapping[str, Sequence[int]], *, best: int = 10
) -> dict[str, Best]:
    """The tokens at which each unit is most active, over any number of batches in the memory of one.

    Args:
        units: the units by the name of their tensor, as in ``{"blocks.2.feed_forward.hidden": [7, 300]}``.
        best: R, how many tokens for each unit.

    Raises:
        UserError: for a name that the model does not compute, or a unit it does not have; for tokens or ``keep`` of
            another shape than the tensor.
    """
    found = {name: _none(tuple(wanted), best) for name, wanted in units.items()}
    seen = 0
    for passage in passages:
        with trace(model, watch=list(units)) as tape:
            passage.run()
        for name, before in found.items():
            found[name] = _better(before, _in_batch(name, before, recorded(tape.tensors, name), passage, seen))
        seen += len(passage.tokens)
    return found


def _none(units: tuple[int, ...], best: int) -> Best:
    nowhere = torch.full((len(units), best), -1)
    return Best(units, torch.full((len(units), best), -torch.inf), nowhere, nowhere, nowhere)


def _in_batch(name: str, before: Best, hidden: Float[Tensor, "B T F"], passage: Passage, seen: int) -> Best:
    """The best of one batch, whose first text is number ``seen``."""
    tokens = passage.tokens.to(hidden.device)
    keep = torch.ones_like(tokens, dtype=torch.bool) if passage.keep is None else passage.keep.to(hidden.device)
    if not tokens.shape == keep.shape == hidden.shape[:2]:
        found = f"tokens of shape {tuple(tokens.shape)} and keep of shape {tuple(keep.shape)}"
        raise UserError(f'"{name}"', found, f"{tuple(hidden.shape[:2])} for both, as the tensor has")
    wrong = [unit for unit in before.units if not 0 <= unit < hidden.size(-1)]
    if wrong:
        raise UserError(f'"{name}"', f"no unit {wrong[0]}", f"0 to {hidden.size(-1) - 1}")
    values = hidden[..., list(before.units)].float().masked_fill(~keep[..., None], -torch.inf).flatten(0, 1).T
    order = values.sort(dim=1, descending=True, stable=True)  # topk would take any of equal ones
    values, where = (part[:, : before.values.size(1)] for part in order)
    rows, positions = where // tokens.size(1) + seen, where % tokens.size(1)
    parts = (tokens.flatten()[where], rows, positions)
    return Best(before.units, values.cpu(), *(part.cpu() for part in parts))


def _better(a: Best, b: Best) -> Best:
    """The best of two; where they are equal, the earlier, so that padding never takes the place of nothing."""
    values, order = torch.cat([a.values, b.values], dim=1).sort(dim=1, descending=True, stable=True)
    size = a.values.size(1)
    pairs = ((a.tokens, b.tokens), (a.rows, b.rows), (a.positions, b.positions))
    parts = [torch.cat(pair, dim=1).gather(1, order)[:, :size] for pair in pairs]
    return Best(a.units, values[:, :size], *parts)
