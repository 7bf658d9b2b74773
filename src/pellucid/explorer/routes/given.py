"""What every route is given: the session, and the thread that works for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Query, Request

from pellucid.errors import UserError
from pellucid.explorer.session import Session

Result = TypeVar("Result")


class Desk:
    """The session as one request sees it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.session: Session = request.app.state.session

    async def do(self, work: Callable[[], Result]) -> Result:
        """Runs work on models when its turn comes."""
        result: Result = await self.request.app.state.worker.do(self.request, work)
        return result


At = Annotated[Desk, Depends(Desk)]
PassId = Annotated[str, Path(max_length=32)]
ModelKey = Annotated[str, Path(max_length=100)]
TensorName = Annotated[str, Query(max_length=200)]


def numbers(text: str, where: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    Raises:
        UserError: for anything else.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(where, f'found "{text}"', "whole numbers separated by commas") from None
