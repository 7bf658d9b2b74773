"""Errors a user can fix: where it happened, what was found, what was expected, what to try."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PellucidError(Exception):
    """Base of every error this package raises on purpose. The command line prints it and exits with code 2."""


class UserError(PellucidError):
    """Something the user can fix, told as one paragraph.

    Args:
        where: the file, setting or argument concerned, e.g. ``model.d_model`` or ``corpus.txt, line 7``.
        found: what is there.
        expected: what should be there.
        hint: what to try; ends up as the last sentence.
    """

    def __init__(self, where: object, found: str, expected: str = "", hint: str = "") -> None:
        self.where, self.found, self.expected, self.hint = str(where), found, expected, hint
        sentence = f"{where}: {found}" + (f"; expected {expected}" if expected else "")
        text = sentence + (f". {hint[0].upper()}{hint[1:]}" if hint else "")
        super().__init__(text if text.endswith("?") else text + ".")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str, str]]:
        """Made again of its parts, so that one process can tell another."""
        return type(self), (self.where, self.found, self.expected, self.hint)


class ConfigError(UserError):
    """A setting with a value that cannot work."""


class DataError(UserError):
    """A file or data set that cannot be read as what it should be."""


class CheckpointError(UserError):
    """A run folder or weight file that is missing, torn or foreign."""


class TrainingError(UserError):
    """A run that cannot go on, such as one whose loss is no longer finite."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known word, or all of them when none is close."""
    known = list(known)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else "known: " + ", ".join(known)
