"""Text to token ids and back: one class around the ``tokenizers`` library."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import Regex, pre_tokenizers

from pellucid.config import run
from pellucid.data import vocabularies
from pellucid.errors import DataError, nearest

# Our own names first, then what published tokenizers call the same five. GPT-2 begins, ends and pads with one token.
KNOWN_AS = {
    "pad": ("<pad>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
    "bos": ("<s>", "[CLS]", "<|endoftext|>"),
    "eos": ("</s>", "[SEP]", "<|endoftext|>"),
    "mask": ("<mask>", "[MASK]"),
}

SENTINEL = "<extra_id_{}>"

AT_ONCE = 4096
"""Texts that the library encodes at a time: it keeps much more of each than its ids."""


class Tokenizer:
    """Cuts text into tokens. ``pad, unk, bos, eos, mask`` are ids of special tokens, or ``None`` where there is none.

    Text never turns into a special token: ``encode("<s>")`` is three ordinary characters, whoever typed them.

    Args:
        raw: of the ``tokenizers`` library.
        conventions: what stands around the texts of a published model; by default our own, by the names of ``raw``.
        target: cuts what is written, where that has a vocabulary of its own.
    """

    def __init__(
        self, raw: tokenizers.Tokenizer, conventions: run.Conventions | None = None, target: Tokenizer | None = None
    ) -> None:
        raw.no_padding()
        raw.no_truncation()
        raw.encode_special_tokens = True
        _part_names(raw)
        self.raw, self.target = raw, target or self
        self.conventions: run.Conventions | None = None
        self.vocab_size = max(raw.get_vocab().values()) + 1
        self.unk, self.bos, self.eos, self.mask = (self._find(role) for role in ("unk", "bos", "eos", "mask"))
        pad = self._find("pad")
        self.pad = self.eos if pad is None else pad
        if conventions is not None:
            self._follow(conventions)

    # ---- what stands around a text -------------------------------------------------------------

    def text(self, ids: Sequence[int], longest: int | None = None) -> list[int]:
        """What an encoder reads of a text: ours from bos to eos; cut so that all of it fits into ``longest``."""
        return self._framed(ids, longest, ("bos",), ("eos",))

    def source(self, ids: Sequence[int], longest: int | None = None) -> list[int]:
        """What the encoder of an encoder–decoder reads: ours up to an eos."""
        return self._framed(ids, longest, (), ("eos",))

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """What a decoder goes on from: ours the text as it stands; one that is empty begins as texts do."""
        framed = [*(self.conventions.before if self.conventions else ()), *ids]
        return framed or list(self.start)

    def excerpt(self, ids: Sequence[int]) -> list[int]:
        """What an encoder with a masked-language head reads: ours a piece of text as it stands."""
        return self._framed(ids, None, (), ())

    def written(self, ids: Sequence[int]) -> list[int]:
        """What is to be written for a text, from the start to the end."""
        return [*self.start, *self.forced, *ids, self.require("eos")]

    @property
    def start(self) -> tuple[int, ...]:
        """What writing begins with."""
        return self.conventions.start if self.conventions else (self.require("bos"),)

    @property
    def forced(self) -> tuple[int, ...]:
        """The first tokens that are written, whatever their scores."""
        return self.conventions.forced if self.conventions else ()

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end what is written."""
        if self.conventions:
            return self.conventions.ends
        return () if self.eos is None else (self.eos,)

    def _framed(
        self, ids: Sequence[int], longest: int | None, before: tuple[str, ...], after: tuple[str, ...]
    ) -> list[int]:
        if self.conventions:
            left, right = self.conventions.before, self.conventions.after
        else:
            left, right = tuple(map(self.require, before)), tuple(map(self.require, after))
        limits = [limit for limit in (longest, self.conventions and self.conventions.longest) if limit]
        room = max(0, min(limits) - len(left) - len(right)) if limits else None
        return [*left, *ids[:room], *right]

    def in_languages(self, source: str | None, target: str | None) -> Tokenizer:
        """The same tokenizer with the tokens of other languages around its texts.

        Raises:
            DataError: for a name that is no special token, or where nothing says where a language belongs.
        """
        if source is None and target is None:
            return self
        if self.conventions is None:
            raise DataError("language", "a model of its own two languages", "neither --from-language nor --to-language")
        plain = {self.conventions.pad, *self.conventions.ends}
        changed = self.conventions
        if source is not None:
            own = self.special(source)
            before, after = (tuple(i if i in plain else own for i in ids) for ids in (changed.before, changed.after))
            changed = replace(changed, before=before, after=after)
        if target is not None:
            own = self.target.special(target)
            starts = bool(changed.start) and changed.start[0] not in plain
            changed = replace(changed, start=(own,)) if starts else replace(changed, forced=(own,))
        return self._by(changed)

    def _by(self, conventions: run.Conventions) -> Tokenizer:
        """The same, with other tokens around its texts; ``raw`` is shared, and may be at work meanwhile."""
        other = copy.copy(self)
        other._follow(conventions)
        other.target = other if self.target is self else self.target._by(conventions)
        return other

    def _follow(self, conventions: run.Conventions) -> None:
        self.conventions = conventions
        self.pad, self.mask = conventions.pad, conventions.mask
        self.eos = next(iter(conventions.ends), self.eos)

    # ---- special tokens ------------------------------------------------------------------------

    def _find(self, role: str) -> int | None:
        ids = (self.raw.token_to_id(name) for name in KNOWN_AS[role])
        return next((i for i in ids if i is not None), None)

    def require(self, role: str) -> int:
        """The id of a special token that the caller cannot do without.

        Raises:
            DataError: if this tokenizer has none, naming what was looked for.
        """
        found: int | None = getattr(self, role)
        if found is None:
            names = ", ".join(KNOWN_AS[role] + (KNOWN_AS["eos"] if role == "pad" else ()))
            raise DataError("tokenizer", f"has no {role} token", f"one of {names} in its vocabulary")
        return found

    def continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """What some tokens add to the text of a prompt, with the space that a text of its own would lose."""
        before, whole = self.decode(prompt), self.decode([*prompt, *ids])
        return whole[len(before) :] if whole.startswith(before) else self.decode(ids)

    def special(self, name: str) -> int:
        """The id of a special token by its name.

        Raises:
            DataError: if there is none of this name, with the nearest.
        """
        names = self.special_tokens
        if name not in names:
            raise DataError("tokenizer", f'no special token "{name}"', hint=nearest(name, names))
        return names[name]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Every id that stands for no text."""
        return frozenset(self.special_tokens.values())

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The ids of those, by their names."""
        return {token.content: i for i, token in self.raw.get_added_tokens_decoder().items() if token.special}

    @cached_property
    def sentinels(self) -> tuple[int, ...]:
        """What stands for spans that were taken out of a text, in the order of their numbers; T5's name for them."""
        found: list[int] = []
        while (token := self.raw.token_to_id(SENTINEL.format(len(found)))) is not None:
            found.append(token)
        return tuple(found)

    def with_sentinels(self, count: int) -> Tokenizer:
        """The same tokenizer, with at least so many of them."""
        raw = tokenizers.Tokenizer.from_str(self.raw.to_str())
        raw.add_special_tokens([SENTINEL.format(i) for i in range(len(self.sentinels), count)])
        return Tokenizer(raw, self.conventions)

    def require_sentinels(self, count: int) -> tuple[int, ...]:
        """So many of them.

        Raises:
            DataError: if there are fewer.
        """
        if len(self.sentinels) < count:
            found = f"{len(self.sentinels)} tokens that stand for spans, {SENTINEL.format(0)} and so on"
            untaught = "this model was not trained on spans: give --source and --target"
            hint = "lower objective.length or objective.rate" if self.sentinels else untaught
            raise DataError("tokenizer", found, f"{count}", hint)
        return self.sentinels[:count]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens.

        Raises:
            DataError: for half of a surrogate pair, which is no character.
        """
        check_whole(text)
        return self.raw.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, on all cores; as :meth:`encode`."""
        found: list[list[int]] = []
        for start in range(0, len(texts), AT_ONCE):
            part = list(texts[start : start + AT_ONCE])
            for text in part:
                check_whole(text)
            found += [encoding.ids for encoding in self.raw.encode_batch_fast(part, add_special_tokens=False)]
        return found

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are written out, as in ``the <mask> sat down``."""
        check_whole(text)
        return self._marked.encode(text, add_special_tokens=False).ids

    @cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.raw.to_str())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; special tokens have none."""
        return self.raw.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token as people read it; bytes that are no character by themselves as ``\\xe2``."""
        return [self._piece(i) for i in ids]

    def _piece(self, i: int) -> str:
        token = self.raw.id_to_token(i)
        if token is None or i in self.special_ids:
            return token or f"<{i}>"
        if self._is_byte_level:
            values = (vocabularies.BYTE_OF.get(character) for character in token)
            return bytes(value for value in values if value is not None).decode("utf-8", "backslashreplace")
        if self._is_byte(token):
            return bytes([int(token[3:5], 16)]).decode("utf-8", "backslashreplace")
        return token.replace("▁", " ") if self._has_marked_spaces else token

    def bytes_of(self, i: int) -> bytes | None:
        """What a token adds to a text in UTF-8, maybe a part of a character; ``None`` where it stands for no text."""
        token = self.raw.id_to_token(i)
        if token is None or i in self.special_ids or i in self.ends:
            return None
        if self._is_byte_level:
            return bytes(vocabularies.BYTE_OF[c] for c in token if c in vocabularies.BYTE_OF)
        if self._is_byte(token):
            return bytes([int(token[3:5], 16)])
        if "WordPiece" in self._decoder:
            return token[2:].encode() if token.startswith("##") else f" {token}".encode()
        return (token.replace("▁", " ") if self._has_marked_spaces else token).encode()

    def _is_byte(self, token: str) -> bool:
        """Whether a token is one byte of a character that the vocabulary has not."""
        return "ByteFallback" in self._decoder and len(token) == 6 and token.startswith("<0x")

    @cached_property
    def _has_marked_spaces(self) -> bool:
        """Whether ``▁`` in a token is a space."""
        return "Metaspace" in self._decoder or 'Replace(pattern=String("▁")' in self._decoder

    @cached_property
    def _is_byte_level(self) -> bool:
        return "ByteLevel" in self._decoder

    @cached_property
    def _decoder(self) -> str:
        return repr(self.raw.decoder)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change whenever any text could be cut differently."""
        return hashlib.sha256(f"{self.raw.to_str()}{self.conventions or ''}".encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Writes a ``tokenizer.json``."""
        self.raw.save(str(path))

    @classmethod
    def load(
        cls, path: str | Path, conventions: run.Conventions | None = None, target: Tokenizer | None = None
    ) -> Tokenizer:
        """Reads a ``tokenizer.json``, ours or a published one.

        Raises:
            DataError: for a file that is missing, torn or something else.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataError(path, "no such file", "a tokenizer.json") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(path, f"cannot be read ({error})", "a tokenizer.json") from None
        try:
            return cls(tokenizers.Tokenizer.from_str(text), conventions, target)
        except Exception as error:  # the library raises bare exceptions
            raise DataError(path, f"is torn or no tokenizer ({error})", "a tokenizer.json", "copy it again") from None

    @classmethod
    def train(cls, config: run.Tokenizer, texts: Iterable[str]) -> Tokenizer:
        """Finds a vocabulary for some texts, always the same for the same texts, which may be read more than once."""
        match config:
            case run.ByteBPE():
                return cls(vocabularies.byte_bpe(texts, config.vocab_size))
            case run.WordPiece():
                return cls(vocabularies.word_piece(texts, config.vocab_size, config.lowercase))
            case run.Unigram():
                return cls(vocabularies.unigram(texts, config.vocab_size))
            case run.Characters():
                return cls(vocabularies.characters(texts))
            case run.Bytes():
                return cls(vocabularies.byte_values())
            case run.TokenizerFile():
                return cls.load(config.path)


def check_whole(text: str, where: str = "text") -> None:
    """Raises :class:`DataError` for half of a surrogate pair, which is no character and has no bytes in UTF-8.

    A pair that was cut in two, or bytes of a command line that are no UTF-8, come as such halves.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"half of a character, {text[error.start]!a}, at place {error.start}"
        raise DataError(where, found, "whole characters", "cut texts between characters; send UTF-8") from None


def _part_names(raw: tokenizers.Tokenizer) -> None:
    """Keeps names of special tokens and of bytes, typed into a text, from being taken for the tokens.

    The library passes over special tokens in texts, but a Unigram model finds their names among its pieces all the
    same. Their first character is cut off from the rest; sentencepiece itself never cuts a text into them either.
    """
    special = (token.content for token in raw.get_added_tokens_decoder().values() if token.special)
    names = [name for name in special if name not in KNOWN_AS["unk"]]  # what any unknown character becomes
    names += [name for byte in range(256) if raw.token_to_id(name := f"<0x{byte:02X}>") is not None]
    encoded = raw.encode_batch(names, add_special_tokens=False)
    reached = [name for name, found in zip(names, encoded, strict=True) if raw.token_to_id(name) in found.ids]
    if not reached:
        return
    pattern = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in reached)
    parted = pre_tokenizers.Split(Regex(pattern), "isolated")
    before = raw.pre_tokenizer
    raw.pre_tokenizer = parted if before is None else pre_tokenizers.Sequence([before, parted])
