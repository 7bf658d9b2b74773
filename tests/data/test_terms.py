"""The built-in terms and languages."""

from __future__ import annotations

from pellucid.data.terms import all_terms, load_languages, load_terms


def test_a_term_is_in_one_part_only_in_every_language():
    corpus = load_terms()
    english = [
        {pair.source.partition(" ")[2].casefold() for pair in part}
        for part in (corpus.train, corpus.validation, corpus.tests["unseen_terms"])
    ]
    assert not english[0] & english[1]
    assert not english[0] & english[2]
    assert not english[1] & english[2]
    assert len(english[2]) / sum(map(len, english)) > 0.03


def test_terms_have_one_translation_each():
    corpus = load_terms()
    pairs = dict(corpus.train)
    assert len(pairs) == len(corpus.train)
    whole = pairs | dict(corpus.validation) | dict(corpus.tests["unseen_terms"])
    assert whole[">>de<< Germany"] == "Deutschland"
    assert len({term.language for term in all_terms()}) >= 30


def test_a_name_is_in_one_language_and_one_part():
    corpus = load_languages()
    texts = [
        example.text for part in (corpus.train, corpus.validation, corpus.tests["unseen_terms"]) for example in part
    ]
    assert len(texts) == len(set(texts))
    assert {example.label for example in corpus.train} == set(corpus.labels)
    assert {example.label for example in corpus.tests["unseen_terms"]} == set(corpus.labels)
