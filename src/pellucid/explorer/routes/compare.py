"""Two passes, or the models behind them, side by side."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from pellucid.errors import UserError
from pellucid.explorer.passes import Pass
from pellucid.explorer.routes.given import At, PassId
from pellucid.explorer.wire import FOREVER, Json

router = APIRouter(prefix="/passes/{id}")


@router.get("/partings")
async def partings(at: At, id: PassId, other: str) -> Json:
    """How far every tensor of a pass is from that of another, and the first that parts."""
    from pellucid.analysis.partings import partings as found

    def told() -> dict[str, Any]:
        a, b = at.session.held(id), at.session.held(other)
        return found(list(a.tape.entries), a.value, list(b.tape.entries), b.value).as_dict()

    return Json(await at.do(told), headers=FOREVER)


@router.get("/verdict")
async def verdict(at: At, id: PassId, other: str) -> Json:
    """What ``pellucid diff`` says of the models of two passes when both read what the first one read."""
    from pellucid.analysis.compare import diff

    def told() -> dict[str, Any]:
        a, b = at.session.held(id), at.session.held(other)
        _check_two(a, b)
        found = diff(a.explored.loaded, b.explored.loaded, a.reading.inputs)
        return {**found.as_dict(), "told": str(found)}

    return Json(await at.do(told), headers=FOREVER)


def _check_two(a: Pass, b: Pass) -> None:
    if a.explored.key == b.explored.key:
        hint = "what parts two passes of one model is their inputs and edits"
        raise UserError("verdict", "one model twice", "two models or checkpoints", hint)
