"""Tables of sines and cosines: where a model holds them, and what is wrong with one.

Each column of such a table is a sinusoid of the position, so that c[t+1] + c[t-1] = 2 cos(ω) c[t], which gives its
frequency ω. Columns in pairs of sine and cosine make the product of two rows depend on their distance alone.

Shapes: L positions, D width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from pellucid.doctor.constant import repeated
from pellucid.doctor.health import seen
from pellucid.doctor.subject import Subject

ROTARY = re.compile(r"(^|[._])(cos|sin)|rope|rotary|freq", re.IGNORECASE)
ROWS, CLOSE = 64, 1e-3
BASE = 10000.0
MISTAKEN = (BASE**2, BASE**0.5, math.exp(math.log10(BASE)))
"""What frequencies are powers of where the exponent is doubled or halved, or a logarithm is taken of another base."""


def tables(subject: Subject) -> dict[str, Tensor]:
    """Name → (L, D): fixed tables of the model, and those that a module makes as it runs."""
    module = subject.module
    if module is None:
        return {}
    found: dict[str, Tensor] = {}
    for name, tensor in (*_held(subject), *_made(subject)):
        table = tensor.detach().squeeze()
        if table.dim() != 2 or min(table.shape) < 4 or not table.is_floating_point() or ROTARY.search(name):
            continue
        # A vocabulary is large, and nothing of it is looked at but its beginning.
        whole = table[: 4 * ROWS].double()
        table = _without_padding(whole)
        if len(table) < 4 or float(table.abs().max()) > 1 + 1e-4:
            continue
        if (_begins(whole) or _oscillates(table)) and not _is_grid(table):
            found[name] = table
    return found


def _held(subject: Subject) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and tensors that are mere attributes."""
    assert subject.module is not None
    yield from subject.module.named_parameters()
    yield from subject.module.named_buffers()
    for path, part in subject.module.named_modules():
        yield from ((f"{path}.{name}".lstrip("."), x) for name, x in vars(part).items() if isinstance(x, Tensor))


def _made(subject: Subject) -> Iterator[tuple[str, Tensor]]:
    """What modules return while one token is read throughout: a table made on the way is among it."""
    if subject.spec.example is not None:
        return
    assert subject.module is not None
    length = min(ROWS, subject.spec.max_length or ROWS)
    parts = {
        name: part
        for name, part in subject.module.named_modules()
        if name and not list(part.children()) and not ROTARY.search(type(part).__name__)
    }
    try:
        with seen(parts) as outputs:
            subject(repeated(subject, length, 1))
    except Exception:  # a longer text than a table of positions that nobody told of
        return
    yield from ((name, found[0]) for name, found in outputs.items() if found and found[0].dim() <= 3)


def _without_padding(table: Tensor) -> Tensor:
    """The longer part beside the one row that is zero throughout: that of the padding, in tables after fairseq's."""
    zero = (table == 0).all(1).nonzero().flatten().tolist()
    if len(zero) != 1:
        return table
    return max(table[: zero[0]], table[zero[0] + 1 :], key=len)


def _begins(table: Tensor) -> bool:
    """Whether its first row is sin 0 and cos 0, as many of each."""
    zeros, ones = (table[0].abs() < 1e-4).sum(), ((table[0] - 1).abs() < 1e-4).sum()
    return abs(int(zeros) - int(ones)) <= table.size(1) % 2 and int(zeros + ones) == table.size(1)


def _oscillates(table: Tensor) -> bool:
    """Whether nearly all of its columns are sinusoids, and some go through more than the start of a period."""
    frequency, rest = frequencies(table)
    size = table[:ROWS].abs().amax(0)
    pure = (rest <= CLOSE) & (size > CLOSE * size.max())  # zeros throughout are no sinusoid
    return float(pure.double().mean()) >= 0.9 and int((pure & (frequency > 0.2)).sum()) >= 2


def _is_grid(table: Tensor) -> bool:
    """Whether columns repeat after some rows: positions of a picture, row by row, which are another matter."""
    changing = (table - table[:1]).abs().amax(0) > CLOSE
    for lag in range(2, min(ROWS, table.size(0) // 2) + 1):
        same = (table[lag:] - table[:-lag]).abs().amax(0) <= 1e-5
        if int((same & changing).sum()) * 4 >= table.size(1):
            return True
    return False


def frequencies(table: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) of the columns in radians a position, and how far each is from a sinusoid, as a share of its largest."""
    rows = table[:ROWS]
    middle, sides = rows[1:-1], rows[2:] + rows[:-2]
    factor = (middle * sides).sum(0) / middle.square().sum(0).clamp_min(1e-30)
    rest = (sides - factor * middle).abs().amax(0) / rows.abs().amax(0).clamp_min(1e-30)
    return torch.acos((factor / 2).clamp(-1, 1)), rest


def is_reference(table: Tensor) -> bool:
    """Whether it is the paper's, interleaved or in halves, of either count of steps, from position 0, 1 or 2."""
    return any(_near(table, of) for offset in (0, 1, 2) for of in _references(table.size(0), table.size(1), offset))


def _references(length: int, width: int, offset: int) -> Iterator[Tensor]:
    t = torch.arange(offset, min(length, ROWS) + offset, dtype=torch.float64)[:, None]
    half = (width + 1) // 2
    for exponent in (torch.arange(0, width, 2) / width, torch.arange(half) / max(1, half - 1)):
        angles = t / BASE ** exponent.double()
        sin, cos = angles.sin(), angles.cos()
        for first, second in ((sin, cos), (cos, sin)):
            yield torch.stack([first, second], -1).flatten(1)[:, :width]
            yield torch.cat([first, second[:, : width - half]], -1)


def _near(table: Tensor, reference: Tensor) -> bool:
    return bool(torch.allclose(table[:ROWS], reference, atol=CLOSE))  # float32 angles drift far out


def fault(table: Tensor) -> str:
    """What is surely wrong with it, in words; empty where it is another table that tells positions apart as well."""
    deviation = products_deviation(table)
    if deviation > CLOSE:
        return f"products of its rows at one distance deviate by {deviation:.2g}: sine and cosine are no pairs"
    rows = table[:ROWS]
    steps = (rows[1:] - rows[:-1]).norm(dim=-1) / rows.norm(dim=-1).max()
    if float(steps.min()) < CLOSE:
        return "rows that follow one another are the same but for rounding: its frequencies are far too low"
    frequency, _ = frequencies(table)
    fast = frequency[frequency > 0.02].sort(descending=True).values
    distinct = torch.unique((fast.log() * 1e3).round()).numel()
    if distinct == 1 and fast.numel() * 2 >= table.size(1):
        return "all of its columns have one frequency"
    base = _base(fast, table.size(1))
    if any(abs(math.log(base / wrong)) < 0.05 for wrong in MISTAKEN):
        return f"its frequencies fall by the powers of {base:.3g} and not of {BASE:.0f}: i/D, 4i/D or log10"
    return ""


def _base(fast: Tensor, width: int) -> float:
    """What the frequencies are powers of, from the ratio of those that follow one another; each comes twice."""
    distinct = fast[::2]
    if distinct.numel() < 2:
        return BASE
    ratio = float((distinct[0] / distinct[-1]).log()) / (distinct.numel() - 1)
    return math.exp(ratio * width / 2)


def products_deviation(table: Tensor) -> float:
    """By how much the product of two rows, over D, varies at one distance."""
    rows = table[:ROWS]
    products = rows @ rows.T / rows.size(1)
    return max(float(d.max() - d.min()) for offset in range(1, 32) if (d := products.diagonal(offset)).numel() > 1)
