"""A model from one format into another."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from pellucid.config.defaults import default_run, family_of, fitted
from pellucid.config.files import read_plain
from pellucid.config.model import Classification, Encoder, EncoderDecoder, Model, Tokens, stacks
from pellucid.config.run import Causal, NoData, TokenizerFile
from pellucid.config.schema import kind_of
from pellucid.data.published import write_tokenizer
from pellucid.errors import UserError
from pellucid.models.checkpoint import CHECKSUMS, TARGET_TOKENIZER, Loaded, save_run
from pellucid.models.checkpoint import CONFIG as RUN_CONFIG
from pellucid.models.foreign.export import pools, write_pooling, write_published
from pellucid.models.foreign.folder import CONFIG
from pellucid.models.foreign.weights import INDEX
from pellucid.models.load import find, load
from pellucid.models.onnx import write_onnx

# What a published folder may hold besides config and weights: it goes along as it is.
COMPANIONS = ("*.json", "*.model", "*.spm", "*.txt", "chat_template.jinja", "1_Pooling/config.json")
# What says of a folder which model it holds, in either format.
DESCRIBING = (RUN_CONFIG, CHECKSUMS, TARGET_TOKENIZER, CONFIG, "*.safetensors", "*.safetensors.index.json", "*.onnx*")
# What says how its inputs are cut and read, and what is done with its answers: an old file would win over a new one.
READING = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.model", "*.spm"),
    *("vocab.txt", "vocab.json", "target_vocab.json", "merges.txt", "chat_template.jinja", "preprocessor_config.json"),
    *("generation_config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    "1_Pooling/config.json",
)
# Settings that say nothing of the mathematics, and what sentence-transformers do with the scores.
CARRIED = (
    *("_token_id", "_tokens", "bad_words_ids", "is_multilingual", "max_position_embeddings"),
    *("sentence_transformers", "sbert_ce_default_activation_function"),
)
RAW = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}


def convert(source: str | Path, dest: Path, to: str, *, force: bool = False) -> dict[str, Any]:
    """Writes the model of ``source`` as ``hf``, ``pellucid`` or ``onnx``; returns what was written.

    Raises:
        UserError: for a folder that is not empty, or a model that the format cannot hold; nothing is written then.
        CheckpointError: when it cannot be read or written.
    """
    if dest.is_file() or (dest.exists() and any(dest.iterdir()) and not force):
        what = "is a file" if dest.is_file() else "is not empty"
        raise UserError(dest, what, "a new folder", "another name, or --force to replace what it holds")
    place = find(source)
    if dest.exists() and dest.resolve() == place.resolve():
        raise UserError(dest, "is the folder that is read", "another one")
    loaded = load(source)
    whole = dest.resolve()  # "." has no name
    part = whole.with_name(f".part-{whole.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        written = _write(loaded, place, part, to)
        _move(part, dest)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {**written, "parameters": sum(parameter.numel() for parameter in loaded.model.parameters())}


def _write(loaded: Loaded, source: Path, dest: Path, to: str) -> dict[str, Any]:
    match to:
        case "hf":
            return {"layout": to_published(loaded, source, dest)}
        case "onnx":
            _write_texts(loaded, source, dest)
            return {"layout": "onnx", "error": write_onnx(dest, loaded.model)}
        case "pellucid":
            _write_run(loaded, dest)
            return {"layout": "pellucid"}
        case _:
            raise UserError("--to", f'found "{to}"', "hf, pellucid or onnx")


def _move(part: Path, dest: Path) -> None:
    """Puts what was written in its place; of what was there, what says which model it is goes, whatever the format."""
    dest.mkdir(parents=True, exist_ok=True)
    for pattern in (*DESCRIBING, *READING):
        for old in dest.glob(pattern):
            old.unlink()
    for path in sorted(part.rglob("*")):
        if path.is_file():
            (dest / path.relative_to(part)).parent.mkdir(parents=True, exist_ok=True)
            path.replace(dest / path.relative_to(part))


def to_published(loaded: Loaded, source: Path, dest: Path) -> str:
    """Writes a folder for Hugging Face's libraries; returns the name of its layout."""
    return write_published(dest, loaded.model, _write_texts(loaded, source, dest))


def _write_texts(loaded: Loaded, source: Path, dest: Path) -> dict[str, Any]:
    """Writes what the texts of a model are cut by; returns the settings that say its special tokens."""
    described = loaded.model.config
    if loaded.is_published:
        told = read_plain(source / CONFIG)
        ids = {name: value for name, value in told.items() if name.endswith(CARRIED)}
        for path in (path for pattern in COMPANIONS for path in source.glob(pattern)):
            (dest / path.relative_to(source)).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, dest / path.relative_to(source))
        (dest / INDEX).unlink(missing_ok=True)
        return ids
    longest = stacks(described)[0 if isinstance(described, EncoderDecoder) else -1].max_length
    typed = isinstance(described, Encoder) and isinstance(described.front, Tokens) and described.front.token_types > 1
    ids = write_tokenizer(dest, loaded.tokenizer, kind_of(type(described)), longest, typed=typed)
    if isinstance(described, Encoder) and pools(described.head):
        conventions = loaded.tokenizer.conventions
        most = conventions.longest if conventions is not None else None
        write_pooling(dest, described.head, described.stack.d_model, most)
    if _scores_pairs(described):
        ids |= RAW
    if longest is None and isinstance(loaded.run.objective, Causal):  # the length it has seen
        ids["max_position_embeddings"] = loaded.run.objective.length
    return ids


def _scores_pairs(described: Model) -> bool:
    """Whether sentence-transformers would squeeze its one score between 0 and 1 unless told not to."""
    if not isinstance(described, Encoder) or not isinstance(described.front, Tokens):
        return False
    return isinstance(described.head, Classification) and len(described.head.labels) == 1


def _write_run(loaded: Loaded, dest: Path) -> None:
    """Writes a run folder: of a published model one that was trained on nothing here."""
    if not loaded.is_published:
        save_run(dest, loaded.model, loaded.tokenizer, loaded.run)
        return
    described = loaded.model.config
    usual = default_run(family_of(described), NoData())
    run = replace(
        usual,
        model=described,
        objective=fitted(usual.objective, described),
        tokenizer=TokenizerFile(path="tokenizer.json"),
        conventions=loaded.tokenizer.conventions,
    )
    save_run(dest, loaded.model, loaded.tokenizer, run)
