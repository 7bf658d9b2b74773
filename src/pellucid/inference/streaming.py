"""Streaming a beam search: what all its texts agree on can no longer change, and is told at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from pellucid.inference.beam import Candidate, Hypothesis, Text


@dataclass
class _Row:
    """The texts of one row that may still win."""

    told: int = 0  # tokens
    beams: dict[int, Text] = field(default_factory=lambda: {0: ()})
    ended: list[Hypothesis] = field(default_factory=list)


class StablePrefix:
    """Observes a beam search and says which tokens of each row are certain.

    Certain is what the beams that go on and the best text that has ended have in common: the search returns one of
    them, or what one of them grows into. It is never taken back.

    Args:
        say: hears a row and its next certain tokens, at least one.
        ends: the tokens that end a text, which are no part of it.
        bonuses: whether the search adds to the scores of finished texts; any of those may then still win.
    """

    def __init__(self, say: Callable[[int, Text], None], ends: Sequence[int], *, bonuses: bool = False) -> None:
        self.say, self.ends, self.bonuses = say, frozenset(ends), bonuses
        self.rows: dict[int, _Row] = {}

    def __call__(self, row: int, length: int, candidates: Sequence[Candidate]) -> None:
        """As :data:`~pellucid.inference.beam.Observer`."""
        here = self.rows.setdefault(row, _Row())
        kept: dict[int, Text] = {}
        for each in candidates:
            before = here.beams[each.beam]
            if each.becomes is not None:
                kept[each.becomes] = (*before, each.token)
            elif each.fate == "finished":
                text = before if each.token in self.ends else (*before, each.token)
                best = max([*here.ended, Hypothesis(text, each.score)], key=lambda one: one.score)
                here.ended = [*here.ended, Hypothesis(text, each.score)] if self.bonuses else [best]
        here.beams = kept
        self._tell(row, [*kept.values(), *(one.tokens for one in here.ended)])

    def finish(self, row: int, best: Sequence[int]) -> None:
        """Says what is left of the text that the search has chosen."""
        self.rows.setdefault(row, _Row())
        self._tell(row, [tuple(best)])

    def _tell(self, row: int, texts: Sequence[Text]) -> None:
        told = self.rows[row].told
        agreed = takewhile(lambda column: len(set(column)) == 1, zip(*(text[told:] for text in texts), strict=False))
        if certain := tuple(column[0] for column in agreed):
            self.rows[row].told += len(certain)
            self.say(row, certain)
