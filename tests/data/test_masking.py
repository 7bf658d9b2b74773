"""Hiding tokens, in the proportions of the paper."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.data import IGNORE
from pellucid.data.masking import Masking

MASK, VOCABULARY, SPECIALS = 4, 1000, range(5)


def hide(tokens, rate=0.15, keep=None, seed=0):
    masking = Masking(rate, MASK, VOCABULARY, SPECIALS)
    keep = np.ones(tokens.shape, bool) if keep is None else keep
    return masking.hide(tokens, keep, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, VOCABULARY, (400, 500))


def test_proportions_are_those_of_the_paper(tokens):
    hidden, labels = hide(tokens)
    ordinary, chosen = tokens >= 5, labels != IGNORE
    assert chosen.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.005)
    assert (hidden[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (hidden[chosen] == tokens[chosen]).mean() == pytest.approx(0.1, abs=0.01)


def test_labels_are_the_tokens_that_were_chosen_and_nothing_else_changes(tokens):
    hidden, labels = hide(tokens)
    chosen = labels != IGNORE
    assert (labels[chosen] == tokens[chosen]).all()
    assert (hidden[~chosen] == tokens[~chosen]).all()


def test_special_tokens_are_neither_chosen_nor_put_in(tokens):
    hidden, labels = hide(tokens, rate=0.9)
    assert not np.isin(labels, SPECIALS).any()
    assert set(hidden[labels != IGNORE]) & set(SPECIALS) == {MASK}


def test_padding_is_never_chosen(tokens):
    keep = np.arange(tokens.shape[1]) < np.arange(len(tokens))[:, None]
    _, labels = hide(tokens, rate=0.9, keep=keep)
    assert (labels[~keep] == IGNORE).all()


def test_something_is_asked_whenever_something_can_be():
    for seed in range(20):
        _, labels = hide(np.array([[2, 7, 8, 3]]), rate=0.001, seed=seed)
        assert (labels != IGNORE).sum() == 1
    _, labels = hide(np.array([[2, 3]]))
    assert (labels == IGNORE).all()
