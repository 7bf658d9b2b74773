"""Word alignment: links, words and error rates by hand, and a model made to look where it should."""

import pytest
import torch
from families import run, small

from pellucid.analysis.alignment import NO_WORD, align, alignment_error_rate, merged_words, word_numbers
from pellucid.errors import UserError
from pellucid.trace import trace

WEIGHTS = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.0, 0.1, 0.9], [0.0, 0.0, 0.0]])


def test_links_are_source_and_target():
    assert align(WEIGHTS) == {(0, 0), (0, 1), (2, 2)}


def test_both_directions():
    assert align(WEIGHTS, WEIGHTS.mT) == {(0, 0), (2, 2)}
    reverse = torch.tensor([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.8, 0.2]])
    assert align(WEIGHTS, reverse) == {(0, 1), (2, 2)}


def test_the_error_rate_of_och_and_ney():
    """A = {a, b, c, d}, S = {a, e}, P = S + {b}: 1 - (1 + 2) / (4 + 2)."""
    a, b, c, d, e = (0, 0), (1, 1), (2, 2), (3, 3), (4, 4)
    assert alignment_error_rate([{a, b, c, d}], [{a, e}], [{b}]) == pytest.approx(0.5)
    assert alignment_error_rate([{a, b, c, d}], [{a, e}], [{a, e, b}]) == pytest.approx(0.5)
    assert alignment_error_rate([{a, b}], [{a, b}]) == 0
    assert alignment_error_rate([{a}], [{b}]) == 1
    assert alignment_error_rate([{a}], [{a}], [{a, b}]) == 0
    # Over a corpus counts are added, not rates averaged: 1 - (1 + 1 + 0) / (1 + 1 + 4).
    assert alignment_error_rate([{a}, {b, c, d}], [{a}, {e}]) == pytest.approx(1 - 2 / 6)


def test_words_of_pieces():
    assert word_numbers(["The", " un", "seen", " cat", "."]) == [0, 1, 1, 2, 2]
    assert word_numbers(["[CLS]", "un", "##seen", "cat", "[SEP]"], continuation="##", no_words=(0, 4)) == [
        -1,
        0,
        0,
        1,
        -1,
    ]
    assert word_numbers([" a", "b", "</s>", "c", "d"], no_words=[2]) == [0, 0, NO_WORD, 1, 1]
    assert word_numbers([]) == []


def test_pieces_are_merged_by_sum_of_keys_and_mean_of_queries():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    merged = merged_words(weights, [0, 0, NO_WORD], [0, 1, 1, NO_WORD])
    assert torch.allclose(merged, torch.tensor([[0.3, 0.5]]))  # the means of 0.1 and 0.5, of 0.5 and 0.5
    whole = merged_words(weights, [0, 1, 1], [0, 0, 1, 1])
    assert torch.allclose(whole.sum(1), torch.ones(2))
    assert torch.equal(merged_words(weights, range(3), range(4)), weights)


def test_a_model_that_looks_where_it_should():
    """Its source is the target backwards; a head that undoes this aligns without an error."""
    model, text = small("encoder_decoder"), torch.randint(0, 61, (1, 6))
    name = "decoder.blocks.1.cross_attention.weights"
    with torch.no_grad():
        with trace(model, watch=name, edits={name: lambda w: 0.5 * w + 0.5 * torch.eye(6).flip(1)}) as tape:
            run(model, text)
        right = align(tape[name][0].mean(0))
        with trace(model, watch=name) as tape:
            run(model, text)
        untrained = align(tape[name][0].mean(0))
    gold = [{(5 - t, t) for t in range(6)}]
    assert alignment_error_rate([right], gold) == 0
    assert alignment_error_rate([untrained], gold) > 0.3


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="Take one head"):
        align(torch.zeros(2, 3, 4))
    with pytest.raises(UserError, match=r"\(4, 3\) and \(4, 3\)"):
        align(WEIGHTS, WEIGHTS)
    with pytest.raises(UserError, match="1, 2 and 2 sentences"):
        alignment_error_rate([set()], [set(), set()])
    with pytest.raises(UserError, match="no links"):
        alignment_error_rate([set()], [set()])
    with pytest.raises(UserError, match="source_words: 2 numbers for 3 tokens"):
        merged_words(WEIGHTS, [0, 1, 2, 3], [0, 1])
