"""Passes, and the numbers in them."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Response

from pellucid.errors import UserError
from pellucid.explorer.asked import Input
from pellucid.explorer.routes.given import At, PassId, TensorName, numbers
from pellucid.explorer.wire import FOREVER, Json, as_bytes, part

router = APIRouter(prefix="/passes")


@router.post("")
async def run(at: At, asked: Input) -> Json:
    """Shows an input to a model."""
    return Json(await at.do(lambda: at.session.run(asked).as_dict()))


@router.get("/{id}")
async def known(at: At, id: PassId) -> Json:
    """A pass that has been run."""
    return Json(await at.do(lambda: at.session.held(id).as_dict()))


@router.get("/{id}/tensor")
async def tensor(
    at: At,
    id: PassId,
    name: TensorName,
    part_of: Annotated[str | None, Query(alias="at", max_length=200)] = None,
    encoding: str = "f32",
    minus: Annotated[str | None, Query(max_length=32)] = None,
) -> Response:
    """A part of a tensor, or of its difference from that of another pass, as bytes."""

    def cut() -> Response:
        if encoding != "f32" and minus is None:
            return as_bytes(at.session.held(id).drawn(name, part_of), encoding)
        found = part(at.session.held(id).value(name), part_of, name)
        if minus is not None:
            other = part(at.session.held(minus).value(name), part_of, name)
            if other.shape != found.shape:
                raise UserError(name, f"of shape {list(other.shape)} in the other pass", f"{list(found.shape)}")
            a, b = found.float(), other.float()
            found = torch.where(a == b, 0.0, a - b)  # also where a mask hides both, and both are -inf
        return as_bytes(found, encoding)

    return await at.do(cut)


@router.get("/{id}/statistics")
async def statistics(at: At, id: PassId, name: TensorName) -> Json:
    """A tensor in a few numbers."""
    return Json(await at.do(lambda: at.session.held(id).statistics(name).as_dict()), headers=FOREVER)


@router.get("/{id}/explain")
async def explain(
    at: At,
    id: PassId,
    name: TensorName,
    index: Annotated[str, Query(max_length=200)] = "",
    terms: Annotated[int, Query(ge=1, le=4096)] = 8,
) -> Json:
    """How one number came about."""

    def told() -> dict[str, Any]:
        return at.session.held(id).explain(name, numbers(index, "index"), terms).as_dict()

    return Json(await at.do(told), headers=FOREVER)


@router.get("/{id}/answers")
async def answers(at: At, id: PassId, position: int, top: Annotated[int, Query(ge=1, le=1000)] = 20) -> Json:
    """What the model answers at a position: the likeliest tokens, or the labels."""
    from pellucid.analysis.answers import answers as found

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        return found(held.explored.loaded, held.value("logits"), position, top).as_dict()

    return Json(await at.do(told), headers=FOREVER)
