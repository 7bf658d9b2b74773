"""Vocabularies without a tokenizer.json: cut as the folder says, or refused."""

import json

import pytest

from pellucid.data.published import published_tokenizer
from pellucid.errors import ConfigError, DataError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "schön", "schon", "Schön", "中国", "中", "国"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return tmp_path


def tell(folder, name="tokenizer_config.json", **settings):
    (folder / name).write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("settings", "text", "pieces"),
    [
        ({}, "Schön", ["schon"]),
        ({"strip_accents": None}, "Schön", ["schon"]),
        ({"strip_accents": False}, "Schön", ["schön"]),
        ({"do_lower_case": False}, "Schön", ["Schön"]),
        ({}, "中国", ["中", "国"]),
        ({"tokenize_chinese_chars": False}, "中国", ["中国"]),
        ({"tokenizer_class": "BertTokenizer"}, "中国", ["中", "国"]),
        ({"tokenizer_class": "DistilBertTokenizerFast"}, "中国", ["中", "国"]),
        ({"tokenizer_class": "ElectraTokenizer"}, "中国", ["中", "国"]),
    ],
    ids=str,
)
def test_word_pieces_as_the_folder_says(folder, settings, text, pieces):
    tell(folder, **settings)
    tokenizer = published_tokenizer(folder)
    assert tokenizer.pieces(tokenizer.encode(text)) == pieces


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("kind", ["BertJapaneseTokenizer", "PhobertTokenizer", "PreTrainedTokenizer"])
def test_word_pieces_of_another_tokenizer(folder, name, kind):
    tell(folder, name, tokenizer_class=kind)
    with pytest.raises(DataError, match=rf"a {kind} with vocab\.txt alone.*AutoTokenizer"):
        published_tokenizer(folder)


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_switches_of_a_wrong_kind(folder, name):
    tell(folder, **{name: "yes"})
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: .*'str'.*expected true or false"):
        published_tokenizer(folder)


@pytest.mark.parametrize("gone", ["[CLS]", "[SEP]", "[UNK]"])
def test_a_vocabulary_that_is_not_berts(folder, gone):
    (folder / "vocab.txt").write_text("\n".join(piece for piece in PIECES if piece != gone), encoding="utf-8")
    with pytest.raises(DataError, match=rf"vocab\.txt: has no \{gone[:-1]}\]; expected a vocabulary of BERT"):
        published_tokenizer(folder)


def test_tokens_beside_the_vocabulary(folder, tmp_path):
    tell(folder, "added_tokens.json", **{"[MASK]": 4})
    published_tokenizer(folder)
    tell(folder, "added_tokens.json", **{"[MASK]": 4, "<new>": 11})
    with pytest.raises(DataError, match=r"added_tokens\.json: adds '<new>'.*AutoTokenizer"):
        published_tokenizer(folder)
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    tell(pairs, "vocab.json", a=0, b=1, ab=2)
    (pairs / "merges.txt").write_text("#version: 0.2\na b\n")
    tell(pairs, "added_tokens.json", **{"<new>": 3})
    with pytest.raises(DataError, match=r"added_tokens\.json: adds '<new>'"):
        published_tokenizer(pairs)
