"""The tokenizer of a published folder: its vocabulary, and what stood around the texts the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from pellucid.config.run import Conventions
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import DataError

TOKENIZER = "tokenizer.json"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
DECODING = ("generation_config.json", "config.json")


def published_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, from its ``tokenizer.json`` or its sentencepiece files.

    Raises:
        DataError: when there is none, or none that can be read.
    """
    named, told = _special_tokens(folder), _merged(folder, DECODING)
    if (folder / TOKENIZER).exists():
        raw = Tokenizer.load(folder / TOKENIZER).raw
        frame = template(raw)
        return Tokenizer(raw, conventions(raw, frame, named, told))
    from pellucid.data.sentencepiece import sentencepiece_tokenizer

    return sentencepiece_tokenizer(folder, named, told)


def conventions(
    raw: tokenizers.Tokenizer,
    frame: tuple[tuple[int, ...], tuple[int, ...]],
    named: Mapping[str, str],
    told: Mapping[str, Any],
) -> Conventions:
    """What a folder says of its special tokens.

    Args:
        raw: the tokenizer, which knows the ids of names.
        frame: the tokens before and after a text that is read.
        named: the names by role, such as ``pad_token``.
        told: the settings for writing, such as ``decoder_start_token_id``.
    """

    def by_role(role: str) -> int | None:
        own = told.get(f"{role}_token_id")
        if isinstance(own, int):
            return own
        name = named.get(f"{role}_token")
        return None if name is None else raw.token_to_id(name)

    before, after = frame
    ends = _several(told.get("eos_token_id"))
    ends = ends or tuple(i for i in [by_role("eos")] if i is not None)
    pad = by_role("pad")
    begins = told.get("decoder_start_token_id")
    bos = by_role("bos")
    start = begins if begins is not None else bos if bos is not None else next(iter(ends), None)
    barred = [ids[0] for ids in told.get("bad_words_ids") or [] if len(ids) == 1]
    mask = named.get("mask_token")
    return Conventions(
        pad=pad if pad is not None else next(iter(ends), 0),
        mask=None if mask is None else raw.token_to_id(mask),
        before=before,
        after=after,
        start=() if start is None else (int(start),),
        forced=_several(told.get("forced_bos_token_id")),
        ends=ends,
        never=tuple(sorted({*barred, *_several(told.get("suppress_tokens"))})),
        never_first=_several(told.get("begin_suppress_tokens")),
        one_language=told.get("is_multilingual") is False,
    )


def template(raw: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a tokenizer puts before and after a text."""
    for text in ("a", "0", "the"):
        bare, framed = (raw.encode(text, add_special_tokens=special).ids for special in (False, True))
        for start in range(len(framed) - len(bare) + 1):
            if bare and framed[start : start + len(bare)] == bare:
                return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    return (), ()


def _several(given: object) -> tuple[int, ...]:
    """One id or a list of them; negative ones stand for something else."""
    ids = given if isinstance(given, list) else [given]
    return tuple(i for i in ids if isinstance(i, int) and i >= 0)


def _special_tokens(folder: Path) -> dict[str, str]:
    """The names of special tokens by role, whether written plainly or with their properties."""
    found = _merged(folder, SETTINGS)
    plain = {role: name.get("content") if isinstance(name, dict) else name for role, name in found.items()}
    return {role: name for role, name in plain.items() if role.endswith("_token") and isinstance(name, str)}


def _merged(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    """The settings of several files, of which the first that says something counts."""
    merged: dict[str, Any] = {}
    for name in reversed(files):
        if not (folder / name).exists():
            continue
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(folder / name, f"cannot be read ({error})", "a JSON object", "copy it again") from None
        merged |= {key: value for key, value in found.items() if value is not None}
    return merged


# ---- out ---------------------------------------------------------------------------------------


def write_tokenizer(folder: Path, tokenizer: Tokenizer, family: str, longest: int | None) -> dict[str, Any]:
    """Writes the files by which Hugging Face's libraries cut texts as we do; returns the special tokens by their ids.

    Args:
        family: ``encoder``, ``decoder`` or ``encoder_decoder``, which decides what stands around a text.
        longest: the positions of the model, where they are limited.
    """
    raw = tokenizers.Tokenizer.from_str(tokenizer.raw.to_str())
    if tokenizer.conventions is None and family != "decoder":
        frame = tokenizer.text([]) if family == "encoder" else tokenizer.source([])
        names = [raw.id_to_token(i) for i in frame]
        parts = [names[0], "$A", *names[1:]] if family == "encoder" else ["$A", *names]
        raw.post_processor = processors.TemplateProcessing(
            single=" ".join(parts), special_tokens=list(zip(names, frame, strict=True))
        )
    ids = _ids(tokenizer, family)
    roles = {"pad": tokenizer.pad, "unk": tokenizer.unk, "bos": tokenizer.bos, "eos": tokenizer.eos}
    named = {
        f"{role}_token": raw.id_to_token(i) for role, i in (roles | {"mask": tokenizer.mask}).items() if i is not None
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **({"model_max_length": longest} if longest else {}),
        **named,
    }
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / TOKENIZER))
    (folder / SETTINGS[0]).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if family != "encoder":
        (folder / DECODING[0]).write_text(json.dumps(ids, indent=2) + "\n")
    return ids


def _ids(tokenizer: Tokenizer, family: str) -> dict[str, Any]:
    ends = list(tokenizer.ends)
    ids: dict[str, Any] = {"pad_token_id": tokenizer.pad, "bos_token_id": tokenizer.bos}
    ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    if family == "encoder_decoder":
        forced = list(tokenizer.forced)
        ids["decoder_start_token_id"] = tokenizer.start[0] if tokenizer.start else None
        ids["forced_bos_token_id"] = forced[0] if forced else None
        ids["forced_eos_token_id"] = None  # some layouts force an id of their own where nothing is said
    return ids
