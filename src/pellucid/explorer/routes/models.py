"""The models of a session."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from pellucid.analysis.target import model_of
from pellucid.config.presets import PRESETS
from pellucid.errors import UserError, nearest
from pellucid.explorer.describe import described
from pellucid.explorer.routes.given import At, ModelKey
from pellucid.explorer.wire import Json

router = APIRouter()


@router.get("/session")
async def session(at: At) -> Json:
    """What there is to look at."""
    return Json(await at.do(at.session.as_dict))


@router.post("/shown")
async def show(at: At, request: Request, name: Annotated[str, Query(min_length=1, max_length=200)]) -> Json:
    """Takes a picture or a sound, as the bytes of its file; says under which name it is read."""
    content = await request.body()
    return Json({"name": await at.do(lambda: at.session.show(name, content))})


@router.get("/models/{key}")
async def model(at: At, key: ModelKey) -> Json:
    """What a model is made of."""

    def told() -> dict[str, object]:
        explored = at.session.model(key)
        return {**explored.description, **explored.as_dict()}

    return Json(await at.do(told))


@router.get("/architecture")
async def architecture(at: At, target: Annotated[str, Query(max_length=100)]) -> Json:
    """What a published model is made of; of its structure alone, as there are no weights."""

    def told() -> dict[str, object]:
        if target not in PRESETS:  # files and hubs are not the page's to ask for
            raise UserError(f'"{target}"', "no such preset", hint=nearest(target, PRESETS))
        about, known = described(model_of(target)), PRESETS[target]
        towers = about["towers"]
        vocabulary = towers[-1]["front"].get("vocab_size")
        return {**about, "key": "", "name": target, "hash": "", "vocabulary": vocabulary, "source": known.source}

    return Json(await at.do(told))
