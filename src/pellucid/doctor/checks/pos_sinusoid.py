"""Is a table of sines and cosines that of the paper?"""

from __future__ import annotations

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.sinusoid import fault, is_reference, products_deviation, tables
from pellucid.doctor.subject import Subject

CHECK = Check("pos.sinusoid", "quick", "Is the table of sines and cosines right?")
PAPER = "Vaswani et al. 2017, §3.5"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares fixed tables of sinusoids with the paper's; another one must tell positions apart as well."""
    found = tables(subject)
    if not found:
        return CHECK.skipped("there is no fixed table of positions")
    done = f"compared {', '.join(found)} with sin and cos of t / 10000^(2i/D)"
    others = {name: table for name, table in found.items() if not is_reference(table)}
    for name, table in others.items():
        if seen := fault(table):
            return CHECK.failed(
                done,
                f"{name} is another table: {seen}",
                where=name,
                cause="the exponent: 2i/D for both of a pair, i counted in pairs; a precedence, an integer division, "
                "or sine and cosine of different frequencies",
                fix="div = torch.exp(torch.arange(0, D, 2) * (-math.log(10000.0) / D)); pe[:, 0::2] = sin(t * div); "
                "pe[:, 1::2] = cos(t * div)",
                references=(PAPER, "SamLynnEvans/Transformer#25", "zju3dv/LoFTR#41"),
                evidence={"table": name, "deviation": products_deviation(table)},
                script=f"""
tensors = {{**dict(model.named_buffers()), **dict(model.named_parameters())}}
table = tensors[{name!r}].detach().squeeze().double()[:64]
products = table @ table.T / table.size(1)  # of the paper's table these depend on distance alone
worst = max((d.max() - d.min()).item() for d in (products.diagonal(offset) for offset in range(1, len(table) // 2)))
assert worst < 1e-3, f"products of rows at one distance differ by up to {{worst:.3g}}"
""",
            )
    if others:
        return CHECK.warned(done, f"{next(iter(others))} is another table, whose products depend on distance alone")
    return CHECK.passed(done, "the same")
