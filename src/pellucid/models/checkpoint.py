"""A run folder: config, weights and tokenizer, written whole or not at all, nothing ever unpickled.

``config.toml`` (everything, defaults included), ``model.safetensors``, ``tokenizer.json``, ``checksums.json``.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pellucid.config.files import load_config, save_config
from pellucid.config.run import Run
from pellucid.config.start import Pretrained
from pellucid.data.images import ImageReader
from pellucid.data.sounds import SoundReader
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import CheckpointError, UserError, nearest
from pellucid.models.adapter import ADAPTER, save_adapter
from pellucid.models.build import Model, build
from pellucid.models.files import checksum, fill, listed, write_tensors, write_whole, writes
from pellucid.nn.lora import merged_weights

WEIGHTS, CONFIG, TOKENIZER, CHECKSUMS = "model.safetensors", "config.toml", "tokenizer.json", "checksums.json"
TARGET_TOKENIZER = "target-tokenizer.json"  # of a published model that writes in another vocabulary than it reads
CHECKPOINTS, SNAPSHOTS = "checkpoints", "snapshots"


class Loaded:
    """A model, ready to use.

    Args:
        model: in evaluation mode.
        tokenizer: ``None`` for a model that reads no text.
        run: how it was trained; ``None`` for a published model, whose folder does not say.
        images: how pictures become what it reads; ``None`` for a model that reads none.
        sounds: how recordings do; ``None`` for a model that reads none.

    Attributes:
        writer: what writes its texts in the model's place, as an engine does; ``None`` for the model itself.
        reader: what reads them in an encoder's place; ``None`` for the model itself.
    """

    writer: Any = None
    reader: Any = None

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        run: Run | None,
        images: ImageReader | None = None,
        sounds: SoundReader | None = None,
    ) -> None:
        self.model, self._tokenizer, self._run, self.images, self.sounds = model, tokenizer, run, images, sounds

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts its texts.

        Raises:
            UserError: for a model that reads none.
        """
        if self._tokenizer is None:
            raise UserError("tokenizer", "this model has none, since it reads no text", "a model that reads text")
        return self._tokenizer

    @property
    def run(self) -> Run:
        """How it was trained.

        Raises:
            UserError: for a published model.
        """
        if self._run is None:
            raise UserError("run", "a published folder says nothing of its training", "a run, or data to be given")
        return self._run

    @property
    def is_published(self) -> bool:
        """Whether it comes from a published folder and not from a run."""
        return self._run is None


def save_run(folder: Path, model: Model, tokenizer: Tokenizer, run: Run) -> None:
    """Writes a run folder.

    Raises:
        CheckpointError: when it cannot be written; files saved earlier stay as they were.
    """
    save_description(folder, tokenizer, run)
    write_tensors(dict(merged_weights(model)), folder / WEIGHTS, getattr(torch, run.training.checkpoints.weights))
    if isinstance(run.start, Pretrained) and run.start.lora is not None:
        save_adapter(folder, model, run.start.lora, run.start.path)
    sums = {name: checksum(folder / name) for name in _files(folder)} if writes() else {}
    write_whole(folder / CHECKSUMS, lambda path: path.write_text(json.dumps(sums, indent=2) + "\n"))


def _files(folder: Path) -> list[str]:
    return [name for name in (CONFIG, WEIGHTS, TOKENIZER, TARGET_TOKENIZER) if (folder / name).exists()]


def save_description(folder: Path, tokenizer: Tokenizer, run: Run) -> None:
    """Writes what a run is, before it has any weights."""
    write_whole(folder / TOKENIZER, tokenizer.save)
    if tokenizer.target is not tokenizer:
        write_whole(folder / TARGET_TOKENIZER, tokenizer.target.save)
    elif writes():
        (folder / TARGET_TOKENIZER).unlink(missing_ok=True)
    write_whole(folder / CONFIG, lambda path: save_config(run, path))


def clear_run(folder: Path) -> None:
    """Removes what an earlier run has learned, so that its weights are never taken for those of the next."""
    for name in (WEIGHTS, CHECKSUMS):
        with suppress(OSError):  # a folder that cannot be written is told by whoever writes to it
            (folder / name).unlink()
    for name in (CHECKPOINTS, SNAPSHOTS, ADAPTER):
        shutil.rmtree(folder / name, ignore_errors=True)


def load_description(folder: Path) -> tuple[Run, Tokenizer]:
    """What a run is; its weights may still be missing."""
    require_run(folder, CONFIG, TOKENIZER)
    run: Run = load_config(folder / CONFIG, Run)
    target = folder / TARGET_TOKENIZER
    written = Tokenizer.load(target, run.conventions) if target.exists() else None
    return run, Tokenizer.load(folder / TOKENIZER, run.conventions, written)


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
    """Raises :class:`CheckpointError` for a file that is not the one that was saved, or of which nothing is known."""
    try:
        sums = {str(name): str(value) for name, value in json.loads((folder / CHECKSUMS).read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(folder / CHECKSUMS, f"cannot be read ({error})", "the checksums of the run") from None
    for name in _files(folder):
        found, expected = checksum(folder / name), sums.get(name)
        if expected is None:
            raise CheckpointError(folder / CHECKSUMS, f"says nothing of {name}", "the checksum of each file")
        if found != expected:
            raise CheckpointError(folder / name, f"sha256 {found[:12]}…", f"{expected[:12]}…", "the file has changed")


def save_weights(model: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Writes every parameter once, under the first of its names; ``dtype`` rounds them."""
    write_tensors({name: p.detach() for name, p in model.named_parameters()}, path, dtype)


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
        raise CheckpointError(path, listed(sorted(complaints)), "the tensors of the model its config describes")
    with torch.no_grad():
        for name, parameter in wanted.items():
            fill(parameter, found[name])
