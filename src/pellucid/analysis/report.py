"""What :func:`pellucid.diff` found, in words and as a line of bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pellucid.analysis.compare import Diff, Parting

BARS = " ▁▂▃▄▅▆▇█"
FAINT, LOUD = -16.0, 0.0  # powers of ten between which a bar grows
WIDEST, MOST = 72, 8


def told(found: Diff) -> str:
    """All of it, for people."""
    if found.equal:
        return "\n".join([_equal(found), *_notes(found)])
    lines: list[str] = []
    if found.first is not None:
        lines += _parting(found, found.first)
        lines += [f"cause: {cause}" for cause in found.causes[:1]]
        lines += [f"  then {cause.tensor} parts: {cause}" for cause in found.causes[1:]]
        if not found.causes:
            lines.append("cause: unknown; no repair that was tried makes it agree")
    else:
        agreed = len(found.profile)
        lines.append(f"not comparable to the end: {agreed} tensors agree, but what the models return is not among them")
    return "\n".join([*lines, *_grouped(found), *_notes(found)])


def _equal(found: Diff) -> str:
    worst = max(found.profile, key=lambda parting: parting.rounded)
    exact = max(parting.exact for parting in found.profile)
    return (
        f"equal: {len(found.profile)} tensors agree to {worst.rounded:.0e} of their scale (most apart {worst.name}), "
        f"to {exact:.0e} in double precision"
    )


def _parting(found: Diff, first: Parting) -> Iterator[str]:
    before = found.profile.index(first)
    as_run = first.exact <= first.tolerance
    apart, rounding = (first.rounded, first.allowed) if as_run else (first.exact, first.tolerance)
    how = "as the models run, though not in double precision" if as_run else "in double precision"
    yield f"parts at {first.name}: {apart:.1e} of its scale {how}; rounding explains {rounding:.0e}"
    if found.where:
        yield f"  {found.where}"
    yield f"  computed from {', '.join(found.operands)}"
    agreed = max((parting.exact for parting in found.profile[:before]), default=0.0)
    yield f"  the {before} tensors before it agree to {agreed:.0e}"
    later = found.profile[before + 1 :]
    marks = [p for p in later if p.name.endswith(("residual_post", "final_norm.out", "logits"))]
    if marks:
        shown = [*marks[: MOST - 1], marks[-1]] if len(marks) > MOST else marks
        yield "  grows: " + ", ".join(f"{p.name} {max(p.exact, p.rounded if as_run else 0):.0e}" for p in shown)
    yield f"  [{sparkline([p.rounded if as_run else p.exact for p in found.profile])}] 1e-16 … 1, in the order computed"


def sparkline(distances: Sequence[float]) -> str:
    """A bar for each tensor, on a scale of powers of ten; the highest of neighbours where there are many."""
    width = math.ceil(len(distances) / WIDEST)
    return "".join(_bar(max(distances[i : i + width])) for i in range(0, len(distances), width))


def _bar(distance: float) -> str:
    if distance <= 0:
        return BARS[0]
    power = min(LOUD, math.log10(distance)) if math.isfinite(distance) else LOUD
    share = (power - FAINT) / (LOUD - FAINT)
    return BARS[max(1, math.ceil(share * (len(BARS) - 1)))] if share > 0 else BARS[1]


def _grouped(found: Diff) -> Iterator[str]:
    """What cannot be matched: the tensors of one layer as one line, those of another shape as one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    shapes = [line for line in found.unmatched if " only in " not in line]
    for line in found.unmatched:
        name, _, what = line.partition(" ")
        parts = name.split(".")
        cut = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), None)
        if what.startswith("only"):
            groups.setdefault((".".join(parts[:cut]) + ".*" if cut is not None else name, what), []).append(name)
    if shapes:
        yield f"not matched: {len(shapes)} tensor{'s' if len(shapes) > 1 else ''} of another shape, first {shapes[0]}"
    lines = [f"{key if len(names) > 1 else names[0]} {what}" for (key, what), names in groups.items()]
    yield from (f"not matched: {line}" for line in lines[:MOST])
    if len(lines) > MOST:
        yield f"not matched: {len(lines) - MOST} more"


def _notes(found: Diff) -> Iterator[str]:
    """Differences that were not needed to explain what is seen."""
    blamed = {place for cause in found.causes for place in (cause.place, *cause.others)}
    left = [line for line in found.differences if line.split(" ")[0] not in blamed]
    yield from (f"also differs: {line}" for line in left[:MOST])
    if len(left) > MOST:
        yield f"also differs: {len(left) - MOST} more"


# ---- where in a tensor -------------------------------------------------------------------------


def located(a: Tensor, b: Tensor, tolerance: float) -> str:
    """The part of a tensor in which two differ, and the two numbers that do most."""
    a, b = (x.detach().double().cpu() for x in (a, b))
    apart = (a - b).abs()
    both = (a.isfinite() | b.isfinite()) | (a != b)
    apart = torch.where(both, apart.nan_to_num(nan=math.inf, posinf=math.inf), 0.0)
    finite = a[a.isfinite()]
    scale = max(finite.abs().max().item() if finite.numel() else 0.0, 1e-30)
    wrong = apart > tolerance * scale
    if not wrong.any():
        wrong = apart >= apart.max()
    place = torch.unravel_index(apart.argmax(), apart.shape)
    index = tuple(int(i) for i in place)
    parts = [_axis(wrong, axis, word) for axis, word in _axes(a.dim())]
    shown = f"most at {list(index)}: {a[index].item():.6g} in A, {b[index].item():.6g} in B"
    return "; ".join([*filter(None, parts), shown])


def _axes(dimensions: int) -> tuple[tuple[int, str], ...]:
    return {3: ((0, "row"), (1, "position")), 4: ((0, "row"), (1, "head"), (2, "position"))}.get(dimensions, ())


def _axis(wrong: Tensor, axis: int, word: str) -> str:
    others = tuple(i for i in range(wrong.dim()) if i != axis)
    hit = wrong.any(dim=others).nonzero().flatten().tolist()
    size = wrong.size(axis)
    if len(hit) == size:
        return ""
    if len(hit) > 2 and hit == list(range(hit[0], size)):
        return f"from {word} {hit[0]} on"
    listed = ", ".join(map(str, hit[:6])) + (" …" if len(hit) > 6 else "")
    return f"in {word}{'s' if len(hit) > 1 else ''} {listed} of {size} alone"
