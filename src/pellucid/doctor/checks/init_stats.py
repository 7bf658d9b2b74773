"""Do the weights start as they do elsewhere?"""

from __future__ import annotations

from torch import nn

from pellucid.doctor.check import Check
from pellucid.doctor.checks.loss_init import fresh
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("init.stats", "quick", "Do the weights start as they do elsewhere?", awake=False)
WIDE, NARROW = 5.0, 0.01
RATIO = (0.1, 10.0)


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
    wide = {name: value for name, value in matrices.items() if value > WIDE}
    evidence = {"largest": max(matrices.values(), default=0.0), "smallest": min(matrices.values(), default=0.0)}
    if wide:
        name = max(wide, key=lambda key: wide[key])
        return CHECK.warned(done, f"{name} has {wide[name]:.2g} times 1/√fan_in", cause="drawn with a deviation of 1, or by "
                            "another rule", fix="0.02, 1/√fan_in or Xavier's", evidence=evidence)  # fmt: skip
    ratio = _tokens_over_positions(subject)
    if ratio is not None and not RATIO[0] <= ratio <= RATIO[1]:
        return CHECK.warned(
            done, f"tokens are {ratio:.2g} times as large as positions",
            cause="embeddings are not multiplied by √d_model where the table is drawn small, or are where it is not",
            fix="make both of one size at the start", evidence=evidence | {"tokens_over_positions": ratio},
            references=("jadore801120/attention-is-all-you-need-pytorch#138",),
        )  # fmt: skip
    return CHECK.passed(done, f"between {evidence['smallest']:.2g} and {evidence['largest']:.2g}", **evidence)


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
