"""Opening a model, wherever it comes from: a run folder, a published folder, a name of the hub."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import torch

from pellucid.config import model as config
from pellucid.config.model import sound_frames
from pellucid.config.run import Objective
from pellucid.data.images import ImageReader
from pellucid.data.published import published_tokenizer
from pellucid.data.sounds import SoundReader
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import CheckpointError, UserError
from pellucid.models.checkpoint import Loaded, load_description, load_run, require_run
from pellucid.models.foreign.folder import is_published, load_published, read_published
from pellucid.models.foreign.hub import NAME, hub_folder


def load(
    target: str | Path, *, verify: bool = False, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Loaded:
    """Reads a run folder, a folder that Hugging Face's libraries wrote, or a name of their hub.

    Args:
        verify: also compare the checksums of a run.
        dtype: of the weights; float32 when left out.

    Raises:
        CheckpointError: for a folder that is missing, incomplete, torn or foreign.
        ConfigError: for an architecture or a setting that is not supported.
    """
    folder = find(target)
    if verify and is_published(folder):
        raise UserError("--verify", f"{folder} is no run, so nothing says its checksums", "a run")
    if not is_published(folder):
        loaded = load_run(folder, verify=verify, device=device)
        loaded.model.to(dtype=dtype or torch.float32)
        return loaded
    model = load_published(folder, dtype or torch.float32).to(device).eval()
    described = model.config
    if isinstance(described, config.Encoder) and isinstance(described.front, config.Patches):
        return Loaded(model, None, None, ImageReader.of(folder, described.front.image_size, described.front.channels))
    sounds = None
    if isinstance(described, config.EncoderDecoder) and isinstance(described.source, config.Audio):
        sounds = SoundReader.of(folder, described.source.mels, sound_frames(described.encoder))
    return Loaded(model, published_tokenizer(folder), None, sounds=sounds)


def find(target: str | Path) -> Path:
    """The folder that a path or a name of the hub stands for.

    Raises:
        CheckpointError: when there is none, with the nearest.
    """
    folder = Path(target)
    name = folder.as_posix()  # a name that was read as a path may have another slash
    if not folder.exists() and folder.name == name and "." not in folder.name:
        around = [path.name for path in Path().iterdir() if path.is_dir()]
        if not get_close_matches(folder.name, around, n=1, cutoff=0.5):
            hint = "names of the hub begin with their owner, as in openai-community/gpt2"
            raise CheckpointError(folder, "no such folder", "a run or a published model", hint)
    if folder.parent.is_dir() or not NAME.fullmatch(name):
        require_run(folder)
        return folder
    return hub_folder(name)


def describe(target: str | Path) -> tuple[config.Model, Objective | None, Tokenizer]:
    """What training goes on from, without the weights: the model, what a run was trained by, the tokenizer.

    Raises:
        CheckpointError: for a folder that is missing, incomplete or foreign.
    """
    folder = find(target)
    if is_published(folder):
        return read_published(folder), None, published_tokenizer(folder)
    run, tokenizer = load_description(folder)
    return run.model, run.objective, tokenizer
