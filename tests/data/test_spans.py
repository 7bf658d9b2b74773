"""Span corruption: what was taken out and what was left make the text again, in the shares that were asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.config import run
from pellucid.data.batch import IGNORE
from pellucid.data.batches import evaluation_batches, training_batches
from pellucid.data.masking import Spans
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import ConfigError, DataError

SENTINELS = tuple(range(1000, 1100))


def put_together(source, target):
    """The text again: each sentinel replaced by what follows it in the target."""
    spans, whole = {}, []
    for token in target:
        if token in SENTINELS:
            spans[token] = now = []
        else:
            now.append(token)
    for token in source:
        whole += spans.pop(token) if token in SENTINELS else [token]
    assert not spans
    return whole


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.floats(0.01, 0.95), st.floats(1, 10), st.integers(0, 2**31))
def test_the_two_make_the_text_again(length, rate, mean, seed):
    tokens = np.arange(length, dtype=np.int32)
    source, target = Spans(rate, mean, SENTINELS).hide(tokens, np.random.default_rng(seed))
    assert put_together(source.tolist(), target.tolist()) == tokens.tolist()
    named = [token for token in target.tolist() if token in SENTINELS]
    assert named == [token for token in source.tolist() if token in SENTINELS] == list(SENTINELS[: len(named)])
    if length > 1:
        assert source[0] == 0  # what comes first stays
        places = np.isin(source, SENTINELS)
        assert not (places[1:] & places[:-1]).any()  # spans stand apart


def test_rates_and_lengths_are_those_asked_for():
    spans, random = Spans(0.15, 3.0, SENTINELS), np.random.default_rng(0)
    lengths = []
    for _ in range(200):
        _, target = spans.hide(np.arange(512, dtype=np.int32), random)
        number = int(np.isin(target, SENTINELS).sum())
        assert len(target) - number == round(512 * 0.15)
        assert number == round(77 / 3.0)
        lengths += np.diff(np.flatnonzero(np.isin([*target, SENTINELS[0]], SENTINELS))).tolist()
    assert np.mean(lengths) - 1 == pytest.approx(77 / 26)
    assert min(lengths) == 2  # a sentinel and one token
    assert max(lengths) > 9


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(run.Characters(), ["the cat sat on the mat"]).with_sentinels(4)


def test_sentinels_are_tokens_of_no_text(tokenizer):
    assert tokenizer.pieces(tokenizer.sentinels) == [f"<extra_id_{i}>" for i in range(4)]
    assert not set(tokenizer.encode("<extra_id_0> the cat")) & set(tokenizer.sentinels)
    assert tokenizer.decode(tokenizer.sentinels) == ""
    again = tokenizer.with_sentinels(4)
    assert again.sentinels == tokenizer.sentinels
    assert again.vocab_size == tokenizer.vocab_size
    with pytest.raises(DataError, match=r"4 tokens that stand for spans.*expected 9\. Lower objective"):
        tokenizer.require_sentinels(9)
    with pytest.raises(DataError, match=r"0 tokens that stand for spans.*expected 9\..*give --source and --target"):
        Tokenizer.train(run.Bytes(), []).require_sentinels(9)


def test_batches_read_what_is_left_and_ask_for_what_is_gone(tokenizer):
    text = "the cat sat on the mat " * 20
    objective = run.SpanCorruption(length=32, rate=0.25, span=2)
    assert objective.sentinels == 4
    how = {"batch_tokens": 128, "seed": 3}
    batch = training_batches([text], tokenizer, objective, **how)[5]
    assert batch.tokens.size(0) == 4
    for row in range(4):
        source = batch.source[row][: None if batch.source_keep is None else int(batch.source_keep[row].sum())].tolist()
        labels = [token for token in batch.labels[row].tolist() if token != IGNORE]
        assert source[-1] == labels[-1] == tokenizer.eos
        assert batch.tokens[row].tolist()[: len(labels)] == [*tokenizer.start, *labels[:-1]]
        spans = {}
        for token in labels[:-1]:
            if token in tokenizer.sentinels:
                spans[token] = now = []
            else:
                now.append(token)
        whole = [piece for token in source[:-1] for piece in spans.get(token, [token])]
        assert tokenizer.decode(whole) in text
        assert len(whole) == 32
    again = training_batches([text], tokenizer, objective, **how)[5]
    assert again.source.equal(batch.source)
    covered = evaluation_batches([text], tokenizer, objective, batch_tokens=128)
    read = sum(batch.num_labels for batch in covered)
    assert read > len(text) * 0.25


@pytest.mark.parametrize("length", [2, 9, 16, 64])
@pytest.mark.parametrize(("rate", "span"), [(0.15, 3.0), (0.15, 1.0), (0.9, 1.5), (0.01, 3.0)])
def test_how_much_is_read_of_a_window_is_known_before(length, rate, span):
    objective, text = run.SpanCorruption(length=length, rate=rate, span=span), "the cat sat on the mat " * 20
    tokenizer = Tokenizer.train(run.Characters(), [text]).with_sentinels(objective.sentinels)
    batch = training_batches([text], tokenizer, objective, batch_tokens=128, seed=0)[0]
    assert max(batch.source.size(1), batch.tokens.size(1)) == objective.longest


@pytest.mark.parametrize(
    ("setting", "told"), [({"rate": 1.0}, "rate"), ({"span": 0.5}, "span"), ({"length": 1}, "length")]
)
def test_settings_that_cannot_be_are_told(setting, told):
    with pytest.raises(ConfigError, match=told):
        run.SpanCorruption(**setting)
