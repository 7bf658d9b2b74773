"""Stop strings: writing ends where one appears in the text, wherever the tokens part, and nothing of it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.data.tokenizers import Tokenizer, check_whole
from pellucid.inference.rules import check


@dataclass(frozen=True)
class StopStrings:
    """Texts that end what is written and are no part of it."""

    strings: tuple[str, ...]

    def __post_init__(self) -> None:
        check(all(self.strings), "stop", "an empty text", "one character or more in each")
        for string in self.strings:
            check_whole(string, "stop")

    def find(self, text: str) -> int | None:
        """Where the first of them begins; ``None`` where there is none."""
        return min((place for string in self.strings if (place := text.find(string)) >= 0), default=None)

    def cut(self, text: str) -> str:
        """A text up to the first of them."""
        return text[: self.find(text)]

    def held(self, text: str) -> int:
        """How many characters at the end of a text may yet become one of them."""
        longest = min(len(text), max(map(len, self.strings), default=1) - 1)
        ends = range(longest, 0, -1)
        return next((n for n in ends if any(string.startswith(text[-n:]) for string in self.strings)), 0)


@dataclass(frozen=True)
class Stop:
    """Whether a text has come to a stop string with its last token: asked after every token.

    Args:
        before: what the new tokens follow.
    """

    tokenizer: Tokenizer
    stops: StopStrings
    before: tuple[int, ...] = ()

    def __call__(self, text: Sequence[int]) -> bool:
        """Looks at no more of the end of the text than a stop string can reach."""
        reach = max((len(string.encode()) for string in self.stops.strings), default=0)
        told = [token for token in text[-4 * reach - 8 :] if token not in self.tokenizer.special_ids]
        new = told[-reach - 1 :]
        near = text[-4 * reach - 12 :]
        near = [*self.before[-4:], *near] if len(near) == len(text) else [*near]
        lead = near[: len(near) - len(told)] + told[: len(told) - len(new)]
        return self.stops.find(self.tokenizer.continuation(lead[-4:], new)) is not None


class Release:
    """Gives a text out as it grows, but nothing that may yet belong to a stop string.

    Attributes:
        is_over: a stop string has come; nothing follows.
    """

    def __init__(self, stops: StopStrings) -> None:
        self.stops, self.is_over, self._waiting = stops, False, ""

    def feed(self, new: str) -> str:
        """What may be shown after some more text."""
        if self.is_over:
            return ""
        self._waiting += new
        place = self.stops.find(self._waiting)
        self.is_over = place is not None
        cut = len(self._waiting) - self.stops.held(self._waiting) if place is None else place
        shown, self._waiting = self._waiting[:cut], "" if self.is_over else self._waiting[cut:]
        return shown

    def rest(self) -> str:
        """What was held back, when the text has ended without a stop string."""
        rest, self._waiting = self._waiting, ""
        return rest


class Spoken:
    """The text of tokens that come one after the other, in whole characters, without reading all of it every time."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer, self.ids = tokenizer, list(before)
        self._from = max(0, len(self.ids) - 6)  # enough to know whether a space is due
        self._until = len(self.ids)  # all before this is told

    def add(self, token: int) -> str:
        """What a token adds to the text: nothing while a character is incomplete."""
        self.ids.append(token)
        new = self.tokenizer.continuation(self.ids[self._from : self._until], self.ids[self._until :])
        return "" if new.endswith("�") else self._told(new)

    def rest(self) -> str:
        """What was held back of a text that has ended, an incomplete character included."""
        return self._told(self.tokenizer.continuation(self.ids[self._from : self._until], self.ids[self._until :]))

    def _told(self, new: str) -> str:
        self._from, self._until = max(self._from, self._until - 2), len(self.ids)
        return new
