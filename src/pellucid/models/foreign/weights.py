"""The weight files of a published folder: mapped into memory, never unpickled, single or in shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pellucid.config.files import read_plain
from pellucid.errors import CheckpointError
from pellucid.models.files import listed
from pellucid.models.foreign.table import Place, Row, Shape

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OTHERS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index")


class Weights:
    """The tensors of a folder by name, read when asked for.

    Args:
        folder: with ``model.safetensors``, or with shards and their index.
        renamed: pieces of names to be read as others.

    Raises:
        CheckpointError: when there is no such file, or only one that would have to be unpickled.
    """

    def __init__(self, folder: Path, renamed: Iterable[tuple[str, str]] = ()) -> None:
        self.folder = folder
        self.places: dict[str, tuple[Any, str]] = {}  # by our name: the open file and the name in it
        for path in _files(folder):
            try:
                file: Any = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(path, f"torn or not a safetensors file ({error})", hint="copy it again") from None
            for stored in file.keys():  # noqa: SIM118
                self.places[read_as(stored, renamed)] = (file, stored)

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self.places)

    def shape(self, name: str) -> Shape:
        """Of a tensor, without reading it."""
        file, stored = self.places[name]
        return tuple(file.get_slice(stored).get_shape())

    def tensor(self, name: str) -> Tensor:
        """A tensor, mapped from its file."""
        file, stored = self.places[name]
        found: Tensor = file.get_tensor(stored)
        return found


def read_as(stored: str, renamed: Iterable[tuple[str, str]]) -> str:
    """The name that a stored tensor goes by here."""
    for old, new in renamed:
        stored = stored.removesuffix(old) + new if stored.endswith(old) else stored
    return stored


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        return _shards(folder)
    if pickles := sorted(path.name for path in folder.glob("*.bin")):
        raise CheckpointError(
            folder,
            f"holds {pickles[0]}, a pickle, which runs what code it likes when read",
            SINGLE,
            "where you trust it, convert it: from transformers import AutoModel; "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER), with the class its config.json names",
        )
    other = [name for name in OTHERS if (folder / name).exists()]
    raise CheckpointError(folder, f"holds {other[0]}" if other else "holds no weights", f"{SINGLE}, or {INDEX}")


def is_beside(name: str) -> bool:
    """Whether a name stands for a file or folder in the same folder, and for nothing outside it."""
    return name not in ("", ".", "..") and Path(name).name == name


def _shards(folder: Path) -> list[Path]:
    named = read_plain(folder / INDEX).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(folder / INDEX, "no weight_map of names", "the file of each tensor", "copy it again")
    names = sorted(set(named.values()))
    if outside := [name for name in names if not is_beside(name)]:
        raise CheckpointError(folder / INDEX, f"names {outside[0]!r}", "files of its own folder")
    if missing := [name for name in names if not (folder / name).exists()]:
        raise CheckpointError(folder, f"{listed(missing)} missing", f"the {len(names)} files that {INDEX} names")
    return [folder / name for name in names]


def assign(
    model: nn.Module, places: list[Place], weights: Weights, unread: frozenset[str], dtype: torch.dtype | None
) -> None:
    """Makes the tensors of a folder the parameters of a model built on the meta device.

    Args:
        places: where each parameter is found.
        unread: names of tensors to be left alone.
        dtype: to convert to; ``None`` leaves each as it is stored, a view of its file.

    Raises:
        CheckpointError: lists every tensor that is missing, unknown, of another shape, or tied but not the same.
    """
    present = [[row for row in place.rows if row.theirs in weights.places] for place in places]
    known = {row.theirs for place in places for row in place.rows}
    complaints = [
        *(f"{place.rows[0].theirs} missing" for place, rows in zip(places, present, strict=True) if not rows),
        *(f"{name} unknown" for name in weights.names - known - unread),
    ]
    for place, rows in zip(places, present, strict=True):
        complaints += _misfits(place, rows, weights)
    if complaints:
        raise CheckpointError(weights.folder, listed(sorted(complaints)), "the tensors its config.json describes")
    owners = _owners(model)
    for place, rows in zip(places, present, strict=True):
        views = rows[0].read(weights.tensor(rows[0].theirs), place.shapes)
        for parameter, view in zip(place.parameters, views, strict=True):
            new = nn.Parameter(view if dtype is None else view.to(dtype))
            for owner, name in owners[id(parameter)]:
                setattr(owner, name, new)


def _misfits(place: Place, rows: list[Row], weights: Weights) -> list[str]:
    wrong = [
        f"{row.theirs} is {list(found)}, not {list(wanted)}"
        for row in rows
        if (found := weights.shape(row.theirs)) != (wanted := row.stored(place.shapes))
    ]
    if wrong or len(rows) < 2:
        return wrong
    first, *others = [(row.theirs, weights.tensor(row.theirs)) for row in rows]
    return [
        f"{name} differs from {first[0]}, to which it is tied"
        for name, tensor in others
        if tensor.dtype != first[1].dtype or not torch.equal(tensor, first[1])
    ]


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every module and attribute that holds each parameter."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, name))
    return owners
