"""A name of the Hugging Face hub as a folder of its cache (the ``hub`` extra)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from pellucid.errors import CheckpointError, UserError

NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
WANTED = ("*.json", "*.safetensors", "*.model", "*.spm", "*.txt", "1_Pooling/*")


def hub_folder(name: str) -> Path:
    """The files of ``owner/name``, or ``owner/name@revision``, from the cache or the network.

    Raises:
        UserError: when the extra is not installed.
        CheckpointError: when files are neither in the cache nor to be had, naming them.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        hint = "pip install 'pellucid[hub]', or give a folder"
        raise UserError(name, "is no folder, and names of the hub need the hub extra", hint=hint) from None
    repository, _, revision = name.partition("@")
    fetch = partial(snapshot_download, repository, revision=revision or None, allow_patterns=list(WANTED))
    try:
        return Path(fetch())
    except (LocalEntryNotFoundError, OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
    try:
        return Path(fetch(local_files_only=True))
    except (LocalEntryNotFoundError, OSError, HFValidationError):
        missing = "config.json, the weights (model.safetensors) and the tokenizer (tokenizer.json)"
        raise CheckpointError(
            name, f"{missing} missing from the cache, and the hub cannot be reached ({reason})", hint="go online once"
        ) from None
