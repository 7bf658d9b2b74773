"""How large a model is: what ``pellucid size`` says, for the page to turn its settings."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from pellucid.analysis.machine import MACHINES, THIS, Machine, machine_of
from pellucid.analysis.size import Size, described, published
from pellucid.analysis.size import size as measure
from pellucid.analysis.target import model_of
from pellucid.config.model import Model, stacks
from pellucid.config.presets import PRESETS, UNPUBLISHED
from pellucid.errors import UserError, nearest
from pellucid.explorer.describe import FAMILY, towers_of
from pellucid.explorer.routes.given import At, Desk
from pellucid.explorer.wire import Json

router = APIRouter(prefix="/size")

FAMILIES = ("decoder", "encoder", "encoder-decoder")
MOST_LAYERS = 4096
Setting = Annotated[str, Query(max_length=200)]
Whole = Annotated[int | None, Query(ge=1, le=1 << 60)]


@router.get("/presets")
async def presets(at: At) -> Json:
    """The models that are known by name, with what is published of each, and the machines to reckon for."""
    known = [
        {
            "name": name,
            "family": FAMILY[type(preset.model)],
            "about": described(preset.model),
            "published": published(preset),
        }
        for name, preset in PRESETS.items()
    ]
    unpublished = [{"name": name, "source": source} for name, source in UNPUBLISHED.items()]
    machines = [{"key": key, "name": machine.name, "source": machine.source} for key, machine in MACHINES.items()]
    this = {"key": THIS, "name": "this processor, measured", "source": ""}
    return Json({"presets": known, "unpublished": unpublished, "machines": [*machines, this]})


@router.get("")
async def size(
    at: At,
    target: Annotated[str, Query(max_length=100)] = "main",
    settings: Annotated[list[Setting] | None, Query(max_length=40)] = None,
    batch: Annotated[int, Query(ge=1, le=1 << 40)] = 1,
    length: Whole = None,
    source_length: Whole = None,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    machine: str = "h100",
    utilization: float = 0.4,
    tokens: Whole = None,
    devices: Whole = None,
    checkpointing: bool = False,
) -> Json:
    """Everything that ``pellucid size`` says of a preset, a family or a model of the session."""

    def told() -> dict[str, Any]:
        asked = _target(at, target) if target not in PRESETS else target
        _check_layers(model_of(asked, settings or ()))
        found = measure(
            asked,
            settings or (),
            batch=batch,
            length=length,
            source_length=source_length,
            dtype=dtype,
            machine=_machine(machine),
            utilization=utilization,
            tokens=tokens,
            devices=devices,
            checkpointing=checkpointing,
        )
        return {**found.as_dict(), "shape": _shape(found)}

    return Json(await at.do(told))


def _check_layers(model: Model) -> None:
    """A page asks while somebody types, and what is told of each layer is worked out one by one.

    Raises:
        UserError: for a model deeper than any that will be drawn.
    """
    for stack in stacks(model):
        if stack.num_layers > MOST_LAYERS:
            raise UserError("num_layers", f"found {stack.num_layers:,}", f"at most {MOST_LAYERS:,}")


def _shape(found: Size) -> dict[str, Any]:
    """What the page's sliders stand at."""
    return {"family": FAMILY[type(found.model)], "towers": towers_of(found.model)}


def _target(at: Desk, name: str) -> Model:
    """A config by name. Never a path, nor a name of the hub: a page must not make this machine open either.

    Raises:
        UserError: for a name that is none of a preset, a family or a model of the session, with the nearest.
    """
    if name in PRESETS or name in UNPUBLISHED or name in FAMILIES:
        return model_of(name, ["vocab_size=8000"] if name in FAMILIES else ())
    known = [*at.session.models, *at.session.checkpoints]
    if name in known:
        return at.session.model(name).loaded.model.config
    raise UserError(f'"{name}"', "no such model", hint=nearest(name, [*PRESETS, *UNPUBLISHED, *FAMILIES, *known]))


def _machine(name: str) -> Machine:
    """A machine by name, never by path."""
    if name == THIS:
        return _this()
    if name not in MACHINES:
        known = [*MACHINES, THIS]
        raise UserError(f'machine "{name}"', "not known", "one of " + ", ".join(known), nearest(name, known))
    return machine_of(name)


@cache
def _this() -> Machine:
    """Measured once: it takes some seconds."""
    return machine_of(THIS)
