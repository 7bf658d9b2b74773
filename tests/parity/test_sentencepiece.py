"""Sentencepiece files cut texts as their own library does, and Marian's pair as ``transformers`` does."""

import json

import pytest
import tokenizers

sentencepiece = pytest.importorskip("sentencepiece")
transformers = pytest.importorskip("transformers")

from pellucid.data.published import published_tokenizer
from pellucid.data.python_docs import load_python_docs
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import DataError

TEXTS = [
    "A list of numbers, sorted.",
    "  Two  spaces and a tab\there ",
    "ﬁne ½ ① Ｆｕｌｌ width",
    "naïve café, déjà vu…",
    "x = {'a': 1}",
    "Привет 你好 🙂",
    "",
    "one",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    lines = [line for text in load_python_docs().training_texts() for line in text.splitlines() if line.strip()]
    path = tmp_path_factory.mktemp("spm") / "corpus.txt"
    path.write_text("\n".join(lines[:6000]), encoding="utf-8")
    return path


def train(corpus, folder, name, **given):
    settings = {"vocab_size": 600, "character_coverage": 1.0, "minloglevel": 2, "hard_vocab_limit": False} | given
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(folder / name), **settings)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.model"))


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "unigram"},
        {"model_type": "unigram", "byte_fallback": True, "vocab_size": 900},
        {"model_type": "unigram", "add_dummy_prefix": False},
        {"model_type": "bpe", "byte_fallback": True, "vocab_size": 900},
        {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    ],
)
def test_single_models(corpus, tmp_path, settings):
    processor = train(corpus, tmp_path, "spiece", pad_id=3, **settings)
    told = {"model_type": "t5", "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 3}
    (tmp_path / "config.json").write_text(json.dumps(told | {"model_type": "mbart"}))
    with pytest.raises(DataError, match="does not say how its pieces are numbered"):
        published_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(told))
    tokenizer = published_tokenizer(tmp_path)
    assert tokenizer.vocab_size == processor.get_piece_size()
    for text in TEXTS:
        assert tokenizer.encode(text) == processor.encode(text), text
        if tokenizer.unk not in processor.encode(text):  # which the library writes as two question marks
            assert tokenizer.decode(processor.encode(text)) == processor.decode(processor.encode(text))
    assert (tokenizer.pad, tokenizer.ends) == (3, (2,))
    typed = "a </s> b<s> <pad></s>" + " <0x41>" * settings.get("byte_fallback", False)
    assert not set(tokenizer.encode(typed)) & tokenizer.special_ids - {tokenizer.unk}
    assert not {"<0x41>"} & {tokenizer.raw.id_to_token(i) for i in tokenizer.encode(typed)}
    if tokenizer.unk not in tokenizer.encode(typed):
        assert tokenizer.decode(tokenizer.encode(typed)) == processor.decode(processor.encode(typed))
    again = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.raw.to_str()), tokenizer.conventions)
    assert repr(again.raw.pre_tokenizer) == repr(tokenizer.raw.pre_tokenizer)


def test_marian(corpus, tmp_path):
    for name, sizes in {"source": 500, "target": 700}.items():
        train(corpus, tmp_path, name, vocab_size=sizes, seed_sentencepiece_size=5000 if name == "source" else 20_000)
        (tmp_path / f"{name}.model").rename(tmp_path / f"{name}.spm")
    sides = [sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / f"{n}.spm")) for n in ("source", "target")]
    pieces = {side.id_to_piece(i) for side in sides for i in range(3, side.get_piece_size())}
    names = ["</s>", "<unk>", *sorted(pieces), ">>fra<<", "<pad>"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    pad = len(names) - 1
    told = {"eos_token_id": 0, "pad_token_id": pad, "decoder_start_token_id": pad, "bad_words_ids": [[pad]]}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "de"}))
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path)
    ours = published_tokenizer(tmp_path)
    assert not set(ours.encode("a </s> <pad>")) & {0, pad}
    for text in [*TEXTS, ">>fra<< A list of numbers."]:
        assert ours.source(ours.encode(text)) == theirs(text).input_ids, text
        target = ours.target.encode(text)
        if not text.startswith(">>"):
            assert [*target, 0] == theirs(text_target=text).input_ids
            if 1 not in target:
                assert ours.target.decode(target) == theirs.decode(target, skip_special_tokens=True)
    assert (ours.start, ours.ends, ours.conventions.never) == ((pad,), (0,), (pad,))


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(DataError, match=r"holds no tokenizer; expected tokenizer\.json, or sentencepiece files"):
        published_tokenizer(tmp_path)
