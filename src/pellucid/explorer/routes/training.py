"""How the model came to be: the course of its run, and the weights that were kept on the way."""

from __future__ import annotations

from fastapi import APIRouter

from pellucid.explorer.course import course_of
from pellucid.explorer.routes.given import At
from pellucid.explorer.wire import Json

router = APIRouter()


@router.get("/training")
async def training(at: At) -> Json:
    """Curves, samples and checkpoints of the run; where there are none, how to get them."""
    return Json(await at.do(lambda: course_of(at.session)))
