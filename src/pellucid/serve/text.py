"""Text as it grows: whole characters, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from pellucid.data.tokenizers import Tokenizer
from pellucid.inference.stopping import Release, Spoken, StopStrings


class Growing:
    """The text of a prompt's continuation, some tokens at a time.

    Args:
        tokenizer: of what is written.
        before: the prompt, where the text goes on from it.
        stops: strings before which the text ends.

    Attributes:
        count: the tokens that it took; behind a stop string there may be more, which are none of it.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), stops: Sequence[str] = ()) -> None:
        self.spoken = Spoken(tokenizer, before)
        self.release = Release(StopStrings(tuple(stops))) if stops else None
        self.count = 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was met."""
        return self.release is not None and self.release.is_over

    def add(self, tokens: Sequence[int]) -> str:
        """What is certain now of the text, and was not before."""
        if self.release is None:
            return self._together(tokens)
        told = ""
        for token in tokens:  # one by one, as the text ends at one of them
            if not self.release.is_over:
                self.count += 1
                told += self.release.feed(self.spoken.add(token))
        return told

    def _together(self, tokens: Sequence[int]) -> str:
        """Decoded once for all of them."""
        if not tokens:
            return ""
        self.count += len(tokens)
        self.spoken.ids += tokens[:-1]
        return self.spoken.add(tokens[-1])

    def end(self) -> str:
        """What was held back, when nothing more comes."""
        if self.release is None:
            return self.spoken.rest()
        if self.release.is_over:
            return ""
        rest = self.release.feed(self.spoken.rest())
        return rest if self.release.is_over else rest + self.release.rest()
