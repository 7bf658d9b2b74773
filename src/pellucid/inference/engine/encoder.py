"""The engine for encoders: texts of any lengths side by side, and no padding anywhere.

Its plain twin is the model itself, given one text at a time.

Shapes: B texts of one group, T positions, D d_model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import UserError
from pellucid.inference.engine.layers import Layers
from pellucid.inference.engine.looking import Whole, flat, grouped
from pellucid.inference.engine.products import Products, Weights
from pellucid.inference.writer import Ids
from pellucid.models.encoder import Encoder
from pellucid.models.tower import Encoded
from pellucid.nn.embedding import TokenFront
from pellucid.nn.masks import Sites
from pellucid.nn.positions import check_length

TOKENS = 2048
"""Tokens that go through the layers together: enough for products to be efficient, few enough to stay in a cache."""


class EncoderEngine:
    """An encoder that reads tokens, ready to run.

    Args:
        model: in evaluation mode; its weights are read now, and changes made to them later are not seen.
        weights: the type that they are read in: ``float32`` is exact, ``bfloat16`` and ``int8`` are faster.

    Raises:
        UserError: for a model that reads no tokens, or ``int8`` where there is no kernel for it.
    """

    @torch.inference_mode()
    def __init__(self, model: Encoder, weights: Weights = "float32") -> None:
        if not isinstance(model.embedding, TokenFront):
            raise UserError("engine", "this encoder reads no tokens", "one that reads text")
        self.model, self.weights = model, weights
        self.layers = Layers(model, Products(weights, model.device))

    def states(self, rows: Ids, types: Ids | None = None) -> Iterator[tuple[tuple[int, ...], Encoded]]:
        """The last hidden states (B, T, D) of texts of one length, and which of the rows those are.

        Args:
            rows: at least one token each.
            types: of each token, for a model that has token types.
        """
        check_length(max(map(len, rows)), self.model.max_length, "text")
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        while order:
            count = 1
            while count < len(order) and sum(len(rows[row]) for row in order[: count + 1]) <= TOKENS:
                count += 1
            now, order = order[:count], order[count:]
            yield from self._states(now, rows, types)

    def outputs(self, rows: Ids, types: Ids | None = None) -> list[Tensor]:
        """What the model's head makes of each text: logits (T, V) or (labels), or an embedding (D)."""
        found: dict[int, Tensor] = {}
        for these, encoded in self.states(rows, types):
            with torch.inference_mode():
                found.update(zip(these, self.model.head(encoded), strict=True))
        return [found[row] for row in range(len(rows))]

    def embed(self, rows: Ids, types: Ids | None = None) -> Float[Tensor, "B D"]:
        """One vector for each text, for a model whose head gives one."""
        return torch.stack(self.outputs(rows, types))

    @torch.inference_mode()
    def _states(self, now: Sequence[int], rows: Ids, types: Ids | None) -> list[tuple[tuple[int, ...], Encoded]]:
        device = self.model.device
        groups = grouped([len(rows[row]) for row in now])
        if self.model._tape is not None:
            warnings.warn("the model is being traced: the engine steps aside for the model itself", stacklevel=5)
            return [((row,), self._plain(rows[row], None if types is None else types[row])) for row in now]
        tokens, positions = flat([rows[row] for row in now], groups, device)
        kinds = None if types is None else flat([types[row] for row in now], groups, device)[0]
        found = self.layers(tokens, positions, Whole(self.model, groups, None), types=kinds)
        parts = []
        for group in groups:
            states = found[group.start : group.stop].view(len(group.rows), group.length, -1)
            at = torch.arange(group.length, device=device).expand(len(group.rows), -1)
            parts.append((tuple(now[row] for row in group.rows), Encoded(states, Sites(at))))
        return parts

    def _plain(self, row: Sequence[int], types: Sequence[int] | None) -> Encoded:
        device = self.model.device
        kinds = None if types is None else torch.tensor([list(types)], device=device)
        return self.model.features(torch.tensor([list(row)], device=device), token_types=kinds)
