"""Pairs of texts: a classifier that goes out judges them as here, and vocabularies without a template frame them so."""

import json

import pytest
import torch

transformers = pytest.importorskip("transformers")

from families import STACK

from parity.cases import enlarge
from parity.test_parity import close
from pellucid.config import parts, run
from pellucid.config.model import Classification, Encoder, Tokens
from pellucid.data.published import published_tokenizer
from pellucid.data.tokenizers import Tokenizer
from pellucid.inference.encode import paired
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run
from pellucid.models.convert import convert
from pellucid.models.load import load

PAIRS = [("the cat sat on the mat", "a mat"), ("a dog", "the cat sat"), ("the", "a")]
WORDS = Tokenizer.train(run.ByteBPE(vocab_size=300), [" ".join(pair) for pair in PAIRS] * 4)


@pytest.mark.parametrize("types", [0, 2])
def test_a_classifier_of_pairs(tmp_path, types):
    stack = parts.Stack(
        d_model=32,
        num_layers=1,
        attention=STACK.attention,
        feed_forward=parts.FeedForward(d_ff=40, activation="gelu"),
        positions=parts.Learned(max_length=40),
        norm=parts.LayerNorm(epsilon=1e-12),
    )
    front = Tokens(vocab_size=WORDS.vocab_size, token_types=types, norm=True)
    head = Classification(labels=("x", "y", "z"), activation="tanh" if types else "relu")
    described = Encoder(front=front, stack=stack, head=head)
    torch.manual_seed(1)
    model = build(described).eval()
    enlarge(model)
    settings = run.Run(
        model=described,
        data=run.NamedData(name="x"),
        tokenizer=run.ByteBPE(vocab_size=300),
        objective=run.Classify(),
    )
    save_run(tmp_path / "run", model, WORDS, settings)
    convert(tmp_path / "run", tmp_path / "out", "hf")
    cut = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    again = load(tmp_path / "out")
    for first, second in PAIRS:
        ids, belongs = paired(WORDS, first, second)
        assert (ids, belongs) == paired(again.tokenizer, first, second)
        given = cut(first, second, return_tensors="pt")
        assert given["input_ids"].tolist() == [ids]
        assert ("token_type_ids" in given) == bool(types)
        told = {"token_types": torch.tensor([belongs])} if types else {}
        with torch.no_grad():
            close(theirs(**given).logits, model(torch.tensor([ids]), **told))


def test_word_pieces_of_a_pair(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    oracle = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))("the", "cat")
    assert paired(published_tokenizer(tmp_path), "the", "cat") == (oracle["input_ids"], oracle["token_type_ids"])


def test_byte_pairs_of_a_pair(tmp_path):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "<mask>"]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    assert paired(published_tokenizer(tmp_path), "a", "b") == ([0, 4, 2, 2, 5, 2], [0] * 6)
