"""Do the weights start as they do elsewhere?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from pellucid.doctor.check import Check
from pellucid.doctor.checks.loss_init import fresh
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject
from pellucid.doctor.unregistered import unseen

CHECK = Check("init.stats", "quick", "Do the weights start as they do elsewhere?", awake=False)
WIDE, NARROW = 5.0, 0.01
RATIO = (0.1, 10.0)
ROUTER = re.compile(r"router|gate", re.IGNORECASE)
"""Published routers are drawn so on purpose."""

UNIT = (0.8, 1.25)
"""A deviation that was forgotten is one."""


@CHECK
def answer(subject: Subject) -> Finding:
    """Deviation of every matrix over 1/√fan_in, the norms' gains, and tokens against positions."""
    module = subject.module
    if module is None:
        return CHECK.skipped("a callable shows no weights", "a module in place of a callable")
    if fresh(subject) is not True:
        return CHECK.skipped("the weights seem to be trained", "Spec(pretrained=False) for a fresh model")
    stats = {
        name: float(p.float().std()) * p.size(-1) ** 0.5
        for name, p in module.named_parameters()
        if p.dim() == 2 and p.numel() > 64 and bool(p.any())
    }
    tables = {name for name, m in module.named_modules() if isinstance(m, nn.Embedding)}
    matrices = {name: value for name, value in stats.items() if name.rpartition(".")[0] not in tables}
    done = f"took the deviation of {len(matrices)} matrices, as a multiple of 1/√fan_in"
    linear = {f"{path}.weight": m.weight for path, m in module.named_modules() if isinstance(m, nn.Linear)}
    if fault := _fault(linear, matrices):
        return _failed(done, *fault)
    wide = {name: value for name, value in matrices.items() if value > WIDE}
    evidence = {"largest": max(matrices.values(), default=0.0), "smallest": min(matrices.values(), default=0.0)}
    if wide:
        name = max(wide, key=lambda key: wide[key])
        return CHECK.warned(
            done, f"{name} has {wide[name]:.2g} times 1/√fan_in", cause="drawn by another rule",
            fix="0.02, 1/√fan_in or Xavier's", evidence=evidence,
        )  # fmt: skip
    ratio = _tokens_over_positions(subject)
    if ratio is not None and not RATIO[0] <= ratio <= RATIO[1]:
        return CHECK.warned(
            done, f"tokens are {ratio:.2g} times as large as positions",
            cause="embeddings are not multiplied by √d_model where the table is drawn small, or are where it is not",
            fix="make both of one size at the start", evidence=evidence | {"tokens_over_positions": ratio},
            references=("jadore801120/attention-is-all-you-need-pytorch#138",),
        )  # fmt: skip
    count = f"{len(matrices)} matri{'x' if len(matrices) == 1 else 'ces'}"
    told = f"{count}, between {evidence['smallest']:.2g} and {evidence['largest']:.2g}"
    return CHECK.passed(done, told + unseen(module), **evidence)


def _fault(linear: Mapping[str, Tensor], matrices: Mapping[str, float]) -> tuple[str, str, str] | None:
    """A matrix that surely starts wrong: which, what it is, and the cause."""
    for name, weight in linear.items():
        if (
            weight.numel() > 16
            and min(weight.shape) > 1
            and bool((weight == weight.flatten()[0]).all() and weight.any())
        ):
            return name, f"{name} holds one number throughout: all that it computes is the same, and stays so", CONSTANT
    wide = [name for name in linear if matrices.get(name, 0.0) > WIDE and not ROUTER.search(name)]
    unit = [name for name in wide if UNIT[0] < float(linear[name].float().std()) < UNIT[1]]
    if len(unit) > 1:
        seen = f"{unit[0]} and {len(unit) - 1} more are drawn with a deviation of 1, {matrices[unit[0]]:.2g}/√fan_in"
        return unit[0], seen, DRAWN
    return None


CONSTANT = "nn.init.constant_ or ones_ for a matrix: units that begin alike have one gradient, and never part"
DRAWN = "torch.randn, or normal_ without a deviation: sums of many such terms are too large for what follows"


def _failed(done: str, name: str, seen: str, cause: str) -> Finding:
    return CHECK.failed(
        done,
        seen,
        where=name,
        cause=cause,
        fix="nn.init.normal_(weight, std=0.02), 1/√fan_in, or Xavier's",
        references=("Glorot and Bengio 2010",),
        evidence={"parameter": name},
        script=f"""
weight = dict(model.named_parameters())[{name!r}].detach()
assert weight.std() > 0, "one number throughout"
assert weight.std() * weight.size(-1) ** 0.5 < {WIDE}, f"a deviation of {{weight.std():.2g}}"
""",
    )


def _tokens_over_positions(subject: Subject) -> float | None:
    """RMS of the table of tokens over that of positions, where both are tables of the model."""
    module, size = subject.module, subject.spec.vocab_size
    assert module is not None
    tables = [(name, m.weight) for name, m in module.named_modules() if isinstance(m, nn.Embedding)]
    words = [w for name, w in tables if size and abs(w.size(0) - size) <= 512 and "pos" not in name]
    places = [w for name, w in tables if "pos" in name or name.endswith("wpe")]
    if not words or not places or not bool(places[0].any()):
        return None
    return float(words[0].float().square().mean().sqrt() / places[0].float().square().mean().sqrt())
