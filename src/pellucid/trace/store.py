"""A tape on disk: the tensors as safetensors, what they are as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pellucid.errors import CheckpointError
from pellucid.trace.operations import Recorded
from pellucid.trace.tape import Entry, Tape

TENSORS, ENTRIES = "tensors.safetensors", "tape.json"
FORMAT = 1


def save(tape: Tape, folder: Path) -> None:
    """Writes a folder with the recorded tensors and their gradients, and what each was computed from.

    Raises:
        CheckpointError: when it cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tape.tensors.items()}
    gradients = {f"gradient of {name}": tensor.cpu().contiguous() for name, tensor in tape.gradients.items()}
    told = {
        "format": FORMAT,
        "watch": list(tape.watch),
        "entries": [_described(entry) for entry in tape.entries.values()],
    }
    part = folder.with_name(f".part-{folder.name}")
    try:
        part.mkdir(parents=True, exist_ok=True)
        save_file(_apart(tensors | gradients), part / TENSORS)
        (part / ENTRIES).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for name in (TENSORS, ENTRIES):
            (part / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            folder, f"cannot be written ({error})", hint="make room, or choose another place"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load(folder: Path) -> Tape:
    """Reads what :func:`save` wrote. Nothing in it can be computed again: the model is not there.

    Raises:
        CheckpointError: for a folder that is missing, torn or something else.
    """
    try:
        told = json.loads((folder / ENTRIES).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        tape = Tape(tuple(told["watch"]))
        tape.entries = {described["name"]: _entry(described) for described in told["entries"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(folder, f"no tape that can be read ({error})", f"{TENSORS} and {ENTRIES}") from None
    gradient = "gradient of "
    tape.tensors = {name: tensors[name] for name in tape.entries if name in tensors}
    tape.gradients = {
        name.removeprefix(gradient): tensor for name, tensor in tensors.items() if name.startswith(gradient)
    }
    return tape


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory, with another of their name or part, in memory of their own: the format asks for it."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "module": entry.module,
        "shape": list(entry.shape),
        "dtype": str(entry.dtype).removeprefix("torch."),
        "operation": {"name": type(entry.operation).__name__, "formula": entry.operation.formula},
        "inputs": list(entry.input_names),
        "line": list(entry.line),
        "edited": list(entry.edited),
        "random": entry.random,
    }


def _entry(told: dict[str, Any]) -> Entry:
    dtype = getattr(torch, told["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{told['dtype']} is no dtype")
    return Entry(
        str(told["name"]),
        str(told["module"]),
        tuple(told["shape"]),
        dtype,
        Recorded(str(told["operation"]["name"]), str(told["operation"]["formula"])),
        tuple(told["inputs"]),
        (str(told["line"][0]), int(told["line"][1])),
        tuple(told["edited"]),
        bool(told["random"]),
    )
