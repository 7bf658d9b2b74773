"""The tokenizer of a published folder: its vocabulary, and what stood around the texts the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

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
