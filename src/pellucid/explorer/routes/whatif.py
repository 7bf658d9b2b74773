"""What if: how far an edited pass is from a plain one, and which heads an answer hangs on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from torch import Tensor

from pellucid.analysis.causal import Site, ablation, mean_activations
from pellucid.analysis.shift import shift
from pellucid.analysis.streams import streams_of
from pellucid.errors import UserError
from pellucid.explorer.passes import Pass
from pellucid.explorer.routes.given import At, PassId
from pellucid.explorer.wire import as_bytes, lines

router = APIRouter(prefix="/passes/{id}")
AT_ONCE = 4  # heads of one piece of work, so that others get their turn


@router.get("/shift")
async def shifted(
    at: At, id: PassId, minus: Annotated[str, Query(max_length=32)], prefix: Annotated[str, Query(max_length=20)] = ""
) -> Response:
    """How far the residual stream of a tower is from that of another pass: (states, positions)."""

    def measured() -> Tensor:
        changed, plain = at.session.held(id), at.session.held(minus)
        streams = {stream.prefix: stream for stream in streams_of(changed.explored.loaded.model)}
        if prefix not in streams:
            raise UserError("prefix", f'found "{prefix}"', ", ".join(f'"{known}"' for known in streams))
        return shift(changed.tape.tensors, plain.tape.tensors, streams[prefix].states())

    return as_bytes(await at.do(measured))


@router.get("/sweep")
async def sweep(
    at: At, id: PassId, position: int, token: Annotated[int, Query(ge=0)], by: Literal["zero", "mean"] = "zero"
) -> StreamingResponse:
    """Takes every head away in turn: a line of JSON for each, with what is left of the chosen answer."""
    held = await at.do(lambda: at.session.held(id))
    before, work = await at.do(lambda: _before(held, position, token))

    async def found() -> AsyncIterator[dict[str, Any]]:
        heads = [Site(name, head) for name, count in _contexts(held) for head in range(count)]
        yield {"total": len(heads), "before": before}
        done = 0
        for start in range(0, len(heads), AT_ONCE):
            for line in await at.do(partial(work, heads[start : start + AT_ONCE], by)):
                done += 1
                yield {"done": done, **line}

    return lines(found())


def _contexts(held: Pass) -> Iterator[tuple[str, int]]:
    """The contexts of all attentions and how many heads each has."""
    for name, entry in held.tape.entries.items():
        if name.endswith("attention.context"):
            yield name, entry.shape[1]


def _before(held: Pass, position: int, token: int) -> tuple[float, Any]:
    """The log-probability of the answer, and a function that takes some heads away.

    Raises:
        UserError: for an answer that the model does not give.
    """
    logits = held.value("logits")
    rows = logits if logits.dim() == 3 else logits[:, None]
    if not (-rows.size(1) <= position < rows.size(1) and token < rows.size(2)):
        raise UserError("answer", f"{token} at position {position}", f"of the shape {list(rows.shape[1:])}")

    def metric(output: Tensor) -> Tensor:
        scores = output if output.dim() == 3 else output[:, None]
        return scores[:, position].double().log_softmax(dim=-1)[:, token]

    def work(some: Sequence[Site], by: str) -> list[dict[str, Any]]:
        model = held.explored.loaded.model
        names = {site.name: held.value(site.name) for site in some}
        means = None
        if by == "mean":
            means = {name: value for one in names for name, value in mean_activations(names, one).items()}
        with torch.inference_mode():
            effects = ablation(model, held.again, some, metric, means=means)
        return [
            {"site": site.name.removesuffix(".context"), "head": site.head, "effect": effect}
            for site, effect in zip(some, effects[:, 0].tolist(), strict=True)
        ]

    return metric(logits)[0].item(), work
