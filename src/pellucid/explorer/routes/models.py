"""The models of a session."""

from __future__ import annotations

from fastapi import APIRouter

from pellucid.explorer.routes.given import At, ModelKey
from pellucid.explorer.wire import Json

router = APIRouter()


@router.get("/session")
async def session(at: At) -> Json:
    """What there is to look at."""
    return Json(await at.do(at.session.as_dict))


@router.get("/models/{key}")
async def model(at: At, key: ModelKey) -> Json:
    """What a model is made of."""

    def told() -> dict[str, object]:
        explored = at.session.model(key)
        return {**explored.description, **explored.as_dict()}

    return Json(await at.do(told))
