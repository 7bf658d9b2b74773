"""A model from one format into another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pellucid.config.model import EncoderDecoder, stacks
from pellucid.config.schema import kind_of
from pellucid.data.published import write_tokenizer
from pellucid.errors import UserError
from pellucid.models.checkpoint import Loaded
from pellucid.models.foreign.export import write_published
from pellucid.models.foreign.folder import CONFIG, read_json
from pellucid.models.foreign.weights import INDEX
from pellucid.models.load import find, load

# What a published folder may hold besides config and weights: it goes along as it is.
CARRIED = ("_token_id", "_tokens", "max_position_embeddings")  # settings that say nothing of the mathematics
COMPANIONS = ("*.json", "*.model", "*.spm", "*.txt", "*/config.json")


def convert(source: str | Path, dest: Path, to: str, *, force: bool = False) -> dict[str, Any]:
    """Writes the model of ``source`` as ``hf``, ``pellucid`` or ``onnx``; returns what was written.

    Raises:
        UserError: for a folder that is not empty, or a model that the format cannot hold.
        CheckpointError: when it cannot be read or written.
    """
    if dest.exists() and any(dest.iterdir()) and not force:
        raise UserError(dest, "is not empty", "a new folder", "another name, or --force to replace what it holds")
    loaded = load(source)
    match to:
        case "hf":
            layout = to_published(loaded, find(source), dest)
        case _:
            raise UserError("--to", f'found "{to}"', "hf")
    return {"layout": layout, "parameters": sum(parameter.numel() for parameter in loaded.model.parameters())}


def to_published(loaded: Loaded, source: Path, dest: Path) -> str:
    """Writes a folder for Hugging Face's libraries; returns the name of its layout."""
    described = loaded.model.config
    dest.mkdir(parents=True, exist_ok=True)
    if loaded.is_published:
        told = read_json(source / CONFIG)
        ids = {name: value for name, value in told.items() if name.endswith(CARRIED)}
        for path in (path for pattern in COMPANIONS for path in source.glob(pattern)):
            (dest / path.relative_to(source)).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, dest / path.relative_to(source))
        (dest / INDEX).unlink(missing_ok=True)
    else:
        longest = stacks(described)[0 if isinstance(described, EncoderDecoder) else -1].max_length
        ids = write_tokenizer(dest, loaded.tokenizer, kind_of(type(described)), longest)
    return write_published(dest, loaded.model, ids)
