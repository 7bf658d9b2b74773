"""All heads of a pass at a glance: their maps in small, and what their patterns are like."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Response

from pellucid.errors import UserError
from pellucid.explorer.passes import Pass
from pellucid.explorer.routes.given import At, PassId
from pellucid.explorer.wire import FOREVER, Json, as_bytes

router = APIRouter(prefix="/passes/{id}")


@router.get("/atlas")
async def atlas(
    at: At,
    id: PassId,
    sites: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """The weights of all heads of some sites, in small: (sites · heads, rows, columns)."""

    def drawn() -> Response:
        held = at.session.held(id)
        maps = [held.glance(site).maps for site in _sites(held, sites)]
        if len({each.shape for each in maps}) > 1:
            raise UserError("sites", "maps of different sizes", "sites of one tower and kind")
        return as_bytes(torch.cat(maps), "sqrt8")

    return await at.do(drawn)


@router.get("/heads")
async def heads(at: At, id: PassId) -> Json:
    """What each head's pattern is like."""

    def told() -> list[dict[str, Any]]:
        held = at.session.held(id)
        return [
            {"site": site, "head": head, **measured}
            for site in _sites(held, None)
            for head, measured in enumerate(held.glance(site).patterns)
        ]

    return Json(await at.do(told), headers=FOREVER)


def _sites(held: Pass, wanted: list[str] | None) -> list[str]:
    known = [name.removesuffix(".weights") for name in held.tape.entries if name.endswith(".weights")]
    unknown = [site for site in wanted or () if site not in known]
    if unknown:
        raise UserError("sites", f'found "{unknown[0]}"', ", ".join(known))
    return wanted or known
