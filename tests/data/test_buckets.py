"""Batches of examples: each exactly once, within the budget, the same for the same seed and index."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from pellucid.config import run
from pellucid.data import IGNORE, Labelled, Pair, Tokenizer, evaluation_batches, training_batches
from pellucid.errors import DataError

BYTES = Tokenizer.train(run.Bytes(), [])
LABELS = ("no", "yes")


def text(draw: random.Random, most: int = 40) -> str:
    return "".join(draw.choices("abcdefgh ", k=draw.randint(0, most)))


DRAW = random.Random(0)
PAIRS = [Pair(f"{i} {text(DRAW)}", text(DRAW)) for i in range(300)]
LABELLED = [Labelled(f"{i} {text(DRAW)}", DRAW.choice(LABELS)) for i in range(300)]
BOTH = [(PAIRS, run.SequenceToSequence(max_length=64)), (LABELLED, run.Classify(max_length=64))]


def training(examples, objective, batch_tokens=512, seed=3):
    return training_batches(examples, BYTES, objective, batch_tokens=batch_tokens, seed=seed, labels=LABELS)


def evaluation(examples, objective, batch_tokens=512):
    return evaluation_batches(examples, BYTES, objective, batch_tokens=batch_tokens, labels=LABELS)


def texts(ids, keep) -> list[str]:
    rows = ids if keep is None else [row[real] for row, real in zip(ids, keep, strict=True)]
    return [BYTES.decode(row.tolist()) for row in rows]


def examples_in(batch) -> list:
    if batch.source is None:
        return [
            Labelled(*row)
            for row in zip(texts(batch.tokens, batch.keep), (LABELS[i] for i in batch.labels), strict=True)
        ]
    targets = texts(batch.labels, batch.labels != IGNORE)
    return [Pair(*row) for row in zip(texts(batch.source, batch.source_keep), targets, strict=True)]


@pytest.mark.parametrize(("examples", "objective"), BOTH)
def test_evaluation_covers_every_example_once(examples, objective):
    found = [example for batch in evaluation(examples, objective) for example in examples_in(batch)]
    assert Counter(found) == Counter(examples)


@pytest.mark.parametrize(("examples", "objective"), BOTH)
def test_every_epoch_covers_every_example_once_in_another_order(examples, objective):
    batches = training(examples, objective)
    epochs = []
    for epoch in range(3):
        indices = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        epochs.append([example for i in indices for example in examples_in(batches[i])])
        assert Counter(epochs[-1]) == Counter(examples)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("examples", "objective"), BOTH)
def test_a_batch_is_a_function_of_seed_and_index(examples, objective):
    batches, again = training(examples, objective), training(examples, objective)
    far = 10**6
    _ = again[far], again[1]
    assert all((batches.members(i) == again.members(i)).all() for i in (0, far, 3))
    other = training(examples, objective, seed=4)
    assert [list(batches.members(i)) for i in range(5)] != [list(other.members(i)) for i in range(5)]


@pytest.mark.parametrize(("examples", "objective"), BOTH)
@pytest.mark.parametrize("budget", [100, 512, 4000])
def test_batches_stay_within_their_budget_and_waste_little(examples, objective, budget):
    real = padded = 0
    for batch in evaluation(examples, objective, budget):
        assert max(t.numel() for t in (batch.tokens, batch.source) if t is not None) <= budget
        real += batch.num_tokens
        padded += sum(t.numel() for t in (batch.tokens, batch.source) if t is not None)
    assert real / padded > 0.6


def test_an_example_larger_than_the_budget_is_a_batch_of_its_own():
    batches = evaluation(PAIRS, run.SequenceToSequence(max_length=64), batch_tokens=1)
    assert len(batches) == len(PAIRS)


def test_pairs_are_framed_as_the_paper_feeds_them():
    (batch,) = evaluation([Pair("ab", "cde"), Pair("a", "c")], run.SequenceToSequence())
    (a, b, c, d, e), bos, eos, pad = BYTES.encode("abcde"), BYTES.bos, BYTES.eos, BYTES.pad
    assert batch.source.tolist() == [[a, eos, pad], [a, b, eos]]
    assert batch.tokens.tolist() == [[bos, c, pad, pad], [bos, c, d, e]]
    assert batch.labels.tolist() == [[c, eos, IGNORE, IGNORE], [c, d, e, eos]]
    assert batch.keep.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.source_keep.tolist() == [[True, True, False], [True] * 3]
    assert (batch.num_labels, batch.num_tokens) == (6, 11)


def test_texts_to_classify_stand_between_bos_and_eos():
    (batch,) = evaluation([Labelled("ab", "yes"), Labelled("ba", "no")], run.Classify())
    a, b = BYTES.encode("ab")
    assert batch.tokens.tolist() == [[BYTES.bos, a, b, BYTES.eos], [BYTES.bos, b, a, BYTES.eos]]
    assert batch.labels.tolist() == [1, 0]
    assert batch.keep is None


def test_the_overlong_are_cut_and_counted():
    pairs = [Pair("abcd", "efgh"), Pair("abc", "efg"), Pair("abcde", "e")]
    batches = evaluation(pairs, run.SequenceToSequence(max_length=4))
    assert batches.num_cut == 2
    (batch,) = batches
    assert batch.source.shape[1] == batch.tokens.shape[1] == 4
    found = {tuple(row) for row in batch.labels.tolist()}
    assert tuple(BYTES.encode("efgh")) in found  # no eos: the text goes on
    assert (*BYTES.encode("efg"), BYTES.eos) in found
    labelled = evaluation([Labelled("abcd", "no"), Labelled("ab", "no")], run.Classify(max_length=4))
    assert labelled.num_cut == 1
    assert all(batch.tokens.shape[1] == 4 for batch in labelled)


def test_examples_of_another_kind_are_refused():
    with pytest.raises(
        DataError, match=r"data: found Pair, such as .*; expected texts with a label.*Classify is about"
    ):
        training(PAIRS, run.Classify())
    with pytest.raises(DataError, match=r"expected documents of text, which the objective Causal is about"):
        training(LABELLED, run.Causal())
    with pytest.raises(DataError, match=r"data: no examples; expected pairs of source and target"):
        training([], run.SequenceToSequence())


def test_a_label_the_model_does_not_know_is_named_with_the_nearest():
    with pytest.raises(DataError, match=r'labels: no label "yess"; .*Did you mean "yes"\?'):
        training([Labelled("a", "yess")], run.Classify())


def test_a_batch_moves_whole():
    batch = next(iter(evaluation(PAIRS, run.SequenceToSequence())))
    moved = batch.to("meta")
    assert {t.device.type for t in vars(moved).values() if t is not None} == {"meta"}
    assert moved.positions is None
    assert batch.tokens.dtype == batch.labels.dtype == batch.source.dtype == torch.int64
