"""Do the units of the feed-forward networks fire?"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject
from pellucid.doctor.units import units

CHECK = Check("health.ffn", "standard", "Do the units of the feed-forward networks fire?")
TOKENS = 4096


@CHECK
def answer(subject: Subject) -> Finding:
    """Units of a ReLU must be positive once, others must vary; between two linear layers something must bend."""
    if subject.module is None:
        return CHECK.skipped("a callable shows no units", "a module in place of a callable")
    if subject.spec.example is not None:
        return CHECK.skipped("random images and sounds do not tell which units fire")
    rows = max(1, TOKENS // subject.length)
    with units(subject.module) as found:
        subject(subject.batch(rows, seed=60))
    if found.bare:
        return _linear(found.bare)
    if not found.dead:
        return CHECK.skipped("no hidden layer is seen")
    done = f"ran {rows * subject.length} random tokens and looked which units of {len(found.dead)} layers ever fire"
    worst = max(found.dead, key=lambda name: found.dead[name])
    seen = f"in {worst}, {found.dead[worst]:.0%} never do"
    if found.dead[worst] > tolerances.DEAD_FAIL:
        return CHECK.failed(
            done,
            seen,
            where=worst,
            cause="a rate that was too high pushed their biases below everything they read, or they are masked",
            fix="lower the rate, warm it up, or take GELU; units that never fire do not learn again",
            references=("OpenNMT/OpenNMT-py#502",),
            evidence={"dead": found.dead},
            script=f"""
model.eval()
hidden, reads = [], isinstance(model.get_submodule({worst!r}), torch.nn.Linear)
model.get_submodule({worst!r}).register_forward_hook(
    lambda part, given, found: hidden.append((given[0] if reads else found).flatten(0, -2))
)
for seed in range(1, 60):
    call(sample(seed))
dead = (torch.cat(hidden).var(0) < 1e-8).float().mean()
assert dead < {tolerances.DEAD_FAIL}, f"{{dead:.0%}} of the units never fire"
""",
        )
    if found.dead[worst] > tolerances.DEAD_WARN:
        return CHECK.warned(done, seen, where=worst, evidence={"dead": found.dead})
    return CHECK.passed(done, f"at most {found.dead[worst]:.0%} never do, in {worst}", dead=found.dead)


def _linear(bare: list[tuple[str, str]]) -> Finding:
    first, second = bare[0]
    return CHECK.failed(
        "compared what linear layers read with what those before them returned",
        f"{second} reads just what {first} returns: two linear layers in a row are one, however wide between them",
        where=second,
        cause="the activation was forgotten, or made and not called",
        fix="down(F.gelu(up(x)))",
        references=("Vaswani et al. 2017, eq. 2",),
        evidence={"pairs": bare[:10]},
        script=f"""
model.eval()
kept = []
model.get_submodule({first!r}).register_forward_hook(lambda part, given, found: kept.append(found))
model.get_submodule({second!r}).register_forward_hook(lambda part, given, found: kept.append(given[0]))
call(sample(1))
assert not torch.equal(kept[0], kept[1]), "nothing stands between the two layers"
""",
    )
