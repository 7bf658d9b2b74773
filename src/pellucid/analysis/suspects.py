"""What could make two models part: every difference of their modules and settings, and how to undo it in B.

How parameters differ is told in :mod:`pellucid.analysis.relations`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn

from pellucid.nn.block import Residual
from pellucid.nn.kernels import explicit
from pellucid.trace import Edit

Repair = Callable[[nn.Module], None]
LEAST = 1e-12  # of a double-precision copy: what is closer is the same

# How much a repair says: it names what was done wrong; it was found from values alone; it only takes what A has.
NAMED, GUESSED, TAKEN, WHOLE = 3, 2, 1, 0


def _nothing(model: nn.Module) -> None:
    """The repair that is an edit alone."""


@dataclass(frozen=True)
class Suspect:
    """Something in which B differs from A.

    Attributes:
        place: the parameter, setting or tensor, by its path.
        what: how it is in B, as a phrase that follows the place.
        remedy: what the repair does, as a phrase that ``makes it agree`` can follow.
        repair: does it to a copy of B.
        edits: does it to tensors of B, where no parameter or setting is to blame.
        weight: how much it says: ``NAMED`` and so on.
        exact: whether the repair gives A's numbers to the last digit, as scaling does not.
        others: further places that differ in the same way, repaired together.
    """

    place: str
    what: str
    remedy: str
    repair: Repair = _nothing
    edits: Mapping[str, Edit] = field(default_factory=dict)
    weight: int = NAMED
    exact: bool = True
    others: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """All of them."""
        return (self.place, *self.others)

    def __str__(self) -> str:
        more = f" (and {len(self.others)} like it)" if self.others else ""
        return f"{self.place} of B{more} {self.what}"


def suspects(a: nn.Module, b: nn.Module) -> list[Suspect]:
    """Every difference of two models that have modules in common; alike ones of several layers together.

    Args:
        a, b: in double precision.
    """
    from pellucid.analysis.relations import parameters

    return _together([*_placements(a, b), *parameters(a, b), *_settings(a, b), *_kernels(a, b), *_structures(a, b)])


def _together(found: Sequence[Suspect]) -> list[Suspect]:
    """Suspects of one kind as one where there are many: a fault is rarely made once a layer by itself."""
    groups: dict[tuple[str, str], list[Suspect]] = {}
    whole = sum(suspect.what == OTHER_VALUES for suspect in found) > MANY
    for suspect in found:
        *path, last = suspect.place.split(".")
        if whole and suspect.what in (MISSING, UNLOADED):
            suspect = replace(suspect, what=OTHER_VALUES, weight=TAKEN)
        if suspect.what in (OTHER_VALUES, OTHER_SHAPE) or suspect.what.startswith(BY_ROUNDING):
            kind = ""  # whatever they are
        elif last in ("weight", "bias"):
            kind = ".".join(["*" if part.isdigit() else part for part in path] + [last])
        else:
            kind = last
        groups.setdefault((kind, suspect.what), []).append(suspect)
    return [_joined(group) for group in groups.values()]


OTHER_VALUES, OTHER_SHAPE = "has other values", "is of another shape"
MISSING, UNLOADED = "is zero, as if it were missing", "is one everywhere, as if it had never been loaded"
BY_ROUNDING = ("is rounded to", "differs by rounding")
MANY = 4  # parameters of other values: more are another model's weights, whose zeros are nothing special


def _joined(group: list[Suspect]) -> Suspect:
    if len(group) == 1:
        return group[0]

    def repair(model: nn.Module) -> None:
        for suspect in group:
            suspect.repair(model)

    remedy = group[0].remedy + f", and {len(group) - 1} like it,"
    others = tuple(place for suspect in group for place in suspect.places)[1:]
    return replace(group[0], remedy=remedy, repair=repair, others=others)


# ---- settings ----------------------------------------------------------------------------------


def _settings(a: nn.Module, b: nn.Module) -> Iterator[Suspect]:
    """Numbers, flags and functions of modules, and tables that are computed."""
    theirs = dict(b.named_modules(remove_duplicate=False))
    for path, module in a.named_modules(remove_duplicate=False):
        other = theirs.get(path)
        if other is None:
            continue
        for name, value in vars(module).items():
            found = vars(other).get(name, value)
            if name.startswith("_") or name in ("training", "kernel") or not (_plain(value) and _plain(found)):
                continue
            if not alike(value, found):
                yield _assigned(path, name, value, found)
        for name, table in module.named_buffers(recurse=False):
            there = dict(other.named_buffers(recurse=False)).get(name)
            if there is not None and not same(table, there):
                yield _buffer(path, name, table, there)


def _plain(value: object) -> bool:
    kinds = (bool, int, float, str, tuple, torch.dtype, partial)
    return value is None or isinstance(value, kinds) or _is_function(value)


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, nn.Module | MethodType | type) and hasattr(value, "__name__")


def alike(a: object, b: object) -> bool:
    """Whether two settings are the same; two partial functions are where their parts are."""
    if isinstance(a, partial) and isinstance(b, partial):
        return a.func == b.func and a.args == b.args and a.keywords == b.keywords
    return bool(a == b)


def _assigned(path: str, name: str, value: object, found: object) -> Suspect:
    place = f"{path}.{name}".lstrip(".")
    what = f"is {shown(found)}, and {shown(value)} in A"
    remedy = f"setting {place} of B to {shown(value)}"
    return Suspect(place, what, remedy, lambda model: setattr(model.get_submodule(path), name, value))


def _buffer(path: str, name: str, table: Tensor, found: Tensor) -> Suspect:
    place = f"{path}.{name}".lstrip(".")
    bases = [frequency_base(table), frequency_base(found)] if name == "frequency" else [None, None]
    if bases[0] is not None and bases[1] is not None:
        what = f"is made with the base {bases[1]:.6g}, and with {bases[0]:.6g} in A"
        remedy, weight = f"making {place} of B with the base {bases[0]:.6g}", NAMED
    elif table.shape == found.shape and found.any() and same(table, found * (ratio := _ratio(table, found)), 1e-5):
        what, remedy, weight = f"is A's times {1 / ratio:.6g}", f"multiplying {place} of B by {ratio:.6g}", NAMED
    else:
        what, remedy, weight = OTHER_VALUES, f"taking A's {place}", TAKEN
    value = table.detach().clone()
    return Suspect(place, what, remedy, lambda model: setattr(model.get_submodule(path), name, value), weight=weight)


def frequency_base(table: Tensor) -> float | None:
    """The base of base^(-2i/W) for i < W/2; ``None`` for numbers that are no such series."""
    if table.dim() != 1 or table.numel() < 2 or abs(table[0].item() - 1) > 1e-6 or not 0 < table[1] < 1:
        return None
    base = table[1].double().item() ** -float(table.numel())
    series = base ** -(torch.arange(table.numel(), dtype=torch.float64) / table.numel())
    return base if same(series, table.double().cpu(), 1e-5) else None


def _ratio(a: Tensor, b: Tensor) -> float:
    return ((a * b).sum() / b.square().sum()).item()


def shown(value: object) -> str:
    """A setting in a few characters."""
    if isinstance(value, partial):
        given = ", ".join([*map(repr, value.args), *(f"{name}={word!r}" for name, word in value.keywords.items())])
        return f"{shown(value.func)}({given})"
    return getattr(value, "__name__", None) or (f"{value:.6g}" if isinstance(value, float) else repr(value))


def same(a: Tensor, b: Tensor, within: float = LEAST) -> bool:
    """Whether two tensors are equal, but for a share of their largest number."""
    if a.shape != b.shape:
        return False
    return a.numel() == 0 or bool((a - b).abs().max() <= within * a.abs().max().clamp(min=1e-30))


# ---- structure ---------------------------------------------------------------------------------


def _kernels(a: nn.Module, b: nn.Module) -> Iterator[Suspect]:
    """How attention is computed, which should make no difference; replaced by the specification."""
    theirs = dict(b.named_modules(remove_duplicate=False))
    for path, module in a.named_modules(remove_duplicate=False):
        other = theirs.get(path)
        kernel, found = getattr(module, "kernel", None), getattr(other, "kernel", None)
        if other is None or found is None or not _is_function(found) or alike(kernel, found):
            continue
        place = f"{path}.kernel".lstrip(".")
        what = f"is {shown(found)}, which does not compute what the explicit one does"
        remedy = f"setting {place} of B to explicit"

        def repair(model: nn.Module, path: str = path) -> None:
            model.get_submodule(path).kernel = explicit  # type: ignore[assignment]

        yield Suspect(place, what, remedy, repair)


def _placements(a: nn.Module, b: nn.Module) -> Iterator[Suspect]:
    """Norms that stand at another place of the residual: pre for post, and with them the last norm."""
    theirs = dict(b.named_modules(remove_duplicate=False))
    moved = [
        path
        for path, module in a.named_modules(remove_duplicate=False)
        if isinstance(module, Residual)
        and isinstance(theirs.get(path), Residual)
        and _norms(module) != _norms(theirs[path])
        and _norms(module) and _norms(theirs[path])
    ]  # fmt: skip
    if not moved:
        return
    ours = dict(a.named_modules(remove_duplicate=False))
    last = [path for path in ours if path.rpartition(".")[2] == "final_norm" and path in theirs]

    def repair(model: nn.Module) -> None:
        for path in moved:
            _move(model.get_submodule(path), ours[path])
        for path in last:
            owner, _, name = path.rpartition(".")
            if isinstance(ours[path], nn.Identity) or isinstance(model.get_submodule(path), nn.Identity):
                setattr(model.get_submodule(owner), name, copy.deepcopy(ours[path]))

    one, other = (" and ".join(_norms(side[moved[0]])) for side in (ours, theirs))
    what = f"has its norms {PLACES[other]}, and {PLACES[one]} in A"
    others = tuple(moved[1:])
    yield Suspect(moved[0], what, f"moving the norms of B {PLACES[one]}", repair, others=others)


PLACES = {
    "before": "before the sub-layer (pre)",
    "after": "after the sum (post)",
    "output": "on the output of the sub-layer",
    "before and output": "before and on the output of the sub-layer (both)",
    "before and after": "before the sub-layer and after the sum",
    "output and after": "on the output of the sub-layer and after the sum",
    "before and output and after": "everywhere",
}


def _norms(residual: nn.Module | Residual) -> tuple[str, ...]:
    return tuple(
        name for name in ("before", "output", "after") if not isinstance(residual.get_submodule(name), nn.Identity)
    )


def _move(residual: nn.Module, pattern: nn.Module) -> None:
    norms = [residual.get_submodule(name) for name in _norms(residual)]
    for name in ("before", "output", "after"):
        wanted = name in _norms(pattern)
        own = norms.pop(0) if wanted and norms else copy.deepcopy(pattern.get_submodule(name))
        setattr(residual, name, own if wanted else nn.Identity())


def _structures(a: nn.Module, b: nn.Module) -> Iterator[Suspect]:
    """Modules of another kind in the same place, such as a norm and none."""
    theirs = dict(b.named_modules(remove_duplicate=False))
    for path, module in a.named_modules(remove_duplicate=False):
        other = theirs.get(path)
        if not path or other is None or type(other) is type(module):
            continue
        owner, _, last = path.rpartition(".")

        def repair(model: nn.Module, owner: str = owner, last: str = last, module: nn.Module = module) -> None:
            setattr(model.get_submodule(owner), last, copy.deepcopy(module))

        none = isinstance(other, nn.Identity)
        what = f"is {'missing' if none else type(other).__name__}, and {type(module).__name__} in A"
        # One of our own modules for another is a choice that was made; of a stranger's the code itself is in question.
        weight = NAMED if type(other).__module__.startswith(("pellucid.", "torch.")) else WHOLE
        yield Suspect(path, what, f"putting A's {path} in its place", repair, weight=weight)
