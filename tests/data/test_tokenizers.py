"""Cutting text and putting it together again."""

from __future__ import annotations

import pytest
import tokenizers

from pellucid.config import run
from pellucid.data import Tokenizer
from pellucid.data.conventions import conventions
from pellucid.data.tokenizers import AT_ONCE
from pellucid.errors import ConfigError, DataError
from pellucid.inference.stopping import StopStrings

TEXTS = [
    "In 2021 the cat sat on the mat, and in 2021-03-04 it sat there still.",
    "  two spaces\tand a tab\n\n    indented\r\n",
    "Die Katze saß; кошка сидела; 猫が座った; बिल्ली बैठी",
] * 20
ODD = [
    "",
    " ",
    " leading and trailing ",
    "a\u0301 is not \u00e1",
    "👩‍👩‍👧 family, \u200b zero width, \ufeff mark",
    "\x00\x1f\x85\u2028",
    "<s> </s> <pad> <mask> <0x41> ▁under",
    "٣ ๒๐๒๑ 2021 20210 １２",
    "𝕬𐍈\U0010ffff",
]
LOSSLESS = [run.ByteBPE(vocab_size=400), run.Bytes(), run.Unigram(vocab_size=500)]


def trained(config) -> Tokenizer:
    return Tokenizer.train(config, TEXTS)


@pytest.mark.parametrize("config", LOSSLESS, ids=lambda config: type(config).__name__)
def test_text_comes_back_whatever_it_is(config):
    tokenizer = trained(config)
    for text in TEXTS[:3] + ODD:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "config", [*LOSSLESS, run.Characters(), run.WordPiece(vocab_size=300)], ids=lambda config: type(config).__name__
)
def test_special_tokens_come_first_and_never_out_of_text(config):
    tokenizer = trained(config)
    assert (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.mask) == (0, 1, 2, 3, 4)
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    written_out = set(tokenizer.encode("the <s> <mask> <pad> cat"))
    assert not written_out & {0, 2, 3, 4}
    assert max(written_out) < tokenizer.vocab_size


@pytest.mark.parametrize("config", LOSSLESS, ids=lambda config: type(config).__name__)
def test_tokens_add_the_bytes_of_the_text(config):
    tokenizer = trained(config)
    for text in TEXTS[:3] + ODD:
        ids = tokenizer.encode(text)
        added = b"".join(tokenizer.bytes_of(i) for i in ids).decode()
        assert added.strip(" ") == tokenizer.decode(ids).strip(" ")  # some lose the space they begin with


@pytest.mark.parametrize(
    "config", [*LOSSLESS, run.Characters(), run.WordPiece(vocab_size=300)], ids=lambda config: type(config).__name__
)
def test_training_is_deterministic(config):
    assert trained(config).fingerprint == trained(config).fingerprint


@pytest.mark.parametrize("config", LOSSLESS, ids=lambda config: type(config).__name__)
def test_a_batch_is_its_texts_one_by_one(config):
    tokenizer = trained(config)
    assert tokenizer.encode_batch(ODD) == [tokenizer.encode(text) for text in ODD]


def test_vocabularies_keep_to_their_size():
    assert trained(run.ByteBPE(vocab_size=320)).vocab_size == 320
    assert trained(run.Unigram(vocab_size=400)).vocab_size <= 400
    assert trained(run.WordPiece(vocab_size=300)).vocab_size <= 300


def test_characters_without_room_are_spelled_in_bytes():
    common = "".join(map(chr, range(33, 127)))
    for rare in ("", "".join(map(chr, range(0x4E00, 0x4E00 + 500))), "]^\\-[&\x00\U0001f600"):
        tokenizer = Tokenizer.train(run.Unigram(vocab_size=300), [common, *common, rare])
        assert tokenizer.vocab_size <= 300
        assert tokenizer.decode(tokenizer.encode(rare + common)) == rare + common


def test_known_characters_come_back_and_others_are_unknown():
    tokenizer = trained(run.Characters())
    for text in TEXTS[:3]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text)) == len(text)
    assert tokenizer.encode("aЖЖ") == [tokenizer.encode("a")[0], tokenizer.unk, tokenizer.unk]


def test_a_byte_is_five_more_than_its_value():
    assert trained(run.Bytes()).encode("aé") == [5 + byte for byte in "aé".encode()]


def test_a_year_is_one_token_wherever_it_stands():
    texts = ["2021", " 2021", "2021-03-04", "on 2021."] * 50
    tokenizer = Tokenizer.train(run.ByteBPE(vocab_size=300), texts)
    (year,) = tokenizer.encode("2021")
    assert all(year in tokenizer.encode(text) for text in texts[:4])


def test_pieces_read_like_text():
    bpe, unigram = trained(run.ByteBPE(vocab_size=400)), trained(run.Unigram(vocab_size=500))
    assert "".join(bpe.pieces(bpe.encode("the cat"))) == "the cat"
    assert bpe.pieces([bpe.bos, *bpe.encode("€")]) == ["<s>", "\\xe2", "\\x82", "\\xac"]
    assert unigram.pieces(unigram.encode("€")) == ["\\xe2", "\\x82", "\\xac"]


def test_special_tokens_are_dropped_when_decoding():
    tokenizer = trained(run.ByteBPE(vocab_size=400))
    assert tokenizer.decode([tokenizer.bos, *tokenizer.encode("cat"), tokenizer.eos, tokenizer.pad]) == "cat"


def test_a_mask_can_be_written_out_where_it_is_asked_for():
    tokenizer = trained(run.WordPiece(vocab_size=300))
    assert tokenizer.encode_marked("the <mask> sat").count(tokenizer.mask) == 1
    assert tokenizer.mask not in tokenizer.encode("the <mask> sat")


def test_saved_and_loaded_it_cuts_the_same(tmp_path):
    for config in LOSSLESS:
        tokenizer = trained(config)
        tokenizer.save(tmp_path / "tokenizer.json")
        again = Tokenizer.train(run.TokenizerFile(path=str(tmp_path / "tokenizer.json")), [])
        assert again.encode_batch(ODD) == tokenizer.encode_batch(ODD)
        assert again.fingerprint == tokenizer.fingerprint


def foreign(*names: str) -> Tokenizer:
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    raw.add_special_tokens(list(names))
    raw.enable_truncation(1)
    return Tokenizer(raw)


def test_special_tokens_of_others_are_found_by_their_usual_names():
    bert = foreign("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert (bert.pad, bert.unk, bert.bos, bert.eos, bert.mask) == (2, 3, 4, 5, 6)
    gpt2 = foreign("<|endoftext|>")
    assert (gpt2.pad, gpt2.bos, gpt2.eos, gpt2.mask) == (2, 2, 2, None)


def test_words_that_may_not_be_written_are_single_tokens():
    raw = foreign("[PAD]").raw
    assert conventions(raw, ((), ()), {}, {"bad_words_ids": [[7], [9]], "suppress_tokens": [8]}).never == (7, 8, 9)
    with pytest.raises(ConfigError, match=r"bad_words_ids: found \[9, 4\]; expected words of one token"):
        conventions(raw, ((), ()), {}, {"bad_words_ids": [[7], [9, 4]]})


def test_a_missing_special_token_is_named():
    with pytest.raises(DataError, match=r"tokenizer: has no mask token; expected one of <mask>, \[MASK\]"):
        foreign("<|endoftext|>").require("mask")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json: no such file; expected a tokenizer\.json"):
        Tokenizer.load(tmp_path / "absent.json")
    torn = tmp_path / "torn.json"
    torn.write_text('{"version": "1.0", "model": {')
    with pytest.raises(DataError, match=r"torn\.json: is torn or no tokenizer"):
        Tokenizer.load(torn)


def test_half_of_a_character_is_told():
    tokenizer = Tokenizer.train(run.Characters(), ["abc"])
    for encode in (tokenizer.encode, tokenizer.encode_marked, lambda text: tokenizer.encode_batch(["a", text])):
        with pytest.raises(DataError, match=r"text: half of a character, '\\ud83d', at place 3; expected whole"):
            encode("abc\ud83d")
    with pytest.raises(DataError, match="stop: half of a character"):
        StopStrings(("\udce9",))


def test_many_texts_are_encoded_in_their_order():
    tokenizer = Tokenizer.train(run.Characters(), ["0123456789"])
    texts = [str(number) for number in range(2 * AT_ONCE + 3)]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
