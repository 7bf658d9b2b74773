"""How each kind of vocabulary is found. Special tokens come first in all of them: ids 0 to 4."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")

# These characters must be pieces: else a text that spells out "<0x41>" would be taken for the byte.
SPELLING = list("<0x123456789ABCDEF>")

# A word takes the space before it along, so that text is put together again without rules. Digits do not, and stand in
# runs of at most four: "2021" is then the same token at the start of a line, after a space and inside "2021-03-04".
WORDS = r"\p{N}{1,4}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"


def _printable_bytes() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies (Radford et al. 2019).

    Bytes that print are themselves, the other 68 are the characters from 256 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


BYTES = _printable_bytes()
BYTE_OF = {character: byte for byte, character in enumerate(BYTES)}


def _with_specials(raw: Tokenizer) -> Tokenizer:
    raw.add_special_tokens(list(SPECIALS))
    return raw


def byte_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Pairs of bytes merged by frequency, never across words."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIALS), initial_alphabet=BYTES, show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def byte_values() -> Tokenizer:
    """One token per byte: byte ``b`` is id ``5 + b``."""
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *BYTES])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return _with_specials(raw)


def characters(texts: Iterable[str]) -> Tokenizer:
    """One token per character, in the order of Unicode: pairs that are never merged."""
    known = sorted({character for text in texts for character in set(text)})
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *known])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=False))
    raw.decoder = decoders.Fuse()
    return _with_specials(raw)


def unigram(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The likeliest cut under a model of single pieces, bytes for what is unknown."""
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    draft = Tokenizer(models.Unigram())
    draft.pre_tokenizer = words
    room = vocab_size - 256 - len(SPECIALS) - 1  # the trainer ends at a piece of several characters, or nowhere
    if rare := _without_room(texts, room):
        pattern = "".join(f"\\x{{{ord(character):X}}}" for character in rare)
        left_out = pre_tokenizers.Split(Regex(f"[{pattern}]"), "removed")
        draft.pre_tokenizer = pre_tokenizers.Sequence([words, left_out])
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - 256,
        special_tokens=list(SPECIALS),
        unk_token="<unk>",
        initial_alphabet=SPELLING,
        show_progress=False,
    )
    draft.train_from_iterator(texts, trainer)
    pieces = _in_fixed_order(json.loads(draft.to_str())["model"]["vocab"][len(SPECIALS) :])
    unlikely = round(pieces[-1][1] - 100, 6)
    fallback = [(f"<0x{byte:02X}>", unlikely) for byte in range(256)]
    vocabulary = [(token, 0.0) for token in SPECIALS] + fallback + pieces
    raw = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIALS.index("<unk>"), byte_fallback=True))
    raw.pre_tokenizer = words
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _with_specials(raw)


def _without_room(texts: Iterable[str], room: int) -> list[str]:
    """The rarest characters, where there are more than so many; they will be spelled in bytes."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in SPELLING:
        counts.pop(character, None)
    return [character for character, _ in counts.most_common()[room - len(SPELLING) :]]


def _in_fixed_order(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces and scores freed of what differs from one training to the next.

    The trainer adds up in parallel, hence the rounding, and gives single characters that it would rather have dropped
    the lowest score plus 0.0001 for each, in the order of a hash table: here they all have the lowest.
    """
    lowest = round(min(score for _, score in pieces), 6)
    tail = lowest + 0.0001 * sum(len(piece) == 1 for piece, _ in pieces)
    fixed = [(piece, lowest if len(piece) == 1 and score <= tail else round(score, 6)) for piece, score in pieces]
    return sorted(fixed, key=lambda entry: (-entry[1], entry[0]))


def word_piece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Words cut into the longest known pieces; text is normalised as BERT does and comes back only nearly the same."""
    raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Left alone, the trainer numbers the continuing characters in the order of a hash table and breaks ties by these
    # numbers, which makes two runs differ. Handed over as if special, they are numbered in the order given.
    normalised = (raw.normalizer.normalize_str(text) for text in texts)
    words = (word for text in normalised for word, _ in raw.pre_tokenizer.pre_tokenize_str(text))
    continuing = sorted({f"##{character}" for word in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIALS, *continuing], show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    final = Tokenizer(models.WordPiece(vocab=raw.get_vocab(), unk_token="<unk>"))
    final.normalizer, final.pre_tokenizer = raw.normalizer, raw.pre_tokenizer
    final.decoder = decoders.WordPiece()
    return _with_specials(final)
