"""Built-in data ``python-docs``: the language reference of Python, which every interpreter carries for ``help()``."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from hashlib import sha256

from pellucid.data.corpus import Corpus
from pellucid.errors import DataError

HELD_OUT = 0.1  # of the bytes


def load_python_docs() -> Corpus:
    """One document per topic, in alphabetical order, without the copies; whole topics are held out, always the same.

    Raises:
        DataError: if this Python was packaged without its reference.
    """
    everything = _topics()
    topics = without_copies(everything)
    held_out = held_out_topics(topics)
    train = [text for name, text in sorted(topics.items()) if name not in held_out]
    validation = [text for name, text in sorted(topics.items()) if name in held_out]
    return Corpus(
        kind="text",
        train=train,
        validation=validation,
        notes={
            "source": "pydoc_data.topics",
            "licence": "PSF License Version 2",
            "python": platform.python_version(),
            "train_bytes": sum(map(_size, train)),
            "held_out_bytes": sum(map(_size, validation)),
            "held_out_topics": sorted(held_out),
            "copies": len(everything) - len(topics),
        },
    )


def without_copies(topics: Mapping[str, str]) -> dict[str, str]:
    """The topics that are not for the most part sections of a longer one.

    ``for``, ``try`` and ``with`` stand word for word in ``compound``: held out, they would have been seen in training.
    """
    lines = {name: _long_lines(text) for name, text in topics.items()}
    kept: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        shared = max((len(lines[name] & lines[longer]) for longer in kept), default=0)
        if 2 * shared <= len(lines[name]):
            kept[name] = topics[name]
    return kept


def held_out_topics(topics: Mapping[str, str]) -> set[str]:
    """The first topics by the hash of their names that fit into the share held out.

    A hash of the name alone keeps the choice nearly the same from one release of Python to the next.
    """
    room = HELD_OUT * sum(map(_size, topics.values()))
    held_out = set()
    for name in sorted(topics, key=lambda name: sha256(name.encode()).digest()):
        if (size := _size(topics[name])) <= room:
            held_out.add(name)
            room -= size
    return held_out


def _long_lines(text: str) -> set[str]:
    """Lines long enough to recognise a paragraph by, whatever its indentation."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= 30}


def _size(text: str) -> int:
    return len(text.encode())


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "python-docs",
            "this Python was packaged without pydoc_data",
            "its language reference",
            "use another data set",
        ) from None
    return topics
