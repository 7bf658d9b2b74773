"""Does every parameter take part, and is every one trained?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.trace.calls import tensors_in

CHECK = Check("params.coverage", "standard", "Does every parameter take part?")
DONE = "took gradients of the outputs, watched which modules run, and looked for modules that are not registered"
RARE = re.compile(r"expert|moe|router", re.IGNORECASE)
REFERENCES = ("pytorch/pytorch#666", "Cerebras/modelzoo#85", "Lightning-AI/pytorch-lightning#20099")


@CHECK
def answer(subject: Subject) -> Finding:
    """Four faults: modules in plain lists, modules that never run, parameters without gradient, a stale optimizer."""
    module, spec = subject.module, subject.spec
    if module is None:
        return CHECK.skipped("a callable shows no parameters", "a module in place of a callable")
    if hidden := list(unregistered(module)):
        return _failed(
            f"{hidden[0]} is no registered part of the model: nothing in it is trained, moved or saved",
            "modules are kept in a plain list or dictionary", "nn.ModuleList or nn.ModuleDict", {"hidden": hidden},
            _hidden_script(hidden[0]),
        )  # fmt: skip
    used, gradients = _run(subject)
    if isinstance(used, Finding):
        return used
    idle = [name for name, part in module.named_modules() if _own(part) and part not in used and name]
    silent = [name for name, g in gradients.items() if g is None]
    still = [name for name, g in gradients.items() if g is not None and not bool(g.any())]
    if spec.optimizer is not None and (odd := _optimizer(module, spec.optimizer)):
        return _failed(odd, "the optimizer was made of other parameters than the model has now, or of some twice",
                       "make the optimizer after the model is complete, of model.parameters()", {}, OPTIMIZER)  # fmt: skip
    if "unused" in spec.declare:
        return CHECK.passed(DONE, f"{len(silent)} parameters take no part, as declared", silent=silent)
    never = [name for name in silent if not RARE.search(name)]
    if never and not spec_reads_part(subject, never):
        return _failed(
            f"{never[0]}" + (f" and {len(never) - 1} more" if len(never) > 1 else "") + " have no gradient: "
            + ("their module never runs" if any(never[0].startswith(f"{name}.") for name in idle) else "the graph is cut"),
            "a part is made and never called, or called under no_grad or through detach or .data",
            "call it in forward, or remove it; declare what is meant so: declare={\"unused\"}",
            {"silent": silent, "idle": idle}, _still_script(never),
        )  # fmt: skip
    zero = [name for name in still if not RARE.search(name)]
    if zero:
        return _failed(
            f"{zero[0]}" + (f" and {len(zero) - 1} more" if len(zero) > 1 else "") + " have a gradient of zero throughout",
            "its result is multiplied by zero, masked away or overwritten", "follow its result through forward",
            {"zero": zero}, _still_script(zero),
        )  # fmt: skip
    trained = sum(p.requires_grad for p in module.parameters())
    if silent or still:
        return CHECK.warned(
            DONE, f"{len(silent) + len(still)} parameters took no part in this batch", evidence={"silent": silent}
        )
    if trained < len(list(module.parameters())) and "frozen" not in spec.declare:
        frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
        return CHECK.passed(DONE, f"all {trained} trained parameters have a gradient; {len(frozen)} are not trained")
    return CHECK.passed(DONE, f"all {trained} parameters have a gradient")


def unregistered(module: nn.Module) -> Iterator[str]:
    """Paths of modules and parameters in plain lists, tuples and dictionaries, that are registered nowhere."""
    known = {id(part) for part in module.modules()} | {id(p) for p in module.parameters()}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name.startswith("_") and name not in ("_layers", "_blocks"):
                continue
            for place, item in _items(value):
                trained = isinstance(item, nn.Module) and any(True for _ in item.parameters())
                if (trained or isinstance(item, nn.Parameter)) and id(item) not in known:
                    yield f"{path}.{name}[{place}]".lstrip(".")


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from value.items()


def spec_reads_part(subject: Subject, names: list[str]) -> bool:
    """Whether what is silent belongs to a pooler, beside the outputs that are looked at."""
    return all(re.search(r"pool|classifier|nsp|seq_relationship", name) for name in names)


def _own(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _run(subject: Subject) -> tuple[Any, dict[str, Tensor | None]]:
    """The modules that ran, and the gradient of every trained parameter over two batches."""
    module = subject.module
    assert module is not None
    used: set[nn.Module] = set()
    handles = [part.register_forward_pre_hook(lambda part, _: used.add(part)) for part in module.modules()]
    try:
        with torch.enable_grad():
            total = sum((_scalar(subject, subject.batch(seed=seed)) for seed in (21, 22)), torch.zeros(()))
    finally:
        for handle in handles:
            handle.remove()
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not total.requires_grad:
        return CHECK.unsure(DONE, "the outputs have no gradient"), {}
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return used, dict(zip(named, gradients, strict=True))


def _scalar(subject: Subject, batch: Batch) -> Tensor:
    outputs = subject(batch, grads=True)
    parts = [x.float() for x in tensors_in(outputs).values() if x.is_floating_point()]
    draw = torch.Generator().manual_seed(subject.seed)
    return sum(
        ((x * torch.randn(x.shape, generator=draw).to(x)).sum() for x in parts), torch.zeros((), device=outputs.device)
    )


def _optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    trained = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    missing = [name for key, name in trained.items() if key not in held]
    if missing:
        return (
            f"{missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + " are not in the optimizer"
        )
    return "the optimizer has some parameters twice" if len(held) != len(set(held)) else ""


OPTIMIZER = """
optimizer = ...  # fill in: as you make it
held = [id(p) for group in optimizer.param_groups for p in group["params"]]
missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
assert not missing, f"not in the optimizer: {missing}"
assert len(held) == len(set(held)), "some are in the optimizer twice"
"""


def _hidden_script(place: str) -> str:
    """``place``: a path, and a number or key in a plain list or dictionary."""
    path, _, key = place.removesuffix("]").rpartition("[")
    owner, _, name = path.rpartition(".")
    item = key if key.isdigit() else repr(key)
    return f"""
part = model.get_submodule({owner!r}).{name}[{item}]
parameters = list(part.parameters()) if isinstance(part, torch.nn.Module) else [part]
known = {{id(p) for p in model.parameters()}}
assert all(id(p) in known for p in parameters), "{place} is no registered part of the model"
"""


def _still_script(names: list[str]) -> str:
    return f"""
model.eval()
for seed in (1, 2):
    outputs = call(sample(seed))
    (outputs * torch.randn(outputs.shape)).sum().backward()
gradients = {{name: p.grad for name, p in model.named_parameters()}}
still = [name for name in {names[:8]} if gradients[name] is None or not gradients[name].any()]
assert not still, f"no gradient reaches {{still}}"
"""


def _failed(seen: str, cause: str, fix: str, evidence: dict[str, Any], script: str) -> Finding:
    return CHECK.failed(
        DONE,
        seen,
        cause=cause,
        fix=fix,
        references=REFERENCES,
        evidence=evidence,
        script=script,
    )
