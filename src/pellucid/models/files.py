"""Files and tensors written whole or not at all, by one process of however many there are; nothing ever pickled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from pellucid.errors import CheckpointError


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a safetensors file, whole or not at all; ``dtype`` rounds its tensors. See :func:`write_whole`."""
    plain = {name: whole(tensor).cpu().to(dtype or tensor.dtype).contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda part: save_file(plain, part, {"format": "pellucid 1", **metadata}))


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, gathered where it is split among processes: all of them must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Copies a whole value into a tensor that may be split among processes."""
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


def writes() -> bool:
    """Whether this process writes files: of several that train together, the first does."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets ``write`` fill a temporary file, syncs it and moves it into place: readers see the old or the new, whole.

    Raises:
        CheckpointError: when the disk is full or the folder cannot be written; the old file is untouched.
    """
    if not writes():
        return
    part = path.with_name(f".part-{path.name}")  # the same suffix, since some writers choose the form by it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode & 0o777  # as the system gives it: safetensors lets nobody else read what it writes
        write(part)
        part.chmod(mode)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        hint = "make room or choose another folder; what was saved before is untouched"
        raise CheckpointError(path, f"cannot be written ({error})", hint=hint) from None


def listed(complaints: Sequence[str], shown: int = 8) -> str:
    """The first few of what may be many."""
    more = len(complaints) - shown
    return ", ".join(complaints[:shown]) + (f" and {more} more" if more > 0 else "")
