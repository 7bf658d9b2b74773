"""How a model knows where a token stands, from the modules that tell it; and words that change places."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Response
from torch import Tensor

from pellucid.analysis.places import biases, codes, exchanged, likeness, moved, pair_products, turned, turned_pairs
from pellucid.errors import UserError
from pellucid.explorer.passes import Explored, Pass
from pellucid.explorer.routes.given import At, Index, ModelKey, PassId, TensorName, TowerPrefix, check_head, stream
from pellucid.explorer.wire import FOREVER, Json, as_bytes
from pellucid.models.tower import Tower
from pellucid.nn.positions import RotaryPositions

router = APIRouter()
LIVE: dict[str, str] = {}
Length = Annotated[int, Query(ge=1, le=2048)]
Reach = Annotated[int, Query(ge=1, le=1024)]


@router.get("/models/{key}/positions")
async def positions(at: At, key: ModelKey, tower: TowerPrefix = "") -> Json:
    """The scheme of a tower: its kind and numbers."""

    def told() -> dict[str, Any]:
        explored = at.session.model(key)
        about = next(one for one in explored.description["towers"] if one["prefix"] == stream(explored, tower).prefix)
        found: dict[str, Any] = {**about["positions"], "causal": about["causal"]}
        module = stream(explored, tower).tower
        if isinstance(module.rotation, RotaryPositions):
            found["pairs"] = turned_pairs(module.rotation)
            found["frequencies"] = module.rotation.frequency.tolist()
        frequency = getattr(getattr(module.embedding, "positions", None), "frequency", None)
        if isinstance(frequency, Tensor):
            found["frequencies"] = frequency.tolist()
        return found

    return Json(await at.do(told))


@router.get("/models/{key}/positions/codes")
async def added(at: At, key: ModelKey, length: Length, tower: TowerPrefix = "", alike: bool = False) -> Response:
    """The vectors added to the first positions (T, D), or the cosines between them (T, T)."""

    def cut() -> Response:
        vectors = codes(stream(at.session.model(key), tower).tower, length)
        return as_bytes(likeness(vectors) if alike else vectors, headers=LIVE)

    return await at.do(cut)


@router.get("/models/{key}/positions/biases")
async def bias(at: At, key: ModelKey, reach: Reach, tower: TowerPrefix = "") -> Json:
    """What is added to the scores of keys up to ``reach`` positions away, those before the query first."""

    def told() -> dict[str, Any]:
        module = stream(at.session.model(key), tower).tower
        ahead = list(range(-reach, 1 if module.causal else reach + 1))
        numbers, buckets = biases(module, ahead)
        return {"ahead": ahead, "heads": numbers.tolist(), "buckets": buckets}

    return Json(await at.do(told))


@router.get("/passes/{id}/turned")
async def apart(at: At, id: PassId, site: TensorName, head: Index, query: Index, key: Index, reach: Reach = 64) -> Json:
    """A query at its own place, a key at every distance before it, and what each pair adds to their product."""

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        tower, rotation = _rotation(held, site)
        q, k = _unturned(held, f"{site}.q", head, query), _unturned(held, f"{site}.k_new", head, key)
        distances = list(range(0 if tower.causal else -reach, reach + 1))
        if query - key not in distances:
            distances = sorted({*distances, query - key})
        (own,), keys = turned(rotation, q, [query]), turned(rotation, k, [query - distance for distance in distances])
        return {
            "distances": distances,
            "own": query - key,
            "pairs": turned_pairs(rotation),
            "query": own.tolist(),
            "keys": keys.tolist(),
            "parts": pair_products(rotation, own, keys).tolist(),
        }

    return Json(await at.do(told), headers=FOREVER)


@router.get("/passes/{id}/moved")
async def gone(
    at: At,
    id: PassId,
    other: Annotated[str, Query(max_length=32)],
    first: Index,
    second: Index,
    tower: TowerPrefix = "",
) -> Json:
    """How far each token's state went, layer by layer, when two tokens had changed places in the other pass."""

    def told() -> dict[str, Any]:
        before, after = at.session.held(id), at.session.held(other)
        names = stream(before.explored, tower).states()
        order = exchanged(before.tape.entry(names[0]).shape[1], first, second)
        here, there = (torch.stack([held.value(name)[0] for name in names]) for held in (before, after))
        return {"states": names, "order": order, "moved": moved(here, there, order).tolist()}

    return Json(await at.do(told), headers=FOREVER)


def _rotation(held: Pass, site: str) -> tuple[Tower, RotaryPositions]:
    explored: Explored = held.explored
    prefix = next((one for one in ("encoder.", "decoder.") if site.startswith(one)), "")
    tower = stream(explored, prefix).tower
    if not isinstance(tower.rotation, RotaryPositions) or not site.endswith(".self_attention"):
        raise UserError(site, "queries and keys are not turned here", "self-attention of a tower with rotary positions")
    return tower, tower.rotation


def _unturned(held: Pass, name: str, head: int, place: int) -> Tensor:
    """A query or a key before it is turned; of a query head the key of its group."""
    value: Tensor = held.tape.operands(name)[0].value
    heads = held.tape.entry(f"{name.rsplit('.', 1)[0]}.q").shape[1]
    check_head(name, head, place, heads, value.size(2))
    return value[0, head * value.size(1) // heads, place]
