"""The same model in other coordinates, where a layout numbers them differently.

A format that turns halves of a head, or puts all sines before the cosines, can hold a model that interleaves them: the
coordinates of its heads, or of its residual stream, are put into another order, in every weight that reads or writes
them. The answers stay the same, but for the rounding of sums in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.config.model import Decoder, Encoder, EncoderDecoder, Model
from pellucid.config.parts import Positions, Rotary, Sinusoidal, Stack

Tensors = dict[str, Tensor]

READS = ("query.weight", "key.weight", "value.weight", "up.weight", "gate.weight", "head.project.weight")
WRITES = ("attention.out.weight", "attention.out.bias", "down.weight", "down.bias")
LIES_IN: tuple[str, ...] = (
    "table.weight",
    "before.weight",
    "before.bias",
    "after.weight",
    "after.bias",
    "output.weight",
    "output.bias",
)
LIES_IN += ("norm.weight", "norm.bias")


def by_halves(model: Model, tensors: Mapping[str, Tensor]) -> tuple[Model, Tensors]:
    """The model with nothing interleaved, and its weights."""
    found = dict(tensors)
    match model:
        case EncoderDecoder():
            if _interleaves(model.encoder) and _interleaves(model.decoder):
                found = _residual(model, found)
                return replace(model, encoder=_halved(model.encoder), decoder=_halved(model.decoder)), found
            return model, found
        case Decoder() | Encoder():
            if isinstance(model.stack.positions, Rotary) and model.stack.positions.interleaved:
                return replace(model, stack=_halved(model.stack)), _heads(model.stack, found)
            return model, found


def _interleaves(stack: Stack) -> bool:
    return isinstance(stack.positions, Sinusoidal) and stack.positions.interleaved


def _halved(stack: Stack) -> Stack:
    positions: Positions = stack.positions
    assert isinstance(positions, Rotary | Sinusoidal)  # the caller has seen that it is one of them
    return replace(stack, positions=replace(positions, interleaved=False))


def _order(width: int, turned: int) -> Int[Tensor, " W"]:
    """Where each new coordinate comes from: the even ones of those that are turned, the odd ones, the rest."""
    evens, odds = torch.arange(0, turned, 2), torch.arange(1, turned, 2)
    return torch.cat([evens, odds, torch.arange(turned, width)])


def _heads(stack: Stack, tensors: Tensors) -> Tensors:
    """Queries and keys with the coordinates of each head in the order of halves."""
    assert isinstance(stack.positions, Rotary)
    width = stack.head_dim
    order = _order(width, int(width * stack.positions.fraction))

    def changed(name: str, tensor: Tensor) -> Tensor:
        if name.endswith(("query_norm.weight", "key_norm.weight")):
            return tensor[order]
        if name.rpartition(".")[0].endswith((".query", ".key")):
            return tensor.view(-1, width, *tensor.shape[1:])[:, order].flatten(0, 1)
        return tensor

    return {name: changed(name, tensor) for name, tensor in tensors.items()}


def _residual(model: EncoderDecoder, tensors: Tensors) -> Tensors:
    """Every weight with the coordinates of the residual stream in the order of halves."""
    orders = {True: _order(model.encoder.d_model, model.encoder.d_model)}
    orders[False] = _order(model.decoder.d_model, model.decoder.d_model)

    def changed(name: str, tensor: Tensor) -> Tensor:
        source = name.startswith("encoder.") or name.endswith(
            ("cross_attention.key.weight", "cross_attention.value.weight")
        )
        order = orders[source]
        if name.endswith(("query_norm.weight", "key_norm.weight")):
            return tensor
        if name.endswith(WRITES):
            return tensor[order]
        return tensor[..., order] if name.endswith((*READS, *LIES_IN)) else tensor

    return {name: changed(name, tensor) for name, tensor in tensors.items()}
