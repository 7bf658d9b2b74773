"""Who looks where: the masks of a pass, and how the scores of one query came about."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from torch import Tensor

from pellucid.analysis.attention import padding_mass
from pellucid.analysis.views import rule_of, seen
from pellucid.explorer.passes import Pass
from pellucid.explorer.routes.given import At, Index, PassId, TensorName, check_head
from pellucid.explorer.wire import FOREVER, Json

router = APIRouter(prefix="/passes/{id}")
MASK = ".mask"


@router.get("/masks")
async def masks(at: At, id: PassId) -> Json:
    """Each mask of a pass: its rule, what it lets through, and how much each head looks at padding."""

    def told() -> list[dict[str, Any]]:
        held = at.session.held(id)
        return [_mask(held, name) for name in held.tape.entries if name.endswith(MASK)]

    return Json(await at.do(told), headers=FOREVER)


@router.get("/scores")
async def scores(at: At, id: PassId, site: TensorName, head: Index, query: Index) -> Json:
    """How one query scored every key: the sum of products, and what was done with it."""

    def told() -> dict[str, Any]:
        held = at.session.held(id)
        name = f"{site}.scores"
        shape = held.tape.entry(name).shape
        check_head(name, head, query, shape[1], shape[2])
        operation: Any = held.tape.entry(name).operation
        operands, had = held.tape.operands(name), held.value(name)[0, head, query].tolist()
        rows = [operation.explain((0, head, query, key), *operands) for key in range(shape[3])]
        groups = held.tape.entry(f"{site}.k").shape[1]
        return {
            "scale": operation.scale,
            "softcap": operation.softcap,
            "group": head * groups // shape[1],
            "groups": groups,
            "keys": [
                {
                    "sum": row.terms.sum().item(),
                    "steps": [{"name": step.name, "value": step.value} for step in row.steps],
                    "captured": captured,
                }
                for row, captured in zip(rows, had, strict=True)
            ],
        }

    return Json(await at.do(told), headers=FOREVER)


def _mask(held: Pass, name: str) -> dict[str, Any]:
    site, entry = name.removesuffix(MASK), held.tape.entry(name)
    origin = entry
    while isinstance(given := origin.inputs[0], str):  # layers that look equally far share one mask
        origin = held.tape.entry(given)
    return {
        "site": site,
        "rule": {**rule_of(given.value), "cross": site.endswith("cross_attention")},
        "edited": list(entry.edited),
        **seen(held.value(name)).as_dict(),
        "padding": _on_padding(held, site),
    }


def _on_padding(held: Pass, site: str) -> list[float] | None:
    """The weight that each head lays on padding; ``None`` where there is none."""
    if held.reading.real is None:
        return None
    reads, writes = held.reading.real[0], held.reading.real[-1]
    queries = writes if site.startswith("decoder.") else reads
    keys = reads if site.endswith("cross_attention") else queries
    weights: Tensor = held.value(f"{site}.weights")
    return padding_mass(weights, keys, queries)[0].tolist()
