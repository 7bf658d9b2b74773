"""Do the units of the feed-forward networks fire?"""

from __future__ import annotations

from torch import nn

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.health import ACTIVATIONS, dead, seen
from pellucid.doctor.subject import Subject

CHECK = Check("health.ffn", "standard", "Do the units of the feed-forward networks fire?")
TOKENS = 4096


@CHECK
def answer(subject: Subject) -> Finding:
    """Looks at modules that are activations; units of a ReLU must be positive once, others must vary."""
    if subject.module is None:
        return CHECK.skipped("a callable shows no units", "a module in place of a callable")
    if subject.spec.example is not None:
        return CHECK.skipped("random images and sounds do not tell which units fire")
    modules = {
        name: m
        for name, m in subject.module.named_modules()
        if isinstance(m, ACTIVATIONS) or "Activation" in type(m).__name__ or type(m).__name__.endswith("ReLU")
    }
    if not modules:
        return CHECK.skipped("no activation is a module of its own")
    rows = max(1, TOKENS // subject.length)
    with seen(modules) as outputs:
        subject(subject.batch(rows, seed=60))
    shares = {
        name: dead(found[0], relu=isinstance(modules[name], nn.ReLU | nn.ReLU6))
        for name, found in outputs.items() if found and found[0].dim() >= 2
    }  # fmt: skip
    if not shares:
        return CHECK.skipped("no activation ran")
    done = f"ran {rows * subject.length} random tokens and looked which of the units of {len(shares)} layers ever fire"
    worst = max(shares, key=lambda name: shares[name])
    seen_ = f"in {worst}, {shares[worst]:.0%} never do"
    if shares[worst] > tolerances.DEAD_FAIL:
        return CHECK.failed(
            done, seen_, where=worst,
            cause="a rate that was too high pushed their biases below everything they read, or they are masked",
            fix="lower the rate, warm it up, or take GELU; units that never fire do not learn again",
            references=("OpenNMT/OpenNMT-py#502",), evidence={"dead": shares},
            script=f"""
model.eval()
hidden = []
model.get_submodule({worst!r}).register_forward_hook(lambda part, given, found: hidden.append(found.flatten(0, -2)))
for seed in range(1, 60):
    call(sample(seed))
dead = (torch.cat(hidden).var(0) < 1e-8).float().mean()
assert dead < {tolerances.DEAD_FAIL}, f"{{dead:.0%}} of the units never fire"
""",
        )  # fmt: skip
    if shares[worst] > tolerances.DEAD_WARN:
        return CHECK.warned(done, seen_, where=worst, evidence={"dead": shares})
    return CHECK.passed(done, f"at most {shares[worst]:.0%} never do, in {worst}", dead=shares)
