"""Vocabularies without a tokenizer.json: cut as the folder says, or refused."""

import json

import pytest
from tokenizers import processors

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


PAIRS = ["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>", "c", "a", "t", "Ġ", "ca", "cat", "Ġcat"]


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    tell(folder, "vocab.json", **{piece: i for i, piece in enumerate(PAIRS)})
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t\nĠ cat\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
@pytest.mark.parametrize(("settings", "cut"), [({}, "cat"), ({"add_prefix_space": True}, "Ġcat")])
def test_byte_pairs_as_the_folder_says(pairs, kind, settings, cut):
    tell(pairs, "config.json", model_type=kind)
    tell(pairs, **settings)
    tokenizer = published_tokenizer(pairs)
    assert tokenizer.encode("cat") == [PAIRS.index(cut)]
    transformers = pytest.importorskip("transformers")
    assert tokenizer.text(tokenizer.encode("cat")) == transformers.AutoTokenizer.from_pretrained(pairs)("cat").input_ids


@pytest.mark.parametrize(
    ("settings", "framed"),
    [
        ({}, ["cat"]),
        ({"add_bos_token": False}, ["cat"]),
        ({"add_bos_token": True}, ["<|endoftext|>", "cat"]),
        (
            {"add_bos_token": True, "bos_token": "<s>", "add_eos_token": True},
            ["<s>", "cat", "<|endoftext|>"],
        ),
    ],
)
def test_tokens_that_a_gpt2_folder_asks_for(pairs, settings, framed):
    tell(pairs, "config.json", model_type="gpt2")
    tell(pairs, **settings)
    tokenizer = published_tokenizer(pairs)
    ids, text = [PAIRS.index(piece) for piece in framed], tokenizer.encode("cat")
    assert (tokenizer.text(text), tokenizer.prompt(text)) == (ids, ids[: framed.index("cat") + 1])
    transformers = pytest.importorskip("transformers")
    assert tokenizer.text(tokenizer.encode("cat")) == transformers.AutoTokenizer.from_pretrained(pairs)("cat").input_ids


def test_a_token_asked_for_that_is_not_there(pairs):
    tell(pairs, add_bos_token=True, bos_token="<b>")
    with pytest.raises(DataError, match=r"vocab\.json: has no '<b>'; expected the bos_token, .*AutoTokenizer"):
        published_tokenizer(pairs)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("kind", ["HerbertTokenizerFast", "Qwen2Tokenizer", "OpenAIGPTTokenizer"])
def test_byte_pairs_of_another_tokenizer(pairs, name, kind):
    tell(pairs, name, tokenizer_class=kind)
    with pytest.raises(DataError, match=rf"a {kind} with merges\.txt alone.*AutoTokenizer"):
        published_tokenizer(pairs)


@pytest.mark.parametrize("kind", ["GPT2TokenizerFast", "RobertaTokenizer", "BartTokenizer", "WhisperTokenizer"])
def test_byte_pairs_of_those_that_cut_as_gpt2s_does(pairs, kind):
    tell(pairs, tokenizer_class=kind)
    assert published_tokenizer(pairs).encode("cat") == [PAIRS.index("cat")]


def test_a_space_before_that_is_no_switch(pairs):
    tell(pairs, add_prefix_space="yes")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: .*'str'.*expected true or false"):
        published_tokenizer(pairs)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("said", [{}, {"add_bos_token": True}, {"add_bos_token": False}], ids=str)
@pytest.mark.parametrize("template", [False, True])
def test_a_tokenizer_json_says_itself_what_stands_around_a_text(pairs, kind, said, template):
    tell(pairs, "config.json", model_type=kind)
    tokenizer = published_tokenizer(pairs).raw
    processor = processors.ByteLevel()
    if template:
        begin = [("<s>", PAIRS.index("<s>"))]
        processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=begin)
    tokenizer.post_processor = processor
    tokenizer.save(str(pairs / "tokenizer.json"))
    tell(pairs, tokenizer_class="LlamaTokenizerFast", bos_token="<s>", eos_token="</s>", **said)
    ids = [PAIRS.index(piece) for piece in (["<s>", "cat"] if template else ["cat"])]
    tokenizer = published_tokenizer(pairs)
    assert tokenizer.prompt(tokenizer.encode("cat")) == ids
    assert pytest.importorskip("transformers").AutoTokenizer.from_pretrained(pairs)("cat").input_ids == ids
