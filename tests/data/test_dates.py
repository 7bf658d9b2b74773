"""The built-in dates: nothing ambiguous, nothing held out that was seen."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from datetime import date

import pytest

from pellucid.data.dates import all_writings, load_dates, scripts, unambiguous


@pytest.fixture(scope="module")
def corpus():
    return load_dates(examples=20_000)


@pytest.fixture(scope="module")
def kept():
    return unambiguous(all_writings())


def test_no_text_has_two_meanings_in_a_whole_leap_year(kept):
    days = [date.fromordinal(date(1936, 1, 1).toordinal() + n) for n in range(0, 366, 3)]
    meanings = defaultdict(set)
    for writing in kept:
        for day in days:
            meanings[writing.write(day)].add(day)
    assert all(len(found) == 1 for found in meanings.values())


def test_most_of_the_worlds_languages_are_there(kept):
    languages = {writing.language for writing in kept}
    assert len(languages) > 250
    assert {"en", "de", "th", "zh", "ar", "hi", "am"} <= languages


def test_a_row_of_numbers_or_placeholders_is_no_date(kept):
    for writing in kept:
        text = writing.write(date(2021, 1, 4))
        assert any(character.isalpha() for character in text)
        assert "M01" not in text


def test_the_splits_share_no_day(corpus):
    train, validation, *tests = (
        {pair.target for pair in part} for part in (corpus.train, corpus.validation, *corpus.tests.values())
    )
    assert not train & validation
    for test in tests:
        assert not (train | validation) & test


def test_targets_are_iso_dates_of_two_centuries_and_sources_hold_the_year(corpus):
    for source, target in [*corpus.train[:2000], *corpus.validation, *corpus.tests["unseen"]]:
        assert date(1900, 1, 1) <= date.fromisoformat(target) <= date(2099, 12, 31)
        assert target[:4] in "".join(str(unicodedata.decimal(character, "")) for character in source)


def test_unseen_languages_are_in_the_unseen_test_only(corpus):
    unseen = set(corpus.notes["unseen_languages"])
    locales = corpus.notes["locales"]
    assert set(locales["unseen"]) <= unseen
    assert not set(locales["seen"]) & unseen
    assert not unseen & {"de", "en", "th", "zh"}
    assert {name: len(of) for name, of in locales.items()} == {name: len(of) for name, of in corpus.tests.items()}


def test_the_locale_of_an_example_writes_it_so(corpus, kept):
    for name, languages in corpus.notes["locales"].items():
        for language, (source, target) in list(zip(languages, corpus.tests[name], strict=True))[:50]:
            day = date.fromisoformat(target)
            assert source in {writing.write(day) for writing in kept if writing.language == language}


def test_the_seed_decides():
    first, again, other = (load_dates(seed, examples=10) for seed in (0, 0, 1))
    assert first == again
    assert first.train != other.train


def test_scripts_are_told_by_language():
    assert scripts(["sr", "th", "zh", "en", "de"]) == ["Cyrl", "Hans", "Latn", "Thai"]
