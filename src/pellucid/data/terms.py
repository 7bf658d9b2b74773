"""Built-in data ``terms`` and ``languages``: what things are called around the world. From CLDR, by way of Babel.

Countries, languages, scripts, currencies and units have names in every language of CLDR. ``terms`` translates the
English name into the language that the source asks for; ``languages`` tells which language a name is in. Both hold out
by term: what a test asks about was not seen in training in any language.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from typing import Literal, NamedTuple

import babel
from babel import Locale

from pellucid.data.corpus import Corpus, Labelled, Pair

LANGUAGES = (
    "ar bg bn ca cs da de el es et fa fi fr he hi hr hu hy id it ja ka ko lt nl pl pt ro ru sk sv sw ta th tr uk vi zh"
)

Part = Literal["train", "validation", "test"]


class Term(NamedTuple):
    """A name in English and in one other language."""

    english: str
    language: str
    name: str


def load_terms() -> Corpus:
    """Pairs such as ``>>de<< Germany`` and ``Deutschland``."""
    parts: dict[Part, list[Pair]] = {"train": [], "validation": [], "test": []}
    for term in all_terms():
        parts[part_of(term.english)].append(Pair(f">>{term.language}<< {term.english}", term.name))
    return Corpus(
        kind="pairs",
        train=parts["train"],
        validation=parts["validation"],
        tests={"unseen_terms": parts["test"]},
        notes=_notes(),
    )


def load_languages() -> Corpus:
    """Names labelled with the code of their language; a name that several languages share is left out."""
    languages_of: defaultdict[str, set[str]] = defaultdict(set)
    terms = all_terms()
    for term in terms:
        languages_of[term.name].add(term.language)
        languages_of[term.english].add("en")
    named = [*terms, *(Term(english, "en", english) for english in dict.fromkeys(term.english for term in terms))]
    parts: dict[Part, list[Labelled]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()  # two terms may share a name: it counts for the first of them only
    for term in named:
        if len(languages_of[term.name]) == 1 and term.name not in seen:
            seen.add(term.name)
            parts[part_of(term.english)].append(Labelled(term.name, term.language))
    shared = sum(len(languages) > 1 for languages in languages_of.values())
    return Corpus(
        kind="labelled",
        train=parts["train"],
        validation=parts["validation"],
        tests={"unseen_terms": parts["test"]},
        labels=tuple(sorted(("en", *LANGUAGES.split()))),
        notes=_notes() | {"names_left_out": shared},
    )


def part_of(english: str) -> Part:
    """Where a term belongs: a twentieth each to validation and test, by a hash of its English name."""
    match sha256(english.casefold().encode()).digest()[0] % 20:
        case 0:
            return "validation"
        case 1:
            return "test"
        case _:
            return "train"


def all_terms() -> list[Term]:
    """Every named thing in every language, once for each English name."""
    english = dict(_names(Locale.parse("en")))
    first_key = {name: key for key, name in reversed(english.items())}
    return [
        Term(english[key], language, name)
        for language in LANGUAGES.split()
        for key, name in _names(Locale.parse(language))
        if key in english and first_key[english[key]] == key
    ]


def _names(locale: Locale) -> Iterator[tuple[str, str]]:
    """What CLDR names in a language, each with a key that is the same in all."""
    kinds = {"territory": "territories", "language": "languages", "script": "scripts", "currency": "currencies"}
    for kind, attribute in kinds.items():
        for code, name in getattr(locale, attribute).items():
            yield f"{kind} {code}", name
    for code, lengths in locale.unit_display_names.items():
        if name := lengths.get("long"):
            yield f"unit {code}", name


def _notes() -> dict[str, object]:
    return {
        "source": f"CLDR, as packaged by Babel {babel.__version__}",
        "licence": "Unicode License v3",
        "languages": len(LANGUAGES.split()),
    }
