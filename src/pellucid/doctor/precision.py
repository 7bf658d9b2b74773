"""Another precision for a while: parameters and buffers are cast, and afterwards lie where they lay, bit for bit.

Tensors that share memory share it within as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pellucid.doctor.attributes import attributes_kept

NARROW = (torch.float32, torch.float16, torch.bfloat16)


@contextmanager
def doubled(model: nn.Module | None) -> Iterator[None]:
    """The floating tensors of the model in float64 within the block."""
    yield from _cast(model, NARROW, torch.float64)


@contextmanager
def widened(model: nn.Module | None) -> Iterator[None]:
    """Those in half precision in float32 within the block: no verdict is given on what half precision rounds."""
    yield from _cast(model, NARROW[1:], torch.float32)


def _cast(model: nn.Module | None, narrow: tuple[torch.dtype, ...], wide: torch.dtype) -> Iterator[None]:
    tensors = [] if model is None else [tensor for tensor in _tensors(model) if tensor.dtype in narrow]
    own = [tensor.data for tensor in tensors]  # others may see the same memory: processes, or a buffer of all of them
    with attributes_kept(model, lambda x: x.to(wide) if x.dtype in narrow else x):
        _widen(tensors, wide)
        try:
            yield
        finally:
            for tensor, data in zip(tensors, own, strict=True):
                tensor.data = data


def _tensors(model: nn.Module) -> list[Tensor]:
    seen: dict[int, Tensor] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        seen.setdefault(id(tensor), tensor)
    return list(seen.values())


def _widen(tensors: list[Tensor], dtype: torch.dtype) -> None:
    """Gives each tensor a dtype; what lay in one storage lies in one again, cast once."""
    storages: dict[tuple[int, torch.dtype], Tensor] = {}
    for tensor in tensors:
        if tensor.device.type == "meta" or tensor.layout != torch.strided:
            tensor.data = tensor.data.to(dtype)
            continue
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), tensor.dtype)
        if key not in storages:
            length = storage.nbytes() // tensor.element_size()
            storages[key] = tensor.data.as_strided((length,), (1,), 0).to(dtype)
        shape, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
        tensor.data = storages[key].as_strided(shape, stride, offset)
