"""Norms, and how large the residual stream is where they stand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Query, Response

from pellucid.analysis.normed import Normed, normed
from pellucid.analysis.streams import Stream, streams_of
from pellucid.errors import UserError
from pellucid.explorer.passes import Pass
from pellucid.explorer.routes.given import At, PassId, TensorName, numbers
from pellucid.explorer.wire import FOREVER, Json, as_bytes
from pellucid.trace.operations import Norm

router = APIRouter(prefix="/passes/{id}")
Place = Annotated[str, Query(alias="at", max_length=50)]
ROWS = ("before", "standard", "gain", "bias", "after")


@router.get("/norms")
async def norms(at: At, id: PassId) -> Json:
    """Every norm that the pass went through, in the order computed."""

    def told() -> list[dict[str, Any]]:
        return [
            {
                "name": entry.name,
                "input": entry.input_names[0],
                "shape": list(entry.shape),
                "kind": entry.module,
                "centred": entry.operation.centred,
                "bias": entry.operation.bias is not None,
                "epsilon": entry.operation.epsilon,
                "formula": entry.operation.formula,
            }
            for entry in at.session.held(id).tape.entries.values()
            if isinstance(entry.operation, Norm)
        ]

    return Json(await at.do(told), headers=FOREVER)


@router.get("/norm")
async def norm(at: At, id: PassId, name: TensorName, place: Place) -> Json:
    """A norm at one place in a few numbers; ``at`` is the place of the vector, as in ``0,3``."""

    def told() -> dict[str, Any]:
        found, captured = _at(at.session.held(id), name, place)
        before, after = found.rms
        return {
            "mean": found.mean,
            "variance": found.variance,
            "epsilon": found.epsilon,
            "deviation": found.deviation,
            "rms": {"before": before, "after": after},
            "error": (found.after - captured.double()).abs().max().item(),
            "rows": list(ROWS),
        }

    return Json(await at.do(told), headers=FOREVER)


@router.get("/norm/vectors")
async def vectors(at: At, id: PassId, name: TensorName, place: Place) -> Response:
    """The same norm's vectors, a row each: before, standard, gain, bias (zeros where there is none), after."""

    def cut() -> Response:
        found, captured = _at(at.session.held(id), name, place)
        bias = torch.zeros_like(found.gain) if found.bias is None else found.bias
        rows = (found.before, found.standard, found.gain, bias, captured.double())
        return as_bytes(torch.stack([row.cpu() for row in rows]))

    return await at.do(cut)


@router.get("/streams")
async def streams(at: At, id: PassId) -> Json:
    """The names of each tower's states, and of what each sub-layer wrote into the stream."""

    def told() -> list[dict[str, Any]]:
        held = at.session.held(id)
        return [
            {"prefix": stream.prefix, "states": _states(held, stream), "written": _written(held, stream)}
            for stream in streams_of(held.explored.loaded.model)
        ]

    return Json(await at.do(told), headers=FOREVER)


@router.get("/streams/rms")
async def sizes(
    at: At, id: PassId, tower: Annotated[str, Query(max_length=20)] = "", of: Literal["states", "written"] = "states"
) -> Response:
    """The root of the mean square of each state, or of what was written, at each position: (names, T)."""

    def cut() -> Response:
        held = at.session.held(id)
        found = {stream.prefix: stream for stream in streams_of(held.explored.loaded.model)}
        if tower not in found:
            raise UserError("tower", f'found "{tower}"', ", ".join(f'"{prefix}"' for prefix in found))
        names = (_states if of == "states" else _written)(held, found[tower])
        return as_bytes(torch.stack([held.value(name)[0].float().square().mean(-1).sqrt() for name in names]))

    return await at.do(cut)


def _states(held: Pass, stream: Stream) -> list[str]:
    """Every state of the stream, each sub-layer's included: a layer begins with what the one before it left."""
    later = tuple(
        f"{stream.block(i)}.residual_{at}" for i in range(stream.num_layers) for at in ("mid", "cross", "post")
    )
    return [f"{stream.block(0)}.residual_pre", *(name for name in later if name in held.tape.entries)]


def _written(held: Pass, stream: Stream) -> list[str]:
    """What each sub-layer added: after the norm on its output, where there is one."""
    found = []
    for i in range(stream.num_layers):
        for kind in ("self_attention", "cross_attention", "feed_forward"):
            name = f"{stream.block(i)}.{kind}"
            normed_out = f"{name}_residual.output.out"
            written = normed_out if normed_out in held.tape.entries else f"{name}.out"
            found += [written] if written in held.tape.entries else []
    return found


def _at(held: Pass, name: str, place: str) -> tuple[Normed, torch.Tensor]:
    """A norm on one vector, and what the model had of it."""
    entry, index = held.tape.entry(name), numbers(place, "at")
    if not isinstance(entry.operation, Norm):
        raise UserError(f'"{name}"', "is no norm", "a name of /norms")
    sizes = entry.shape[:-1]
    if len(index) != len(sizes) or not all(0 <= i < size for i, size in zip(index, sizes, strict=True)):
        raise UserError(f"{name}[{place}]", "no such place", f"{len(sizes)} numbers below {list(sizes)}")
    (operand,) = held.tape.operands(name)
    return normed(entry.operation, operand.value[index]), held.value(name)[index].detach()
