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
                script=_script(subject, name),
            )
    if others:
        return CHECK.warned(done, f"{next(iter(others))} is another table, whose products depend on distance alone")
    return CHECK.passed(done, "the same")


def _script(subject: Subject, name: str) -> str:
    """The table by its name, or as a module gives it; its frequencies against the paper's."""
    module = subject.module
    assert module is not None
    owner, _, attribute = name.rpartition(".")
    if name in dict(module.named_modules()):
        table = f"""
made = []
model.get_submodule({name!r}).register_forward_hook(lambda part, given, found: made.append(found))
call(sample(1)[:1, :1].repeat(1, sample(1).size(1)))  # one token repeated
table = made[0]""".strip()
    else:
        table = f"table = model.get_submodule({owner!r}).{attribute}"
    return f"""
model.eval()
{table}
table = table.detach().squeeze().double()[:64]
middle, sides, D = table[1:-1], table[2:] + table[:-2], table.size(1)
found = (middle * sides).sum(0) / (2 * middle.square().sum(0).clamp_min(1e-9))  # the cosine of each column's frequency
wanted = [10000.0 ** -(torch.arange(0, D, 2) / D), 10000.0 ** -(torch.arange(D // 2) / (D // 2 - 1))]
apart = min((found.sort().values - each.cos().repeat(2).sort().values).abs().max() for each in wanted)
assert apart < 1e-3, "the columns of the table have other frequencies than the paper's, or not two of each"
products = table @ table.T / D  # of sines and cosines in pairs these depend on distance alone
worst = max((line.max() - line.min()).item() for line in map(products.diagonal, range(1, len(table) // 2)))
assert worst < 1e-3, f"products of rows at one distance differ by up to {{worst:.3g}}"
"""
