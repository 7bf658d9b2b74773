"""What every route is given: the session, and the thread that works for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Query, Request

from pellucid.analysis.streams import Stream, streams_of
from pellucid.errors import UserError
from pellucid.explorer.passes import Explored
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
TowerPrefix = Annotated[str, Query(max_length=20)]
Index = Annotated[int, Query(ge=0)]


def numbers(text: str, where: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    Raises:
        UserError: for anything else.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(where, f'found "{text}"', "whole numbers separated by commas") from None


def check_head(name: str, head: int, position: int, heads: int, positions: int) -> None:
    """Whether a tensor has a head and a position.

    Raises:
        UserError: where it has not.
    """
    if head >= heads or position >= positions:
        raise UserError(name, f"head {head}, position {position}", f"{heads} heads and {positions} positions")


def stream(explored: Explored, prefix: str) -> Stream:
    """A tower of a model by its prefix: nothing, ``encoder.`` or ``decoder.``.

    Raises:
        UserError: for a tower that the model does not have.
    """
    found = {one.prefix: one for one in streams_of(explored.loaded.model)}
    if prefix not in found:
        raise UserError("tower", f'found "{prefix}"', " or ".join(f'"{known}"' for known in found))
    return found[prefix]
