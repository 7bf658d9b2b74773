"""Leaves a model as it was found, and proves it: parameters, buffers, gradients, modes, hooks and random state.

Nothing is copied but what a forward pass may write to: buffers and tensors that are mere attributes, which are small,
and tables with a ``max_norm``. Parameters are hashed before and after; what the doctor itself changes of them it puts
back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.attributes import attribute_tensors, attributes_kept
from pellucid.errors import PellucidError


class LeftChangedError(PellucidError):
    """A model came out of an examination different from how it went in, and could not be put back."""


@contextmanager
def kept(model: nn.Module | None) -> Iterator[None]:
    """Whatever happens in the block, the model and the random state are afterwards what they were.

    Raises:
        LeftChangedError: when parameters are not what they were, naming them.
    """
    with torch.random.fork_rng(_cuda(), device_type="cuda"), _others():
        if model is None:
            yield
            return
        before = digests(dict(model.named_parameters(remove_duplicate=False)))
        hooks = _hooks(model)
        gradients = {parameter: parameter.grad for parameter in model.parameters()}
        asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
        modes = {module: module.training for module in model.modules()}
        buffers = [(module, name, value) for module in model.modules() for name, value in module._buffers.items()]
        values = [None if value is None or value.is_meta else value.clone() for _, _, value in buffers]
        contents = [(value, value.detach().clone()) for value in (*attribute_tensors(model), *scaled(model).values())]
        try:
            for parameter in gradients:
                parameter.grad = None
            with attributes_kept(model):
                yield
        finally:
            for module, training in modes.items():
                module.training = training
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
                parameter.requires_grad_(asked[parameter])
            for (module, name, buffer), value in zip(buffers, values, strict=True):
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    contents.insert(0, (buffer, value))
            _put_back(contents)
    after = digests(dict(model.named_parameters(remove_duplicate=False)))
    changed = [name for name in before if after.get(name) != before[name]]
    if changed:
        raise LeftChangedError(f"examining the model changed {', '.join(changed[:5])}; load it anew")
    if _hooks(model) != hooks:
        raise LeftChangedError("examining the model left hooks on it; load it anew")


@contextmanager
def _others() -> Iterator[None]:
    """The random states of Python and NumPy, which some models draw from, and BigBird even seeds; and that of MPS.

    The type of number that PyTorch makes as well.
    """
    own, drawn, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(drawn)
        torch.set_default_dtype(dtype)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def scaled(model: nn.Module) -> dict[str, Tensor]:
    """The tables whose rows a pass scales down where they are longer than their ``max_norm``."""
    return {path: part.weight for path, part in _limited(model)}


@torch.no_grad()
def rescaled(model: nn.Module) -> list[str]:
    """Those of which a row is as long as may be, or longer: a pass has scaled it, or will."""
    return [
        path for path, part in _limited(model)
        if float(part.weight.norm(part.norm_type, dim=1).max()) >= (part.max_norm or 0.0) * (1 - tolerances.SCALED)
    ]  # fmt: skip


def _limited(model: nn.Module) -> Iterator[tuple[str, nn.Embedding | nn.EmbeddingBag]]:
    for path, part in model.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None and not part.weight.is_meta:
            yield f"{path}.weight", part


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """A hash of the bytes of each."""
    seen: dict[tuple[int, Any, Any], str] = {}
    found = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.device.type == "meta" or key not in seen:
            seen[key] = _digest(tensor)
        found[name] = seen[key]
    return found


def _digest(tensor: Tensor) -> str:
    if tensor.is_meta:  # nothing of it can change but its shape
        return f"meta {tuple(tensor.shape)} {tensor.dtype}"
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest() + str(tensor.dtype)


@torch.no_grad()
def _put_back(contents: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in contents:
        if not _same(tensor, value):
            tensor.copy_(value)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and bool(torch.equal(a, b))  # NaN differs from itself and is written again: no harm


def _hooks(model: nn.Module) -> list[int]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, name)) for module in model.modules() for name in names]


def _cuda() -> list[int]:
    """All that are in use, by whomever: ``torch.manual_seed`` seeds every one of them."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
