"""Questions of one kind that wait for the model at the same time, answered in one go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any


class Asked:
    """What one request asks.

    Attributes:
        items: of one kind of work.
        has_left: whether nobody waits for it any more.
    """

    def __init__(self, items: list[Any]) -> None:
        self.items, self.has_left = items, False
        self._results: Sequence[Any] | None = None
        self._error: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has its results, or its error."""
        return self._results is not None or self._error is not None

    def done(self, results: Sequence[Any] | None, error: Exception | None = None) -> None:
        """Gives it what it asked for, or says why it gets nothing."""
        self._results, self._error = results, error

    def taken(self) -> Sequence[Any]:
        """Its results, one for each item; raises its error."""
        if self._error is not None:
            raise self._error
        assert self._results is not None
        return self._results


def next_of(line: deque[Asked], most: int) -> list[Asked]:
    """The first of those that still wait, and as many behind it as make at most so many items together."""
    now: list[Asked] = []
    while line and (not now or sum(len(each.items) for each in now) + len(line[0].items) <= most):
        asked = line.popleft()
        if not asked.has_left:
            now.append(asked)
    return now


def answer(now: Sequence[Asked], work: Callable[[list[Any]], Sequence[Any]]) -> None:
    """Does the work of all at once; where that fails each is done alone, so that none has the fault of another."""
    try:
        results = iter(work([item for asked in now for item in asked.items]))
    except Exception as error:
        if len(now) == 1:
            now[0].done(None, error)
            return
        for asked in now:
            answer([asked], work)
        return
    for asked in now:
        asked.done([next(results) for _ in asked.items])
