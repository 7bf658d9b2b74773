"""Built-in data ``dates``: a date as people write it anywhere, to be written as ISO 8601. From CLDR, by way of Babel.

The source says nothing about its language. A user who pastes a date does not know the locale either, so the model has
to see it in the text; what cannot be told from the text alone is left out, and counted.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import Literal

import babel
from babel import Locale, localedata
from babel.core import get_global
from babel.dates import DateTimePattern, get_date_format

from pellucid.data.corpus import Corpus, Pair

Style = Literal["short", "medium", "long", "full"]
STYLES: tuple[Style, ...] = ("short", "medium", "long", "full")
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
HELD_OUT_DAYS = {"validation": 1000, "test": 4000}

# Never held out whole, because people try a model with a language they can read.
WIDESPREAD = "ar bn cs de el en es fa fr he hi hu id it ja ko nl pl pt ro ru sv sw ta th tr uk ur vi zh"

# Two ways of writing can be taken for one another only through day and month, and only where both are at most 12.
PROBE = [date(2021, month, day) for month in range(1, 13) for day in range(1, 13)]


@dataclass(frozen=True)
class Writing:
    """One way to write a date: a locale and one of its four styles."""

    locale: Locale
    style: Style
    pattern: DateTimePattern

    @property
    def language(self) -> str:
        """The code of the language, which names the locale as well."""
        return self.locale.language

    def write(self, day: date) -> str:
        """The date as it is written there."""
        return self.pattern.apply(day, self.locale)


def load_dates(seed: int = 0, examples: int = 120_000) -> Corpus:
    """Pairs of a written date and its ISO form, over every language CLDR can write dates in.

    No held-out day is seen in training in any language. The languages of the test ``unseen``, one in sixteen, are not
    seen at all.
    ``notes["locales"]`` names the locale of each example of each test.
    """
    writings = all_writings()
    kept = unambiguous(writings)
    languages = sorted({writing.language for writing in kept})
    random = Random(seed)
    candidates = [language for language in languages if language not in WIDESPREAD.split()]
    unseen_languages = set(random.sample(candidates, len(languages) // 16))
    seen = [writing for writing in kept if writing.language not in unseen_languages]
    unseen = [writing for writing in kept if writing.language in unseen_languages]

    days = [date.fromordinal(n) for n in range(FIRST.toordinal(), LAST.toordinal() + 1)]
    random.shuffle(days)
    validation, test = HELD_OUT_DAYS["validation"], HELD_OUT_DAYS["test"]
    validation_days, test_days, days = (
        days[:validation],
        days[validation : validation + test],
        days[validation + test :],
    )

    tests = {"seen": _draw(seen, test_days, 4000, random), "unseen": _draw(unseen, test_days, 1000, random)}
    return Corpus(
        kind="pairs",
        train=[pair for _, pair in _draw(seen, days, examples, random)],
        validation=[pair for _, pair in _draw(seen, validation_days, 1000, random)],
        tests={name: [pair for _, pair in drawn] for name, drawn in tests.items()},
        notes={
            "source": f"CLDR, as packaged by Babel {babel.__version__}",
            "licence": "Unicode License v3",
            "languages": len(languages) - len(unseen_languages),
            "scripts": scripts(writing.language for writing in seen),
            "writings": len(seen),
            "writings_left_out": len(writings) - len(kept),
            "unseen_languages": sorted(unseen_languages),
            "unseen_writings_shared_with_seen": _shared(unseen, seen),
            "locales": {name: [language for language, _ in drawn] for name, drawn in tests.items()},
        },
    )


def _draw(writings: Sequence[Writing], days: Sequence[date], count: int, random: Random) -> list[tuple[str, Pair]]:
    """Examples with the language of each: every writing, then every day, equally likely."""
    drawn = [(random.choice(writings), random.choice(days)) for _ in range(count)]
    return [(writing.language, Pair(writing.write(day), day.isoformat())) for writing, day in drawn]


def all_writings() -> list[Writing]:
    """Every language of CLDR, without regional variants, in every style."""
    languages = sorted(name for name in localedata.locale_identifiers() if "_" not in name)
    locales = [Locale.parse(language) for language in languages]
    return [Writing(locale, style, get_date_format(style, locale)) for locale in locales for style in STYLES]


def unambiguous(writings: Sequence[Writing]) -> list[Writing]:
    """The writings whose text alone tells the date.

    Left out are those that some other writing uses for another day (``03/04/2021``), those with two digits of the
    year, those of numbers alone (even if CLDR knows one reading only, people do not agree on it), and placeholders of
    languages whose months are not translated (``2021 M03 4``).
    """
    written = {id(writing): [writing.write(day) for day in PROBE] for writing in writings}
    meanings: defaultdict[str, set[date]] = defaultdict(set)
    for texts in written.values():
        for text, day in zip(texts, PROBE, strict=True):
            meanings[text].add(day)
    untranslated = {writing.language for writing in writings if any("M01" in text for text in written[id(writing)])}
    return [
        writing
        for writing in writings
        if writing.language not in untranslated
        and _is_plain(written[id(writing)][0])
        and all(len(meanings[text]) == 1 for text in written[id(writing)])
    ]


def _is_plain(text: str) -> bool:
    """Whether a date of 2021 is written with the whole year and at least one letter."""
    digits = "".join(str(unicodedata.decimal(character, "")) for character in text)
    return "2021" in digits and any(character.isalpha() for character in text)


def scripts(languages: Iterable[str]) -> list[str]:
    """The ISO 15924 codes of the scripts that these languages are written in by default."""
    likely = get_global("likely_subtags")
    tags = (likely[language].split("_") for language in set(languages) if language in likely)
    return sorted({tag[1] for tag in tags})


def _shared(some: Sequence[Writing], others: Sequence[Writing]) -> int:
    """How many of some writings are spelt, letter for letter, like one of the others."""
    known = {tuple(writing.write(day) for day in PROBE[::13]) for writing in others}
    return sum(tuple(writing.write(day) for day in PROBE[::13]) in known for writing in some)
