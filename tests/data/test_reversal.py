"""The built-in reversal."""

from pellucid.data.reversal import load_reversal


def lengths(pairs):
    return {len(pair.source.split()) for pair in pairs}


def test_pairs_are_each_other_backwards_and_tests_are_longer():
    corpus = load_reversal()
    everything = [*corpus.train, *corpus.validation, *corpus.tests["test"]]
    assert all(pair.source.split() == pair.target.split()[::-1] for pair in everything)
    assert lengths(corpus.train) == set(range(1, 26))
    assert lengths(corpus.validation) == set(range(1, 31))
    assert lengths(corpus.tests["within"]) == set(range(1, 26))
    assert lengths(corpus.tests["beyond"]) == set(range(26, 31))
    assert len(corpus.tests["within"]) + len(corpus.tests["beyond"]) == len(corpus.tests["test"])


def test_nothing_to_test_on_was_trained_on_and_it_is_always_the_same():
    corpus, again = load_reversal(), load_reversal()
    trained = {pair.source for pair in corpus.train}
    assert not trained & {pair.source for pair in (*corpus.validation, *corpus.tests["test"])}
    assert corpus == again
