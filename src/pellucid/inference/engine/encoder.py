"""The engine for encoders: texts of any lengths side by side, and no padding anywhere.

Its plain twin is :class:`~pellucid.inference.reader.Padded`, the model itself.

Shapes: N tokens of all texts, D d_model.
"""

from __future__ import annotations

import warnings

import torch

from pellucid.errors import UserError
from pellucid.inference.engine.layers import Layers, numbers_in
from pellucid.inference.engine.looking import Whole, flat, grouped
from pellucid.inference.engine.products import Products, Weights
from pellucid.inference.reader import Flat, Padded
from pellucid.inference.writer import Ids
from pellucid.models.encoder import Encoder
from pellucid.nn.embedding import TokenFront
from pellucid.nn.positions import check_length


class EncoderEngine:
    """An encoder that reads tokens, ready to run: only attention looks at each text for itself.

    Where the model is being traced, it steps aside for the model itself and says so.

    Args:
        model: in evaluation mode; its weights are read now, and changes made to them later are not seen.
        weights: the type that they are read in: ``float32`` is exact, ``float16`` nearly so and up to twice as fast
            where few rows wait for their weights, ``bfloat16`` is faster where there are many, ``int8`` everywhere.

    Raises:
        UserError: for a model that reads no tokens, or ``int8`` or ``float16`` where there is no
            kernel for it.
    """

    budget = 2048  # enough for products to be efficient, few enough for what is computed to stay in a cache

    @torch.inference_mode()
    def __init__(self, model: Encoder, weights: Weights = "float32") -> None:
        if not isinstance(model.embedding, TokenFront):
            raise UserError("engine", "this encoder reads no tokens", "one that reads text")
        self.model, self.weights = model, weights
        self.layers = Layers(model, Products(weights, model.device, numbers_in(model)))

    @torch.inference_mode()
    def __call__(self, texts: Ids, types: Ids | None = None) -> Flat:
        """The last states of texts of at least one token each; see :class:`~pellucid.inference.reader.Reader`."""
        model, lengths = self.model, tuple(map(len, texts))
        check_length(max(lengths), model.max_length, "input")
        if model._tape is not None:
            warnings.warn("the model is being traced: the engine steps aside for the model itself", stacklevel=2)
            return Padded(model, 0)(texts, types)
        groups = grouped(lengths)
        tokens, positions = flat(texts, groups, model.device)
        kinds = None if types is None else flat(types, groups, model.device)[0]
        states = self.layers(tokens, positions, Whole(model, groups, None), types=kinds)
        order = [row for group in groups for row in group.rows]
        parts = dict(zip(order, torch.split(states[: sum(lengths)], [lengths[row] for row in order]), strict=True))
        return Flat(torch.cat([parts[row] for row in range(len(texts))]), lengths)
