"""What holds for the batches of every objective, and for files that almost are what they should be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pellucid.config import run
from pellucid.data import IGNORE, Labelled, Pair, Shards, Tokenizer, evaluation_batches, load_corpus, training_batches
from pellucid.data.masking import Masking
from pellucid.errors import DataError

BYTES = Tokenizer.train(run.Bytes(), [])
LABELS = ("no", "yes")
TEXT = "".join(chr(97 + (i * i) % 26) for i in range(997))
PAIRS = [Pair("a" * (i % 23), "b" * (i * i % 19)) for i in range(200)]
LABELLED = [Labelled("c" * (i % 17), LABELS[i % 2]) for i in range(200)]
ALL = [
    ([TEXT], run.Causal(length=16)),
    ([TEXT[:500], TEXT[500:]], run.Causal(length=16, separate_documents=True)),
    ([TEXT], run.Masked(length=16)),
    (PAIRS, run.SequenceToSequence(max_length=32)),
    (LABELLED, run.Classify(max_length=32)),
]
every_objective = pytest.mark.parametrize(("examples", "objective"), ALL)


def training(examples, objective, seed=3):
    return training_batches(examples, BYTES, objective, batch_tokens=128, seed=seed, labels=LABELS)


def tensors(batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(batch).items() if value is not None}


def same(one, other) -> bool:
    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@every_objective
def test_going_on_at_any_step_is_never_having_stopped(examples, objective):
    whole = training(examples, objective)
    through = [whole[i] for i in range(40)]
    for start in (39, 20, 1):
        fresh = training(examples, objective)
        assert all(same(fresh[i], through[i]) for i in range(start, 40))


@every_objective
def test_a_batch_asks_something_only_where_a_token_is_real(examples, objective):
    evaluation = evaluation_batches(examples, BYTES, objective, batch_tokens=128, labels=LABELS)
    for batch in [*evaluation, *(training(examples, objective)[i] for i in range(20))]:
        assert batch.num_labels > 0
        assert batch.tokens.numel() <= 128
        if batch.keep is not None:
            assert not batch.keep.all()
            assert (batch.tokens[~batch.keep] == BYTES.pad).all()
            if batch.labels.ndim == 2:
                assert (batch.labels[~batch.keep] == IGNORE).all()
        ids = [value for name, value in tensors(batch).items() if "keep" not in name]
        assert {value.dtype for value in ids} == {torch.int64}


def test_evaluation_hides_tokens_by_a_draw_of_its_own():
    """NumPy pads a seed with zeros: (3, 0) and (3, 0, 0) are one generator, (3, 0, 1) is another."""
    masking = Masking(0.15, BYTES.mask, BYTES.vocab_size, BYTES.special_ids)
    ids = np.array([BYTES.encode(TEXT[:128])])
    first = evaluation_batches([TEXT], BYTES, run.Masked(length=128), batch_tokens=128, seed=3)[0]
    _, of_training = masking.hide(ids, np.ones(ids.shape, bool), np.random.default_rng((3, 0)))
    assert first.labels.tolist() != of_training.tolist()


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_a_file_of_blank_lines_is_told_as_such(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    with pytest.raises(DataError, match=rf"{name}: every line is blank; expected a text and its label"):
        load_corpus(run.LabelledFiles(train=str(tmp_path / name)))


def test_a_missing_value_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n{"text": null, "label": 1}\n')
    with pytest.raises(DataError, match=r'a\.jsonl, line 2: "text" is null; expected a string or a number'):
        load_corpus(run.LabelledFiles(train=str(tmp_path / "a.jsonl")))


def test_a_text_all_held_out_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("ab")
    with pytest.raises(DataError, match=r"held_out: 0\.9 of the text leaves nothing to train on; expected a smaller"):
        load_corpus(run.TextFiles(train=(str(tmp_path / "a.txt"),), held_out=0.9))


@pytest.mark.parametrize(
    "index",
    [
        {"format": 1},
        {"format": 1, "dtype": "uint16", "counts": [1]},
        {"format": 1, "dtype": "float64", "counts": [1], "tokenizer": ""},
        {"format": 1, "dtype": "uint16", "counts": "12", "tokenizer": ""},
        {"format": 1, "dtype": "uint16", "counts": [-1], "tokenizer": ""},
    ],
)
def test_an_index_that_cannot_be_read_is_refused(tmp_path, index):
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"index\.json: is torn or foreign"):
        Shards(tmp_path)
