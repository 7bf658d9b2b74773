"""Does the learning rate suit where the norms stand?"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.health import blocks, seen
from pellucid.doctor.subject import Subject
from pellucid.doctor.updates import holds_layers, tables_of

CHECK = Check("schedule.warmup", "standard", "Does the learning rate suit the model?", awake=False)
LARGEST, DEEP, STEPS = 1e-2, 6, 2000
ADAPTIVE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")


@CHECK
def answer(subject: Subject) -> Finding:
    """A rate of layers that no Adam survives is a fault. One of tables, or a deep post-norm model without warm-up, is a
    warning.
    """
    spec = subject.spec
    if spec.schedule is None and spec.optimizer is None:
        return CHECK.skipped("nothing says how it is trained", "Spec(optimizer=…, schedule=lambda step: rate)")
    done = f"read the learning rate of the first {STEPS} steps and where the norms stand"
    try:
        rates = _rates(subject)
    except (ArithmeticError, ValueError) as error:
        return _broken(done, f"the schedule raises {type(error).__name__}: {error}", subject)
    if not all(0 <= rate < float("inf") for rate in rates) or not any(rates):
        seen_ = "the rate is negative or not finite at some step" if any(rates) else "the rate is 0 at every step"
        return _broken(done, seen_, subject)
    rates = rates if spec.schedule is not None else [max(map(_initial, _judged(subject)))]
    peak = max(rates)
    adaptive = spec.optimizer is None or type(spec.optimizer).__name__ in ADAPTIVE
    evidence, scheduled = {"first": rates[0], "peak": peak}, _scheduled(subject)
    if scheduled and adaptive and peak > LARGEST >= _now(subject):
        return CHECK.unsure(done, f"what its scheduler makes of {peak:.2g} is not known: Spec(schedule=…)", **evidence)
    if peak > LARGEST and adaptive and (spec.schedule is not None or _of_layers(subject)):
        return CHECK.failed(
            done, f"the rate reaches {peak:.2g}, with Adam",
            cause="a factor that belongs to another schedule (2 in the paper's formula is times d_model^-0.5), or a "
            "rate meant for SGD", fix="3e-4 to 1e-3 for small models, less for large", evidence=evidence,
            references=("OpenNMT/OpenNMT-py#869",), script=_script(subject),
        )  # fmt: skip
    if (tables := _rate_of_tables(subject)) > LARGEST and adaptive and not scheduled:
        return _high_for_tables(done, tables, evidence)
    post = post_norm(subject)
    depth = len(blocks(subject.module)) if subject.module is not None else 0
    if post and adaptive and depth >= DEEP and rates[0] >= 0.5 * peak and not scheduled:
        return CHECK.warned(
            done, f"norms stand after the sum in {depth} layers, and the rate begins at {rates[0]:.2g} of {peak:.2g}",
            cause="post-norm models have large gradients at the start, near the output (Xiong et al. 2020)",
            fix="raise the rate over the first thousands of steps, or put norms before the sub-layers",
            evidence=evidence,
            references=("LiyuanLucasLiu/Transformer-Clinic#16", "arXiv:2002.04745"),
        )  # fmt: skip
    if scheduled:
        return CHECK.passed(
            done, f"its scheduler is given a rate of {peak:.2g}; how it begins is not known without Spec(schedule=…)",
            **evidence,
        )  # fmt: skip
    return CHECK.passed(
        done,
        f"it begins at {rates[0]:.2g} and reaches {peak:.2g}; norms stand {'after' if post else 'before'} the sum",
        **evidence,
    )


def _high_for_tables(done: str, rate: float, evidence: dict[str, float]) -> Finding:
    return CHECK.warned(
        done, f"the rate of tables, prompts or vectors reaches {rate:.2g}, with Adam",
        cause="a rate meant for SGD, unless a recipe has it so: a table of tokens may bear more",
        fix="3e-4 to 1e-3 for small models, less for large", evidence={**evidence, "tables": rate},
    )  # fmt: skip


def _broken(done: str, seen: str, subject: Subject) -> Finding:
    return CHECK.failed(
        done, seen, cause="a formula that counts steps from 1 is given 0, or divides whole numbers",
        fix="print the rate of the first steps", script=_script(subject),
    )  # fmt: skip


def _script(subject: Subject) -> str:
    lines, high = f"rates = [schedule(at) for at in range({STEPS})]", "rates"
    if subject.spec.schedule is None:
        lines = f"""
optimizer = ...  # fill in: as you make it
rate = lambda group: group.get("initial_lr", group["lr"])
rates = [rate(group) for group in optimizer.param_groups]
tables = {{id(model.get_parameter(name)) for name in {_tables(subject)}}}  # which bear more
layers = [each for each in optimizer.param_groups if any(x.dim() > 1 and id(x) not in tables for x in each["params"])]
"""
        high = "map(rate, layers)"
    return f"""
{lines.strip()}
assert any(rates) and all(0 <= each < float("inf") for each in rates), "the rate is 0, negative or not finite"
assert (peak := max({high}, default=0)) <= {LARGEST}, f"the rate reaches {{peak:.3g}}, with Adam"
"""


def post_norm(subject: Subject) -> bool:
    """Whether every layer's output is normed: zero mean or not, its rows have all the same size."""
    if subject.module is None:
        return False
    layers = blocks(subject.module)
    with seen(layers) as outputs:
        subject(subject.batch())
    found = [tensors[0] for tensors in outputs.values() if tensors and tensors[0].dim() == 3]
    return bool(found) and all(_normed(x) for x in found)


def _normed(x: Tensor) -> bool:
    sizes = x.float().square().mean(-1).sqrt()
    return bool((sizes.std() / sizes.mean().clamp_min(1e-30)) < 1e-2)


def _rates(subject: Subject) -> list[float]:
    """Of each step, where a schedule says them; else of each group of the optimizer."""
    spec = subject.spec
    if spec.schedule is not None:
        return [float(spec.schedule(step)) for step in range(STEPS)]
    return [] if spec.optimizer is None else list(map(_initial, spec.optimizer.param_groups))


def _of_layers(subject: Subject) -> list[dict[str, Any]]:
    """The groups of the optimizer that hold matrices of layers, and do not leave them as they are."""
    groups = [] if subject.spec.optimizer is None else subject.spec.optimizer.param_groups
    tables = set() if subject.module is None else tables_of(subject.module)
    return [group for group in groups if holds_layers(group, tables) and _initial(group) > 0]


def _judged(subject: Subject) -> list[dict[str, Any]]:
    """Those groups; all where there are none."""
    assert subject.spec.optimizer is not None
    return _of_layers(subject) or subject.spec.optimizer.param_groups


def _tables(subject: Subject) -> list[str]:
    """The names of what no layer is."""
    tables = set() if subject.module is None else tables_of(subject.module)
    named = () if subject.module is None else subject.module.named_parameters()
    return [name for name, parameter in named if id(parameter) in tables]


def _rate_of_tables(subject: Subject) -> float:
    """The largest rate of the groups that hold none; 0 where there are no such."""
    spec, layers = subject.spec, [id(group) for group in _of_layers(subject)]
    groups = [] if spec.optimizer is None or spec.schedule is not None else spec.optimizer.param_groups
    return max((_initial(group) for group in groups if id(group) not in layers), default=0.0)


def _initial(group: dict[str, Any]) -> float:
    return float(group.get("initial_lr", group["lr"]))


def _now(subject: Subject) -> float:
    return max(float(group["lr"]) for group in _judged(subject))


def _scheduled(subject: Subject) -> bool:
    """Whether a scheduler is attached to the optimizer: what rates it will make is not known from it."""
    spec = subject.spec
    return spec.schedule is None and spec.optimizer is not None and "initial_lr" in spec.optimizer.param_groups[0]
