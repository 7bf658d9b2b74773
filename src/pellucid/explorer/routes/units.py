"""The units of feed-forward networks: which are active, what one responds to, what it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query
from torch import Tensor

from pellucid.analysis.streams import matrix
from pellucid.analysis.units import Layer, active, layer_of, token_responses, unit_effect
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.explorer.passes import Pass
from pellucid.explorer.routes.given import At, PassId
from pellucid.explorer.wire import FOREVER, Json
from pellucid.models.checkpoint import Loaded

router = APIRouter(prefix="/passes/{id}")
Site = Annotated[str, Query(max_length=200)]
Result = TypeVar("Result")
MOST_NAMED = 4096  # units that are listed as dead


@router.get("/units")
async def units(
    at: At,
    id: PassId,
    site: Site,
    position: int,
    top: Annotated[int, Query(ge=1, le=1000)] = 40,
    by: Literal["activation", "written"] = "activation",
) -> Json:
    """The units of a layer, the most active at a position first, and how many are active at all."""

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        layer = layer_of(held.explored.loaded.model, site)
        hidden = held.value(layer.hidden)[0]
        where = _position(position, len(hidden))
        on, written = active(layer, _tensors(held, layer)), hidden[where].abs() * matrix(layer.network.down).norm(dim=0)
        order = (hidden[where] if by == "activation" else written).sort(descending=True, stable=True).indices
        dead = (~on.any(0)).nonzero()[:, 0]
        return {
            "site": site,
            "position": where,
            "units": hidden.size(1),
            "entries": [
                {
                    "unit": i,
                    **_drives(held, layer, where, i),
                    "written": written[i].item(),
                    "active": bool(on[where, i]),
                }
                for i in order[:top].tolist()
            ],
            "active": on.float().mean(1).tolist(),
            "share": on.float().mean().item(),
            "dead": {"count": len(dead), "units": dead[:MOST_NAMED].tolist()},
        }

    return Json(await at.do(told), headers=FOREVER)


@router.get("/unit")
async def unit(
    at: At,
    id: PassId,
    site: Site,
    unit: Annotated[int, Query(ge=0)],
    position: int,
    top: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Json:
    """One unit: the text's tokens at which it is most active, the tokens it responds to, and those it promotes."""

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        loaded, model = held.explored.loaded, held.explored.loaded.model
        layer = layer_of(model, site, unit)
        where = _position(position, held.value(layer.hidden).size(1))
        responses, why_no_responses = _or_why(lambda: token_responses(model, site, unit))
        effect, why_no_effect = _or_why(lambda: unit_effect(model, _tensors(held, layer), site, unit, where))
        hidden = held.value(layer.hidden)[0, :, unit]
        writes = layer.stream.prefix == "decoder."
        return {
            "site": site,
            "unit": unit,
            "position": where,
            **_drives(held, layer, where, unit),
            "reads": {"norm": matrix(layer.network.up)[unit].norm().item()},
            "writes": {"norm": matrix(layer.network.down)[:, unit].norm().item()},
            "order": hidden.sort(descending=True, stable=True).indices.tolist(),
            "active": active(layer, _tensors(held, layer))[:, unit].tolist(),
            "responds": None if responses is None else _ends(responses, _cutter(loaded, writes), top)[0],
            "why_no_responses": why_no_responses,
            "promotes": None if effect is None else _ends(effect.scores, loaded.tokenizer.target, top),
            "exact": effect is not None and effect.exact,
            "why_not": why_no_effect,
        }

    return Json(await at.do(told), headers=FOREVER)


def _tensors(held: Pass, layer: Layer) -> dict[str, Tensor]:
    """What the analyses of one layer ask for."""
    names = (layer.drive, f"{layer.site}.out", layer.stream.states()[-1])
    return {name: held.value(name) for name in names}


def _drives(held: Pass, layer: Layer, position: int, unit: int) -> dict[str, Any]:
    """The numbers of one unit at one position; only a gated one has a gate."""
    names = ("gate", "pre", "hidden") if layer.drive.endswith("gate") else ("pre", "hidden")
    return {"gate": None, **{name: held.value(f"{layer.site}.{name}")[0, position, unit].item() for name in names}}


def _ends(scores: Tensor, tokenizer: Tokenizer, top: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tokens with the highest scores and those with the lowest, the extremes first."""
    order, size = scores.argsort(descending=True, stable=True), min(top, len(scores))
    return _scored(scores, order[:size], tokenizer), _scored(scores, order.flip(0)[:size], tokenizer)


def _scored(scores: Tensor, ids: Tensor, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    rows = zip(ids.tolist(), tokenizer.pieces(ids.tolist()), scores[ids].tolist(), strict=True)
    return [{"id": i, "piece": piece, "score": score} for i, piece, score in rows]


def _cutter(loaded: Loaded, writes: bool) -> Tokenizer:
    """What cuts the texts of a tower."""
    return loaded.tokenizer.target if writes else loaded.tokenizer


def _or_why(work: Callable[[], Result]) -> tuple[Result | None, str]:
    """What cannot be said of this model is part of the answer, with the reason."""
    try:
        return work(), ""
    except UserError as error:
        return None, str(error)


def _position(position: int, length: int) -> int:
    if not -length <= position < length:
        raise UserError("position", f"found {position}", f"0 to {length - 1}")
    return position % length
