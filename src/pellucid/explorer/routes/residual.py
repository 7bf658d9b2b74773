"""The residual stream on its way to an answer: what each state would say, and what each part added."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query

from pellucid.analysis.answers import answers
from pellucid.analysis.contributions import Contributions, contribution_names, direct_logit_attribution
from pellucid.analysis.lens import glimpse
from pellucid.analysis.residual import logit_lens
from pellucid.analysis.streams import written_stream
from pellucid.errors import UserError
from pellucid.explorer.passes import Pass
from pellucid.explorer.routes.given import At, PassId, TensorName
from pellucid.explorer.wire import FOREVER, Json

router = APIRouter(prefix="/passes/{id}")
MOST_POSITIONS = 64  # of one table


@router.get("/lens")
async def lens(
    at: At,
    id: PassId,
    top: Annotated[int, Query(ge=1, le=100)] = 5,
    token: Annotated[int | None, Query(ge=0, le=1 << 60)] = None,
    start: Annotated[int, Query(ge=0)] = 0,
    stop: int | None = None,
    sublayers: bool = False,
) -> Json:
    """The likeliest tokens of every state at some positions, and how likely one token is in each.

    Args:
        token: the one to follow; at each position the likeliest of the last state when left out.
        start, stop: the positions, at most 64.
        sublayers: also the states between a layer's sub-layers.
    """

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        names, positions = _names(held, sublayers=sublayers), _positions(held, start, stop)
        states = torch.stack([held.value(name)[0, positions.start : positions.stop] for name in names])
        model = held.explored.loaded.model
        last = held.value("logits")[0, positions.start : positions.stop].argmax(-1)
        tokens = last if token is None else torch.full_like(last, token)
        found = glimpse(model, states, tokens, top=top)
        pieces = held.explored.loaded.tokenizer.target.pieces
        ids, logits, chances = (part.tolist() for part in (found.ids, found.logits, found.probabilities))
        return {
            "states": names,
            "positions": list(positions),
            "top": [
                [_guesses(*cell, pieces(cell[0])) for cell in zip(*state, strict=True)]
                for state in zip(ids, logits, chances, strict=True)
            ],
            "tokens": _named(held, tokens.tolist()),
            "chosen": found.chosen.tolist(),
            "rank": found.rank.tolist(),
            "entropy": found.entropy.tolist(),
        }

    return Json(await at.do(told), headers=FOREVER)


@router.get("/lens/cell")
async def cell(
    at: At, id: PassId, state: TensorName, position: int, top: Annotated[int, Query(ge=1, le=1000)] = 20
) -> Json:
    """What one state would answer at one position."""

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        if state not in _names(held, sublayers=True):
            raise UserError(f'"{state}"', "is no state of the stream that is read", "a name of /lens")
        states = held.value(state)
        if not -states.size(1) <= position < states.size(1):
            raise UserError("position", f"found {position}", f"0 to {states.size(1) - 1}")
        where = position % states.size(1)
        scores = logit_lens(held.explored.loaded.model, states[:, where : where + 1])
        return {**answers(held.explored.loaded, scores, 0, top).as_dict(), "position": where}

    return Json(await at.do(told), headers=FOREVER)


@router.get("/contributions")
async def contributions(
    at: At,
    id: PassId,
    position: int,
    token: int | None = None,
    against: int | None = None,
    units: Annotated[int, Query(ge=0, le=100)] = 10,
) -> Json:
    """The logit of a token at a position as the sum of what every head and feed-forward network wrote.

    Args:
        token: the likeliest when left out.
        against: another token, whose logit is taken away.
        units: how many of the strongest units of each feed-forward network to name.
    """

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        logits = held.value("logits")
        where, chosen = _asked(logits, position, token, against)
        found = [_apart(held, where, each) for each in chosen]
        captured = [held.value("head.projected")[0, where, each].item() for each in chosen]  # before a softcap
        return {
            "position": where,
            "tokens": _named(held, chosen),
            "logit": _less(captured),
            "total": _less([each.total.item() for each in found]),
            "capped": _less([logits[0, where, each].item() for each in chosen]),
            "embedding": _less([each.embedding.item() for each in found]),
            "bias": _less([each.bias.item() for each in found]),
            "sublayers": [
                _sublayer([each.sublayers[i] for each in found], units) for i in range(len(found[0].sublayers))
            ],
            "edited": bool(held.tape.edits),
        }

    return Json(await at.do(told), headers=FOREVER)


def _sublayer(found: list[Any], units: int) -> dict[str, Any]:
    """One sub-layer's share: of an attention by head, of a feed-forward network by its strongest units."""
    name = found[0].name
    parts = found[0].parts[0, 0] if len(found) == 1 else found[0].parts[0, 0] - found[1].parts[0, 0]
    told = {"name": name, "bias": _less([each.bias.item() for each in found])}
    told["total"] = parts.sum().item() + told["bias"]
    if not name.endswith("feed_forward"):
        return {**told, "parts": parts.tolist(), "units": None}
    strongest = parts.abs().topk(min(units, len(parts))).indices.tolist()
    return {**told, "parts": None, "units": [{"unit": i, "value": parts[i].item()} for i in strongest]}


def _apart(held: Pass, position: int, token: int) -> Contributions:
    """At one position alone: what others wrote is not asked."""
    model = held.explored.loaded.model
    tensors = {}
    for name in contribution_names(model):
        value = held.value(name)
        across = value.dim() - 2  # (B, T, D), of the heads (B, H, T, K)
        tensors[name] = value.narrow(across, position, 1)
    return direct_logit_attribution(model, tensors, torch.tensor([[token]], device=held.value("logits").device))


def _asked(logits: torch.Tensor, position: int, token: int | None, against: int | None) -> tuple[int, list[int]]:
    if logits.dim() != 3:
        raise UserError("contributions", "this model answers for the whole text", "a head over tokens")
    length, size = logits.shape[1:]
    if not -length <= position < length:
        raise UserError("position", f"found {position}", f"0 to {length - 1}")
    where = position % length
    chosen = [int(logits[0, where].argmax()) if token is None else token, *([] if against is None else [against])]
    for each in chosen:
        if not 0 <= each < size:
            raise UserError("token", f"found {each}", f"0 to {size - 1}")
    return where, chosen


def _less(values: list[float]) -> float:
    return values[0] - values[1] if len(values) == 2 else values[0]


def _names(held: Pass, *, sublayers: bool) -> list[str]:
    stream, _ = written_stream(held.explored.loaded.model)
    if not sublayers:
        return stream.states()
    first, *blocks = stream.states()
    between = ("residual_mid", "residual_cross", "residual_post")
    names = (f"{name.removesuffix('residual_post')}{each}" for name in blocks for each in between)
    return [first, *(name for name in names if name in held.tape.entries)]


def _positions(held: Pass, start: int, stop: int | None) -> range:
    length = held.value("logits").size(1)
    end = min(length, start + MOST_POSITIONS) if stop is None else stop
    if not 0 <= start < end <= length or end - start > MOST_POSITIONS:
        raise UserError("positions", f"{start} to {end}", f"at most {MOST_POSITIONS} between 0 and {length}")
    return range(start, end)


def _guesses(ids: list[int], logits: list[float], probabilities: list[float], pieces: list[str]) -> list[Any]:
    rows = zip(ids, pieces, logits, probabilities, strict=True)
    return [{"id": i, "piece": p, "logit": z, "probability": share} for i, p, z, share in rows]


def _named(held: Pass, ids: list[int]) -> list[dict[str, Any]]:
    pieces = held.explored.loaded.tokenizer.target.pieces(ids)
    return [{"id": i, "piece": piece} for i, piece in zip(ids, pieces, strict=True)]
