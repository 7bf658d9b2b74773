"""Tokens and their vectors: pieces and ids, the table's rows, what lies near them."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Response
from torch import Tensor

from pellucid.analysis.embeddings import nearest, norms
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.explorer.passes import Explored
from pellucid.explorer.routes.given import At, ModelKey, TowerPrefix, numbers, stream
from pellucid.explorer.wire import Json, as_bytes
from pellucid.nn.embedding import TokenFront

router = APIRouter(prefix="/models/{key}")
MOST_FOUND = 200
LIVE: dict[str, str] = {}  # a model has no hash in its address, so that what is said of it is not kept


@router.get("/tokens")
async def tokens(
    at: At, key: ModelKey, tower: TowerPrefix = "", ids: Annotated[str, Query(max_length=20_000)] = ""
) -> Json:
    """What some ids stand for."""

    def told() -> list[dict[str, Any]]:
        cut, table = _cut(at.session.model(key), tower)
        wanted = numbers(ids, "ids")
        if unknown := [i for i in wanted if not 0 <= i < len(table)]:
            raise UserError("ids", f"found {unknown[0]}", f"ids from 0 to {len(table) - 1}")
        lengths = norms(table[list(wanted)]).tolist()
        return [_told(cut, i, norm) for i, norm in zip(wanted, lengths, strict=True)]

    return Json(await at.do(told))


@router.get("/vocabulary")
async def vocabulary(
    at: At,
    key: ModelKey,
    tower: TowerPrefix = "",
    find: Annotated[str, Query(max_length=100)] = "",
    most: Annotated[int, Query(ge=1, le=MOST_FOUND)] = 50,
) -> Json:
    """The tokens whose piece holds a text, those that begin with it first, the shortest of them before others."""

    def told() -> dict[str, Any]:
        cut, table = _cut(at.session.model(key), tower)
        pieces = cut.pieces(range(len(table)))
        sought = find.casefold()
        found = [i for i, piece in enumerate(pieces) if sought in piece.casefold()]
        found.sort(key=lambda i: (not pieces[i].strip().casefold().startswith(sought.strip()), len(pieces[i]), i))
        return {
            "size": len(table),
            "found": len(found),
            "entries": [{"id": i, "piece": pieces[i]} for i in found[:most]],
        }

    return Json(await at.do(told))


@router.get("/embedding")
async def embedding(at: At, key: ModelKey, token: int, tower: TowerPrefix = "") -> Response:
    """A token's row of the table."""

    def cut() -> Response:
        _, table = _cut(at.session.model(key), tower)
        return as_bytes(table[_within(token, table)], headers=LIVE)

    return await at.do(cut)


@router.get("/norms")
async def lengths(at: At, key: ModelKey, tower: TowerPrefix = "") -> Response:
    """The length of every token's vector."""
    return await at.do(lambda: as_bytes(norms(_cut(at.session.model(key), tower)[1]), headers=LIVE))


@router.get("/nearest")
async def near(
    at: At,
    key: ModelKey,
    token: int,
    tower: TowerPrefix = "",
    top: Annotated[int, Query(ge=1, le=100)] = 12,
    centred: bool = False,
) -> Json:
    """The tokens whose vectors point the same way."""

    def told() -> dict[str, Any]:
        cut, table = _cut(at.session.model(key), tower)
        found = nearest(table, token, top, centred=centred)
        pieces = cut.pieces([one.id for one in found])
        own = norms(table[token : token + 1]).item()
        return {
            **_told(cut, token, own),
            "size": len(table),
            "neighbours": [{**one.as_dict(), "piece": piece} for one, piece in zip(found, pieces, strict=True)],
        }

    return Json(await at.do(told))


def _cut(explored: Explored, tower: str) -> tuple[Tokenizer, Tensor]:
    """The tokenizer and the table of a tower."""
    front = stream(explored, tower).tower.embedding
    if not isinstance(front, TokenFront):
        raise UserError(
            "tokens", f"this tower reads no tokens, its front is {type(front).__name__}", "one that reads text"
        )
    tokenizer = explored.loaded.tokenizer
    with torch.no_grad():
        return (tokenizer.target if tower == "decoder." else tokenizer), front.table.weight.detach()


def _within(token: int, table: Tensor) -> int:
    if not 0 <= token < len(table):
        raise UserError("token", f"found {token}", f"ids from 0 to {len(table) - 1}")
    return token


def _told(cut: Tokenizer, i: int, norm: float) -> dict[str, Any]:
    (piece,) = cut.pieces([i])
    return {"id": i, "piece": piece, "raw": cut.raw.id_to_token(i), "special": i in cut.special_ids, "norm": norm}
