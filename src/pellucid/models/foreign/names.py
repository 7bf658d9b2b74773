"""Our names for the tensors of a model of ``transformers``, from the same table by which its weights are read."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from pellucid.models.build import build_empty
from pellucid.models.foreign.folder import layout_of, places_among
from pellucid.models.foreign.layout import Folder
from pellucid.models.foreign.settings import Settings
from pellucid.models.foreign.table import Row

SITE = ("q", "k", "v", "mask", "scores", "weights", "context")
PROJECTIONS = ("query", "key", "value")

# What a module returns has a name of its own here, where it is not the module's with ``.out``.
RETURNED = {
    "feed_forward.up": "feed_forward.pre",
    "feed_forward.gate": "feed_forward.gate",
    "feed_forward.down": "feed_forward.out",
    "self_attention.out": "self_attention.out",
    "cross_attention.out": "cross_attention.out",
    "head.project": "head.projected",
    "head.dense": "head.dense",
}


def our_names(model: nn.Module) -> dict[str, str]:
    """For tensors of a tape of another's model, what they are called in ours: ``trace(model, inputs, names=…)``.

    Attention, feed-forward, norms and the head; what has no counterpart keeps its own name.

    Raises:
        ConfigError: for an architecture or a setting that is not supported.
    """
    told = model.config.to_dict()  # type: ignore[operator, union-attr]
    settings = Settings(told | {"architectures": [type(model).__name__]}, type(model).__name__)
    layout = layout_of(settings)
    names = list(model.state_dict())
    described = layout.read(Folder(settings, names))
    rows = [row for place in places_among(names, layout, build_empty(described)) for row in place.rows]
    return dict(_of_rows(rows))


def _of_rows(rows: list[Row]) -> Iterator[tuple[str, str]]:
    attention: dict[str, list[str]] = {}
    biases = {name: row.theirs for row in rows for name in row.ours}
    for row in rows:
        if not row.theirs.endswith(".weight"):
            continue
        theirs, ours = row.theirs.removesuffix(".weight"), [name.removesuffix(".weight") for name in row.ours]
        for name in ours:
            owner, _, last = name.rpartition(".")
            if owner.endswith("attention") and last in PROJECTIONS:
                attention.setdefault(owner, []).append(theirs)
        # A bias that another module adds makes what the two return different things.
        whole = biases.get(f"{ours[0]}.bias", f"{theirs}.bias") == f"{theirs}.bias"
        if len(ours) == 1 and whole and (returned := _returned(ours[0])) is not None:
            yield f"{theirs}.out", returned
    for owner, modules in attention.items():
        path = _around(modules)
        yield from ((f"{path}.{part}", f"{owner}.{part}") for part in SITE)


def _returned(ours: str) -> str | None:
    for module, name in RETURNED.items():
        if ours == module or ours.endswith(f".{module}"):
            return ours.removesuffix(module) + name
    is_norm = ours.rpartition(".")[2] in ("before", "after", "output", "norm", "final_norm")
    return f"{ours}.out" if is_norm else None


def _around(modules: list[str]) -> str:
    """The module in which all of these are."""
    shared = modules[0].split(".")[:-1]
    for module in modules:
        parts = module.split(".")
        shared = shared[: next((i for i, part in enumerate(shared) if parts[i] != part), len(shared))]
    return ".".join(shared)
