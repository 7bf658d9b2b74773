"""Is a table of sines and cosines that of the paper?"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("pos.sinusoid", "quick", "Is the table of sines and cosines right?")
PAPER = "Vaswani et al. 2017, §3.5"


@CHECK
def answer(subject: Subject) -> Finding:
    """Finds fixed tables of numbers in [-1, 1] and compares them with the paper's, interleaved or in halves."""
    tables = _tables(subject)
    if not tables:
        return CHECK.skipped("there is no fixed table of positions")
    done = f"compared {', '.join(tables)} with sin and cos of t / 10000^(2i/D)"
    for name, table in tables.items():
        for offset in (0, 1, 2):
            if any(_near(table, of) for of in _references(table.size(0), table.size(1), offset)):
                break
        else:
            deviation = _toeplitz(table)
            if deviation <= 1e-3:
                return CHECK.warned(done, f"{name} is another table, whose products depend on distance alone")
            return CHECK.failed(
                done,
                f"{name} is another table; products of its rows at one distance deviate by {deviation:.2g}",
                where=name,
                cause="the exponent: 2i/D for both of a pair, i counted in pairs; a precedence, an integer division, or "
                "sine and cosine of different frequencies",
                fix="div = torch.exp(torch.arange(0, D, 2) * (-math.log(10000.0) / D)); pe[:, 0::2] = sin(t * div); "
                "pe[:, 1::2] = cos(t * div)",
                references=(PAPER, "SamLynnEvans/Transformer#25", "zju3dv/LoFTR#41"),
                evidence={"table": name, "deviation": deviation},
                script="# (pe @ pe.T).diagonal(5) must be constant: the product depends on distance alone",
            )
    return CHECK.passed(done, "the same")


def _tables(subject: Subject) -> dict[str, Tensor]:
    """Buffers and parameters (L, D) that are drawn from nothing: the first row holds zeros and ones alone."""
    if subject.module is None:
        return {}
    named = (*subject.module.named_buffers(), *subject.module.named_parameters())
    found = {}
    for name, tensor in named:
        table = tensor.detach().squeeze()
        if table.dim() != 2 or min(table.shape) < 4 or not table.is_floating_point():
            continue
        if bool((table.abs() <= 1 + 1e-4).all()) and _bare(table):
            found[name] = table.float()
    return found


def _bare(table: Tensor) -> bool:
    """Whether it looks like sines and cosines: as many zeros as ones in the first row, or every pair on a circle."""
    first = table[0].float()
    zeros, ones = (first.abs() < 1e-4).sum(), ((first - 1).abs() < 1e-4).sum()
    return int(zeros) == int(ones) == table.size(1) // 2


def _references(length: int, width: int, offset: int) -> list[Tensor]:
    t = torch.arange(offset, length + offset, dtype=torch.float64)[:, None]
    tables = []
    for exponent in (torch.arange(0, width, 2) / width, torch.arange(width // 2) / max(1, width // 2 - 1)):
        angles = t / 10000.0 ** exponent.double()
        sin, cos = angles.sin(), angles.cos()
        tables += [torch.stack([sin, cos], -1).flatten(1), torch.cat([sin, cos], -1), torch.cat([cos, sin], -1)]
        tables.append(torch.stack([cos, sin], -1).flatten(1))
    return tables


def _near(table: Tensor, reference: Tensor) -> bool:
    rows = min(64, table.size(0))  # float32 angles drift far out
    return bool(torch.allclose(table[:rows].double(), reference[:rows], atol=1e-3))


def _toeplitz(table: Tensor) -> float:
    rows = table[:64].double()
    products = rows @ rows.T / rows.size(1)
    return max(float(d.max() - d.min()) for offset in range(1, 32) if (d := products.diagonal(offset)).numel() > 1)
