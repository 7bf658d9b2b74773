"""A name of the Hugging Face hub as a folder of its cache (the ``hub`` extra)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pellucid.errors import CheckpointError, UserError

NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
CONFIGS = (
    "config.json",
    "generation_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
HINT = "check the name and the network, or give a folder"
TEXTS = ("tokenizer.json", "vocab.txt", "vocab.json", "target_vocab.json", "merges.txt", "*.model", "*.spm")


def hub_folder(name: str) -> Path:
    """The files of ``owner/name``, or ``owner/name@revision``, from the cache or the network.

    Raises:
        UserError: when the extra is not installed.
        CheckpointError: when files are neither in the cache nor to be had, naming them; for one without safetensors.
    """
    fetch = _fetching(name, (*CONFIGS, *WEIGHTS, *TEXTS))
    try:
        folder = Path(fetch())
    except Exception as error:  # the library and what it is built on raise many kinds, for what the user can fix
        return _cached(name, error)
    return _with_weights(name, folder)


def hub_outline(name: str) -> tuple[Path, frozenset[str]]:
    """The settings of ``owner/name``, in a folder, and what its tensors are called.

    The weights stay where they are: of their files only the beginnings are read, which takes kilobytes of any model.

    Raises:
        UserError, CheckpointError: as :func:`hub_folder`.
    """
    fetch = _fetching(name, CONFIGS)
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    repository, _, revision = name.partition("@")
    try:
        folder = Path(fetch())
        return folder, frozenset(get_safetensors_metadata(repository, revision=revision or None).weight_map)
    except NotASafetensorsRepoError:
        raise _no_safetensors(name) from None
    except Exception as error:  # as above
        from pellucid.models.foreign.weights import Weights  # here alone: sizes are told without torch

        folder = _cached(name, error)
        return folder, frozenset(Weights(folder).names)


def _fetching(name: str, patterns: Sequence[str]) -> Callable[..., str]:
    """A function that fetches the files of a name which fit a pattern, or finds them in the cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        hint = "pip install 'pellucid[hub]', or give a folder"
        raise UserError(name, "is no folder, and names of the hub need the hub extra", hint=hint) from None
    repository, _, revision = name.partition("@")
    return partial(snapshot_download, repository, revision=revision or None, allow_patterns=list(patterns))


def _cached(name: str, error: Exception) -> Path:
    """A name's files as they once were fetched, since they are not to be had now."""
    reason = " ".join(str(error).split()) or type(error).__name__
    try:
        folder = Path(_fetching(name, (*CONFIGS, *WEIGHTS, *TEXTS))(local_files_only=True))
    except Exception:
        missing = "config.json, model.safetensors and tokenizer.json are not all in the cache"
        raise CheckpointError(name, f"{missing} and were not to be had ({reason})", hint=HINT) from None
    missing_files = [pattern for pattern in ("config.json", "*.safetensors") if not any(folder.glob(pattern))]
    if missing_files:
        raise CheckpointError(name, f"{', '.join(missing_files)} missing from the cache ({reason})", hint=HINT)
    return folder


def _with_weights(name: str, folder: Path) -> Path:
    """The folder, which must hold safetensors: nothing else is fetched."""
    if any(folder.glob("*.safetensors")):
        return folder
    raise _no_safetensors(name)


def _no_safetensors(name: str) -> CheckpointError:
    hint = (
        "try a revision that has them, such as owner/name@refs/pr/1; or, where you trust it, convert it once: from "
        "transformers import AutoModel; AutoModel.from_pretrained(NAME).save_pretrained(FOLDER), with the class its "
        "config.json names and its tokenizer"
    )
    return CheckpointError(name, "has no safetensors", "model.safetensors", hint)
