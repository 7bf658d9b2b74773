"""One thread for all work on models, with a line of bounded length before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from pellucid.errors import UserError

Result = TypeVar("Result")
LONGEST_LINE = 64
GLANCE = 0.1  # seconds between two looks at whether whoever asked is still there


class BusyError(UserError):
    """Too many are waiting."""


class GoneError(Exception):
    """Whoever asked has left."""


class Worker:
    """Runs one piece of work at a time, as torch uses all cores for one anyhow.

    What is waiting when its asker leaves is never begun.
    """

    def __init__(self, longest_line: int = LONGEST_LINE) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explorer")
        self._waiting, self._longest = 0, longest_line

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Work of this program's own, which waits for its turn however long the line is."""
        return self._pool.submit(work)

    async def do(self, request: Request, work: Callable[[], Result]) -> Result:
        """What ``work`` returns.

        Raises:
            BusyError: when the line is full.
            GoneError: when whoever asked has left before it was their turn.
        """
        if self._waiting >= self._longest:
            raise BusyError("server", f"{self._waiting} requests are waiting", hint="try again in a moment")
        self._waiting += 1
        try:
            future: Future[Result] = self._pool.submit(work)
            wrapped = asyncio.wrap_future(future)
            while not wrapped.done():
                await asyncio.wait([wrapped], timeout=GLANCE)
                if not wrapped.done() and await request.is_disconnected() and future.cancel():
                    raise GoneError
            return wrapped.result()
        finally:
            self._waiting -= 1
