"""How the parameters of two models differ: transposed, in another order, scaled, exchanged, rounded, missing, untied.

Each is told by what turns one into the other, so that the repair of B takes from A no more than it must.

Shapes: M rows, N columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pellucid.analysis.suspects import MISSING, OTHER_SHAPE, OTHER_VALUES, TAKEN, UNLOADED, Repair, Suspect, same

Parameters = dict[str, nn.Parameter]
Undo = Callable[[Tensor], Tensor | None]

# What published checkpoints store side by side in one matrix.
JOINED = (("query", "key", "value"), ("query", "key"), ("query", "value"), ("key", "value"), ("gate", "up"))


def parameters(a: nn.Module, b: nn.Module) -> Iterator[Suspect]:
    """Every parameter in which B differs, shared ones once, those that were mixed up with one another together."""
    ours, theirs = (dict(model.named_parameters(remove_duplicate=False)) for model in (a, b))
    differing = [
        name for name in ours if (not same(ours[name], theirs[name]) if name in theirs else _could_have(a, b, name))
    ]
    explained: set[str] = set()
    for suspect, names in _mixed(differing, ours, theirs):
        explained.update(names)
        yield suspect
    seen: set[tuple[int, int]] = set()
    for name in differing:
        pair = (id(ours[name]), id(theirs.get(name)))
        if name in explained or pair in seen:
            continue
        seen.add(pair)
        yield _told(name, ours, theirs, a)
    for name in theirs.keys() - ours.keys():
        if _could_have(b, a, name):
            leave_out = _setting(name, lambda x: None, optional=True)
            yield Suspect(name, "is not in A", f"leaving {name} of B out", leave_out)


def _could_have(model: nn.Module, other: nn.Module, name: str) -> bool:
    """Whether the other has the module of a parameter, of the same kind, though not the parameter."""
    path = name.rpartition(".")[0]
    try:
        return type(model.get_submodule(path)) is type(other.get_submodule(path))
    except AttributeError:
        return False


def _told(name: str, ours: Parameters, theirs: Parameters, model: nn.Module) -> Suspect:
    """How one parameter differs, and its repair."""
    a, taken = ours[name].detach(), f"taking A's {name}"
    if name not in theirs:
        return Suspect(name, "is missing", taken, _copying(name, a))
    b = theirs[name].detach()
    if (tied := _tied(name, ours, theirs)) is not None:
        return tied
    for what, remedy, undo, exact in _relations(name, a, b, model):
        if (found := undo(b)) is not None and same(a, found, 1e-12 if exact else 1e-5):
            return Suspect(name, what, f"{remedy} {name} of B", _setting(name, undo), exact=exact)
    if a.shape != b.shape:
        return Suspect(name, OTHER_SHAPE, taken, _copying(name, a), weight=TAKEN)
    if not b.any() and name.endswith("bias"):
        return Suspect(name, MISSING, taken, _copying(name, a))
    if not b.any() or not a.any():
        return Suspect(name, "is zero" + ("" if a.any() else " in A"), taken, _copying(name, a))
    if bool((b == 1).all()):
        return Suspect(name, UNLOADED, taken, _copying(name, a))
    twin = next((other for other, value in ours.items() if other != name and same(value, b)), None)
    if twin is not None:
        return Suspect(name, f"holds A's {twin}", taken, _copying(name, a))
    for kind in (torch.bfloat16, torch.float16):
        if same(a.to(kind).to(a.dtype), b):
            return Suspect(name, f"is rounded to {str(kind).removeprefix('torch.')}", taken, _copying(name, a))
    if same(a, b, 2 * torch.finfo(torch.float32).eps):
        return Suspect(name, "differs by rounding in single precision", taken, _copying(name, a), weight=TAKEN)
    return Suspect(name, OTHER_VALUES, taken, _copying(name, a), weight=TAKEN)


def _tied(name: str, ours: Parameters, theirs: Parameters) -> Suspect | None:
    """A parameter that is another one's in just one of the two."""
    for twin in ours:
        if twin == name or twin not in theirs:
            continue
        shared, there = ours[twin] is ours[name], theirs[twin] is theirs[name]
        if shared and not there and same(ours[twin], theirs[twin]):

            def tie(model: nn.Module, twin: str = twin) -> None:
                _put(model, name, model.get_parameter(twin))

            what = f"stands alone, and is tied to {twin} in A"
            return Suspect(name, what, f"tying {name} of B to {twin}", tie)
        if there and not shared and same(ours[twin], theirs[twin]):
            what = f"is tied to {twin}, and has values of its own in A"
            value = ours[name].detach()

            def untie(model: nn.Module, value: Tensor = value) -> None:
                owner, _, last = name.rpartition(".")
                setattr(model.get_submodule(owner), last, nn.Parameter(value.clone()))

            return Suspect(name, what, f"untying it and taking A's {name}", untie)
    return None


# ---- one parameter -----------------------------------------------------------------------------

Relation = tuple[str, str, Undo, bool]


def _relations(name: str, a: Tensor, b: Tensor, model: nn.Module) -> Iterator[Relation]:
    """What may have been done to a parameter, what undoes it, and whether to the last digit."""
    if a.dim() == 2 and a.shape == b.shape[::-1]:
        yield "is transposed", "transposing", lambda x: x.mT, True
    if a.shape != b.shape:
        return
    yield "has the other sign", "negating", lambda x: -x, True
    ratio = (a * b).sum() / b.square().sum() if b.any() else a.new_zeros(())
    if ratio and abs(ratio.item() - 1) > 1e-4:
        yield f"is A's times {1 / ratio.item():.6g}", f"multiplying by {ratio.item():.6g}", lambda x: x * ratio, False
    for shift in (1, -1):
        yield f"is A's {'minus' if shift > 0 else 'plus'} one", f"adding {shift} to", partial(torch.add, shift), True
    if (head_dim := _head_dim(name, model)) is not None:
        axis = 1 if name.endswith("out.weight") else 0
        by_heads = partial(_ordered, a=a, axis=axis, size=head_dim)
        yield "has its heads in another order", "reordering the heads of", by_heads, True
        pairs = "pairs the coordinates of a head as halves where A interleaves them, or the other way round"
        remedy = "reordering the coordinates of every head of"
        yield pairs, remedy, lambda x: _repaired(x, a, axis, head_dim), True
    for shift in (1, -1, 2, -2):
        if a.dim() == 2 and a.size(0) > 2 * abs(shift):
            what = f"has its rows {abs(shift)} too {'low' if shift > 0 else 'high'}"
            yield what, "moving the rows of", partial(_rolled, shift=-shift), True
    yield "has its rows in another order", "reordering the rows of", lambda x: _ordered(x, a, 0, 1), True
    if a.dim() == 2:
        yield "has its columns in another order", "reordering the columns of", lambda x: _ordered(x, a, 1, 1), True


def _rolled(x: Tensor, shift: int) -> Tensor:
    return x.roll(shift, 0)


def order_of(wanted: Tensor, blocks: Tensor) -> Tensor | None:
    """Which of the ``blocks`` (M, N) is each of the ``wanted`` (M, N); ``None`` where they are not the same rows.

    Both are sorted by what a random vector makes of them: comparing each with each takes too much of a vocabulary.
    """
    if wanted.shape != blocks.shape:
        return None
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(wanted.size(1), generator=draw, dtype=torch.float64).to(wanted)
    ours, theirs = (wanted @ direction).argsort(stable=True), (blocks @ direction).argsort(stable=True)
    order = torch.empty_like(ours)
    order[ours] = theirs
    return order if same(wanted, blocks[order], 1e-9) else None


def _ordered(x: Tensor, a: Tensor, axis: int, size: int) -> Tensor | None:
    """The blocks of ``x`` along an axis in the order in which ``a`` has them."""
    blocks, wanted = (t.movedim(axis, 0).reshape(t.size(axis) // size, -1) for t in (x, a))
    order = order_of(wanted, blocks)
    if order is None:
        return None
    return x.movedim(axis, 0).unflatten(0, (-1, size))[order].flatten(0, 1).movedim(0, axis)


def _repaired(x: Tensor, a: Tensor, axis: int, head_dim: int) -> Tensor | None:
    """The coordinates of each head paired the other way."""
    if head_dim % 2:
        return None
    heads = x.movedim(axis, 0).unflatten(0, (-1, head_dim))
    interleaved = torch.arange(head_dim).view(2, -1).T.flatten()
    for order in (interleaved, interleaved.argsort()):
        found: Tensor = heads[:, order].flatten(0, 1).movedim(0, axis)
        if same(found, a):
            return found
    return None


def _head_dim(name: str, model: nn.Module) -> int | None:
    owner, _, last = name.rpartition(".")
    path, _, part = owner.rpartition(".")
    if part not in ("query", "key", "value", "out") or (part == "out" and last == "bias"):
        return None
    found = getattr(model.get_submodule(path), "head_dim", None)
    return found if isinstance(found, int) else None


# ---- several that were mixed up ----------------------------------------------------------------


def _mixed(differing: Sequence[str], ours: Parameters, theirs: Parameters) -> Iterator[tuple[Suspect, list[str]]]:
    """Parameters that hold each other's rows: exchanged, or a joint matrix that was split the wrong way."""
    done: set[str] = set()
    owners = dict.fromkeys(name.rpartition(".")[0].rpartition(".")[0] for name in differing)
    for owner in owners:
        for parts in JOINED:
            names = [[f"{owner}.{part}.{last}".lstrip(".") for part in parts] for last in ("weight", "bias")]
            wrong = [row for row in names if all(name in theirs and name in differing for name in row)]
            wrong = [row for row in wrong if not done & set(row)]
            if (suspect := _exchanged(wrong, parts, ours, theirs)) is not None:
                done.update(suspect.places)
                yield suspect, list(suspect.places)


def _exchanged(rows: list[list[str]], parts: Sequence[str], ours: Parameters, theirs: Parameters) -> Suspect | None:
    """Weights, and biases in the same order, that are one another's in B."""
    names = rows[0] if rows else []
    wanted, found = ([side[name].detach() for name in names] for side in (ours, theirs))
    if not names or not _of_one_kind(wanted, found):
        return None
    sizes = [a.size(0) for a in wanted]
    order = order_of(*(torch.cat([t.reshape(t.size(0), -1) for t in side]) for side in (wanted, found)))
    if order is None or any(_own_rows(a, b) for a, b in zip(wanted, found, strict=True)):
        return None
    whole = all(any(same(a, b) for b in found) for a in wanted)
    moved = [names]
    for biases in rows[1:]:  # moved with the weights, unless they are where they belong
        ahead, there = (torch.cat([side[name].detach() for name in biases]) for side in (ours, theirs))
        if same(ahead, there[order]):
            moved.append(biases)

    def repair(model: nn.Module) -> None:
        for group in moved:
            joined = torch.cat([model.get_parameter(name).detach() for name in group])[order]
            for name, part in zip(group, torch.split(joined, sizes), strict=True):
                _put(model, name, nn.Parameter(part.clone()))

    listed = f"{', '.join(parts[:-1])} and {parts[-1]}"
    how = "are exchanged" if whole else "hold each other's rows, as of a joint matrix that was split the wrong way"
    remedy = f"exchanging {listed} of B" if whole else f"splitting {listed} of B anew"
    others = tuple(name for group in moved for name in group)[1:]
    return Suspect(names[0], f"is not its own: {listed} {how}", remedy, repair, others=others)


def _of_one_kind(wanted: list[Tensor], found: list[Tensor]) -> bool:
    """Whether tensors can lie side by side, and are as large in both models."""
    shapes = [a.shape for a in wanted]
    return shapes == [b.shape for b in found] and len({shape[1:] for shape in shapes}) == 1


def _own_rows(a: Tensor, b: Tensor) -> bool:
    """Whether a tensor has all its own rows, in whatever order."""
    return order_of(*(t.reshape(t.size(0), -1) for t in (a, b))) is not None


# ---- repairs -----------------------------------------------------------------------------------


def _setting(name: str, undo: Undo, optional: bool = False) -> Repair:
    def repair(model: nn.Module) -> None:
        owner, _, last = name.rpartition(".")
        now = getattr(model.get_submodule(owner), last, None)
        found = undo(now.detach() if isinstance(now, Tensor) else torch.empty(0))
        assert found is not None or optional  # it was tried before
        _put(model, name, None if found is None else nn.Parameter(found.clone()))

    return repair


def _copying(name: str, value: Tensor) -> Repair:
    return _setting(name, lambda _: value)


def _put(model: nn.Module, name: str, value: nn.Parameter | None) -> None:
    """Under every name that the parameter has in the model."""
    owner, _, last = name.rpartition(".")
    old = getattr(model.get_submodule(owner), last, None)
    names = [n for n, p in model.named_parameters(remove_duplicate=False) if p is old and n != name]
    setattr(model.get_submodule(owner), last, value)
    for other in names if name.rpartition(".")[2] == "weight" and value is not None and old is not None else []:
        above, _, end = other.rpartition(".")
        setattr(model.get_submodule(above), end, value)
