"""A run folder: config, weights and tokenizer, written whole or not at all, nothing ever unpickled.

``config.toml`` (everything, defaults included), ``model.safetensors``, ``tokenizer.json``, ``checksums.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from pellucid.config.files import load_config, save_config
from pellucid.config.run import Run
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import CheckpointError, nearest
from pellucid.models.build import Model, build
from pellucid.nn.lora import merged_weights

WEIGHTS, CONFIG, TOKENIZER, CHECKSUMS = "model.safetensors", "config.toml", "tokenizer.json", "checksums.json"


@dataclass(frozen=True)
class Loaded:
    """A run, ready to use."""

    model: Model
    tokenizer: Tokenizer
    run: Run


def save_run(folder: Path, model: Model, tokenizer: Tokenizer, run: Run) -> None:
    """Writes a run folder.

    Raises:
        CheckpointError: when it cannot be written; files saved earlier stay as they were.
    """
    save_description(folder, tokenizer, run)
    _write_weights(dict(merged_weights(model)), folder / WEIGHTS, getattr(torch, run.training.checkpoints.weights))
    sums = {name: checksum(folder / name) for name in (CONFIG, WEIGHTS, TOKENIZER)} if writes() else {}
    write_whole(folder / CHECKSUMS, lambda path: path.write_text(json.dumps(sums, indent=2) + "\n"))


def save_description(folder: Path, tokenizer: Tokenizer, run: Run) -> None:
    """Writes what a run is, before it has any weights."""
    write_whole(folder / TOKENIZER, tokenizer.save)
    write_whole(folder / CONFIG, lambda path: save_config(run, path))


def load_description(folder: Path) -> tuple[Run, Tokenizer]:
    """What a run is; its weights may still be missing."""
    require_run(folder, CONFIG, TOKENIZER)
    return load_config(folder / CONFIG, Run), Tokenizer.load(folder / TOKENIZER)


def load_run(folder: str | Path, *, verify: bool = False, device: str | torch.device = "cpu") -> Loaded:
    """Reads a run folder; ``verify`` also compares the checksums.

    Raises:
        CheckpointError: for a folder that is missing, incomplete, torn or not one of ours.
        ConfigError: for a config that cannot work.
    """
    folder = Path(folder)
    require_run(folder, CONFIG, WEIGHTS, TOKENIZER)
    if verify:
        verify_run(folder)
    run, tokenizer = load_description(folder)
    model = build(run.model)
    load_weights(model, folder / WEIGHTS)
    return Loaded(model.to(device).eval(), tokenizer, run)


def require_run(folder: Path, *files: str) -> None:
    """Raises :class:`CheckpointError` unless the folder holds these files of a run."""
    if not folder.is_dir():
        around = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise CheckpointError(folder, "no such folder", "a run", nearest(folder.name, around) if around else "")
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        raise CheckpointError(folder, f"{', '.join(missing)} missing", "the folder of a run that has been saved")


def verify_run(folder: Path) -> None:
    """Raises :class:`CheckpointError` for a file that is not the one that was saved."""
    sums = json.loads((folder / CHECKSUMS).read_text())
    for name, expected in sums.items():
        if (found := checksum(folder / name)) != expected:
            raise CheckpointError(folder / name, f"sha256 {found[:12]}…", f"{expected[:12]}…", "the file has changed")


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(model: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Writes every parameter once, under the first of its names; ``dtype`` rounds them."""
    _write_weights({name: p.detach() for name, p in model.named_parameters()}, path, dtype)


def _write_weights(weights: dict[str, Tensor], path: Path, dtype: torch.dtype | None) -> None:
    plain = {name: whole(p).cpu().to(dtype or p.dtype).contiguous() for name, p in weights.items()}
    write_whole(path, lambda part: save_file(plain, part, {"format": "pellucid 1"}))


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills a model from a file whose names and shapes must be exactly the model's.

    Raises:
        CheckpointError: lists every tensor that is missing, unknown or of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(path, "no such file") from None
    except (SafetensorError, OSError) as error:
        hint = "copy it again, or take an earlier checkpoint of the run"
        raise CheckpointError(path, f"torn or not a safetensors file ({error})", "a whole one", hint) from None
    wanted = dict(model.named_parameters())
    complaints = [
        *(f"{name} missing" for name in wanted.keys() - found.keys()),
        *(f"{name} unknown" for name in found.keys() - wanted.keys()),
        *(
            f"{name} is {list(found[name].shape)}, not {list(wanted[name].shape)}"
            for name in wanted.keys() & found.keys()
            if found[name].shape != wanted[name].shape
        ),
    ]
    if complaints:
        raise CheckpointError(path, _some(sorted(complaints)), "the tensors of the model its config describes")
    with torch.no_grad():
        for name, parameter in wanted.items():
            fill(parameter, found[name])


def _some(complaints: Iterable[str], shown: int = 8) -> str:
    complaints = list(complaints)
    more = len(complaints) - shown
    return ", ".join(complaints[:shown]) + (f" and {more} more" if more > 0 else "")


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
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        hint = "make room or choose another folder; what was saved before is untouched"
        raise CheckpointError(path, f"cannot be written ({error})", hint=hint) from None
