"""A name of the Hugging Face hub as a folder of its cache (the ``hub`` extra)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from pellucid.errors import CheckpointError, UserError

NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
CONFIGS: tuple[str, ...] = (
    "config.json",
    "generation_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
CONFIGS += ("preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
HINT = "check the name and the network, or give a folder"
TEXTS = ("tokenizer.json", "vocab.txt", "vocab.json", "target_vocab.json", "merges.txt", "*.model", "*.spm")


def hub_folder(name: str) -> Path:
    """The files of ``owner/name``, or ``owner/name@revision``, from the cache or the network.

    Raises:
        UserError: when the extra is not installed.
        CheckpointError: when files are neither in the cache nor to be had, naming them; for one without safetensors.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        hint = "pip install 'pellucid[hub]', or give a folder"
        raise UserError(name, "is no folder, and names of the hub need the hub extra", hint=hint) from None
    repository, _, revision = name.partition("@")
    fetch = partial(
        snapshot_download, repository, revision=revision or None, allow_patterns=[*CONFIGS, *WEIGHTS, *TEXTS]
    )
    try:
        return _with_weights(name, Path(fetch()))
    except CheckpointError:
        raise
    except Exception as error:  # the library and what it is built on raise many kinds, for what the user can fix
        reason = " ".join(str(error).split()) or type(error).__name__
    try:
        folder = Path(fetch(local_files_only=True))
    except Exception:
        missing = "config.json, model.safetensors and tokenizer.json are not in the cache"
        raise CheckpointError(name, f"{missing} and were not to be had ({reason})", hint=HINT) from None
    if missing_files := [file for file in ("config.json",) if not (folder / file).exists()]:
        raise CheckpointError(name, f"{', '.join(missing_files)} missing from the cache ({reason})", hint=HINT)
    return _with_weights(name, folder)


def _with_weights(name: str, folder: Path) -> Path:
    """The folder, which must hold safetensors: nothing else is fetched."""
    if any(folder.glob("*.safetensors")):
        return folder
    hint = (
        "try a revision that has them, such as owner/name@refs/pr/1; or, where you trust it, convert it once: from "
        "transformers import AutoModel; AutoModel.from_pretrained(NAME).save_pretrained(FOLDER), with the class its "
        "config.json names and its tokenizer"
    )
    raise CheckpointError(name, "has no safetensors", "model.safetensors", hint)
