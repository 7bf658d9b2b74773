"""Dropout that drops nothing, on the path that dropout takes.

With rates of zero many models take another branch. Here rates stay and the functions keep everything, so that two
passes in training mode can be compared even where random numbers fall on other places: experts draw as many as they
have tokens, and which those are depends on the whole text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from pellucid.doctor.training import without_layer_drop

KEEPING = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout}
WITHIN = {
    F.scaled_dot_product_attention: inspect.signature(
        lambda query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **_: None
    ),
    F.multi_head_attention_forward: inspect.signature(F.multi_head_attention_forward),
}
"""Functions that drop inside, and where their rate stands."""


class _Undropped(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named: Mapping[str, Any] = kwargs or {}
        if func in KEEPING:
            return args[0] if args else named["input"]
        if (signature := WITHIN.get(func)) is not None:
            bound = signature.bind(*args, **named)
            bound.arguments["dropout_p"] = 0.0
            return func(*bound.args, **bound.kwargs)
        return func(*args, **named)


@contextmanager
def undropped(model: nn.Module | None = None) -> Iterator[None]:
    """Within the block, every function of dropout returns what it is given, and the model skips no layer."""
    with nullcontext() if model is None else without_layer_drop(model), _Undropped():
        yield
