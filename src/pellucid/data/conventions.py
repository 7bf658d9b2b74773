"""What a published folder says of its special tokens: by their ids, by their names, or by how its tokenizer frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

from pellucid.config.run import Conventions
from pellucid.data.tokenizers import KNOWN_AS
from pellucid.errors import ConfigError

Frame = tuple[tuple[int, ...], tuple[int, ...]]  # the tokens before and after a text that is read


def conventions(
    raw: tokenizers.Tokenizer, frame: Frame, named: Mapping[str, str], told: Mapping[str, Any]
) -> Conventions:
    """The special tokens of a published model.

    Args:
        raw: the tokenizer, which knows the ids of names.
        frame: what it puts around a text.
        named: the names by role, such as ``pad_token``; where one is missing, the usual ones are looked for.
        told: the settings for writing, such as ``decoder_start_token_id``.

    Raises:
        ConfigError: for a word of several tokens that may not be written, or a longest text that is no number.
    """

    def by_role(role: str) -> int | None:
        own = ids_in(told.get(f"{role}_token_id"))
        names = [name for name in (named.get(f"{role}_token"), *KNOWN_AS[role]) if name is not None]
        found = (*own, *(raw.token_to_id(name) for name in names))
        return next((i for i in found if i is not None), None)

    eos = by_role("eos")
    ends = ids_in(told.get("eos_token_id")) or (() if eos is None else (eos,))
    pad, bos = by_role("pad"), by_role("bos")
    start = ids_in(told.get("decoder_start_token_id")) or (() if bos is None else (bos,)) or ends
    forced = ids_in(told.get("forced_bos_token_id"))
    if not forced and told.get("force_bos_token_to_be_generated") and bos is not None:
        forced = (bos,)
    barred = [ids_in(row) for row in told.get("bad_words_ids") or [] if isinstance(row, list)]
    if several := [row for row in barred if len(row) > 1]:
        raise ConfigError(
            "bad_words_ids", f"found {list(several[0])}", "words of one token: none of several can be kept from writing"
        )
    before, after = frame
    return Conventions(
        pad=pad if pad is not None else next(iter(ends), 0),
        mask=by_role("mask"),
        before=before,
        after=after,
        start=start[:1],
        forced=forced,
        ends=ends,
        never=tuple(sorted({*(i for row in barred for i in row), *ids_in(told.get("suppress_tokens"))})),
        never_first=ids_in(told.get("begin_suppress_tokens")),
        latest_start=next(iter(ids_in(told.get("max_initial_timestamp_index"))), 50),
        one_language=told.get("is_multilingual") is False,
        longest=_longest(told),
    )


def _longest(told: Mapping[str, Any]) -> int | None:
    found = told.get("max_seq_length")
    if found is not None and (type(found) is not int or found < 1):
        raise ConfigError("max_seq_length", f"found {found!r}", "a number of tokens, from 1 on")
    return found


def template(raw: tokenizers.Tokenizer) -> Frame:
    """The special tokens that a tokenizer puts before and after a text."""
    for text in ("a", "0", "the"):
        bare, framed = (raw.encode(text, add_special_tokens=special).ids for special in (False, True))
        for start in range(len(framed) - len(bare) + 1):
            if bare and framed[start : start + len(bare)] == bare:
                return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    return (), ()


def ids_in(given: object) -> tuple[int, ...]:
    """One id or a list of them; negative ones stand for something else."""
    ids = given if isinstance(given, list) else [given]
    return tuple(i for i in ids if type(i) is int and i >= 0)
