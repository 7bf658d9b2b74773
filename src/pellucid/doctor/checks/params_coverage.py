"""Does every parameter take part, and is every one trained?"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import gradients_by_name, loss_of
from pellucid.doctor.unregistered import held_in, listed, unregistered
from pellucid.doctor.ways.signature import signature
from pellucid.trace.calls import tensors_in

CHECK = Check("params.coverage", "standard", "Does every parameter take part?")
DONE = "took gradients of the outputs, watched which modules run, and looked for modules that are not registered"
RARE = re.compile(r"expert|moe|router", re.IGNORECASE)
"""Parts that a short batch need not reach."""

ROUTER = re.compile(r"(^|\.)(router|gate)(\.\w+)?\.weight$", re.IGNORECASE)
"""What chooses experts: it must learn from every batch, and has no gradient where its choice alone is used."""

IDLE = 8
"""Neighbouring outputs of a projection, at the least, that are not used where a part of it is forgotten."""

BESIDE = re.compile(r"pool|classifier|nsp|seq_relationship")
"""Heads beside the outputs that are looked at."""

DEFAULTS = ("input_ids", "inputs_embeds", "position_ids", "positions", "token_type_ids", "labels", "targets")
"""Inputs that a model makes for itself, or that the others stand for: no part waits for them."""

REFERENCES = ("pytorch/pytorch#666", "Cerebras/modelzoo#85", "Lightning-AI/pytorch-lightning#20099")


@CHECK
def answer(subject: Subject) -> Finding:
    """What is registered nowhere, a stale optimizer, what no gradient reaches, what the loss does not reach."""
    module = subject.module
    if module is None:
        return CHECK.skipped("a callable shows no parameters", "a module in place of a callable")
    found = dict(unregistered(module))
    ran = _run(subject, found)
    if isinstance(ran, Finding):
        return ran
    gradients, taught = ran.gradients, _taught(subject)
    alive = {name for name in gradients if _any(taught.get(name)) or _any(ran.beside.get(name))}
    return (
        _hidden(module, found, ran.used)
        or _stale(subject)
        or _unreached(subject, ran, alive)
        or _untaught(gradients, taught)
        or _passed(subject, gradients, alive)
    )


@dataclass(frozen=True)
class Ran:
    """What is seen of passes over two batches.

    Attributes:
        used: the modules that ran.
        called: whether the model itself is among them, so that all that it returns is known.
        gradients: of every trained parameter, from the outputs that are looked at.
        beside: from all that the model returns beside each other; empty where there is nothing else.
    """

    used: set[nn.Module]
    called: bool
    gradients: dict[str, Tensor | None]
    beside: dict[str, Tensor | None]


def _hidden(module: nn.Module, found: dict[str, nn.Module | Tensor], used: set[nn.Module]) -> Finding | None:
    """Of what is registered nowhere, that which runs: a teacher kept aside is no fault."""
    hidden = [name for name, part in found.items() if not isinstance(part, nn.Module) or used & {*part.modules()}]
    if not hidden:
        return None
    where, remedy = held_in(module, hidden[0])
    are = "are no registered parts" if len(hidden) > 1 else "is no registered part"
    return _failed(
        f"{listed(hidden)} {are} of the model: nothing in {'them' if len(hidden) > 1 else 'it'} is trained, moved or "
        "saved",
        "modules or parameters are kept in a plain list, dictionary or tensor",
        remedy, {"hidden": hidden}, _hidden_script(hidden[0]), where,
    )  # fmt: skip


def _stale(subject: Subject) -> Finding | None:
    """An optimizer of other parameters than the model has, or of some twice."""
    optimizer, module = subject.spec.optimizer, subject.module
    if optimizer is None or module is None:
        return None
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    missing = [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in held]
    if len(held) != len(set(held)):
        seen = "the optimizer has some parameters twice: they take two steps in one"
    elif missing and "frozen" not in subject.spec.declare:
        seen = f"{_counted(missing)} no place in the optimizer"
    else:
        return None
    return _failed(seen, "the optimizer was made of other parameters than the model has now, or of some twice",
                   "make the optimizer after the model is complete, of model.parameters()", {"missing": missing},
                   OPTIMIZER)  # fmt: skip


def _unreached(subject: Subject, ran: Ran, alive: set[str]) -> Finding | None:
    """Parameters without gradient, or with one of zero throughout; not of heads that the loss alone reads."""
    if "unused" in subject.spec.declare:
        return None
    if not ran.called:  # the call is of some parts of the model, and what the others give is not known
        return _idle_rows(subject, ran.gradients)
    untaught = {name: g for name, g in ran.gradients.items() if name not in alive}
    gradients = {
        name: g for name, g in untaught.items() if not RARE.search(name) or (ROUTER.search(name) and g is None)
    }
    absent = _of_absent(subject, gradients)
    never = [name for name, g in gradients.items() if g is None and name not in absent]
    if never and not all(BESIDE.search(name) for name in never):
        assert subject.module is not None
        idle = [name for name, part in subject.module.named_modules() if name and _own(part) and part not in ran.used]
        aside = any(never[0].startswith(f"{name}.") for name in idle)
        return _failed(
            f"{_counted(never)} no gradient: " + ("their module never runs" if aside else "the graph is cut"),
            "a part is made and never called, or called under no_grad or through detach or .data",
            'call it in forward, or remove it; declare what is meant so: declare={"unused"}',
            {"silent": never, "idle": idle}, _still_script(never), never[0],
        )  # fmt: skip
    zero = [name for name, g in gradients.items() if g is not None and not _any(g)]
    if not zero:
        return _idle_rows(subject, gradients)
    return _failed(
        f"{_counted(zero)} a gradient of zero throughout",
        "its result is multiplied by zero, masked away or overwritten", "follow its result through forward",
        {"zero": zero}, _still_script(zero), zero[0],
    )  # fmt: skip


def _idle_rows(subject: Subject, gradients: dict[str, Tensor | None]) -> Finding | None:
    """A part of one projection of which nothing is used, such as the values of a fused one."""
    assert subject.module is not None
    for path, part in subject.module.named_modules():
        fused = {nn.Linear: "weight", nn.MultiheadAttention: "in_proj_weight"}.get(type(part), "")
        name = f"{path}.{fused}"
        gradient = gradients.get(name)
        if not fused or gradient is None:
            continue
        idle = (gradient == 0).all(1)
        if idle.numel() - int(idle.sum()) == subject.output.size(-1):
            continue  # a table that was rounded up, of which the end is cut off
        lengths = [len(list(run)) for zero, run in itertools.groupby(idle.tolist()) if zero]
        longest = max(lengths, default=0)
        # A share of a fused projection is one of equal parts; rarely used rows of a table are any number.
        if longest >= max(IDLE, idle.numel() // 4) and (idle.numel() % longest == 0 or 3 * longest == 2 * idle.numel()):
            return _failed(
                f"{longest} neighbouring outputs of the {idle.numel()} of {path} have no gradient",
                "a part of a fused projection is used twice and another not at all: keys for values, queries for keys",
                "q, k, v = self.qkv(x).chunk(3, dim=-1), each of them used once",
                {"projection": path, "idle": idle.nonzero().flatten().tolist()}, _idle_script(name, longest),
            )  # fmt: skip
    return None


def _idle_script(name: str, length: int) -> str:
    return f"""
model.eval()
call(sample(1)).float().square().sum().backward()
idle = (dict(model.named_parameters())[{name!r}].grad == 0).all(1).sum()
assert idle < {length}, f"{{idle}} outputs of this projection are not used"
"""


def _of_absent(subject: Subject, gradients: dict[str, Tensor | None]) -> set[str]:
    """Silent parameters whose names, and no live one's, speak of an input that may be given and is not.

    Such as ``encoder_attn`` where ``encoder_hidden_states`` is optional, or ``query_global`` and a global mask.
    """
    inputs = {name for name in signature(subject.model).optional if name not in DEFAULTS}
    words = {word for name in inputs for word in name.lower().split("_") if len(word) > 3}
    live = {word for name, g in gradients.items() if g is not None for word in _words(name)}
    return {
        name for name, g in gradients.items()
        if g is None and any(a.startswith(b) or b.startswith(a) for a in _words(name) - live for b in words)
    }  # fmt: skip


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[._]", name.lower()) if len(word) > 3}


def _taught(subject: Subject) -> dict[str, Tensor | None]:
    """Gradients of the loss over two batches; empty where none can be taken."""
    module, loss = subject.module, loss_of(subject.spec)
    assert module is not None
    if loss is None:
        return {}
    try:
        with subject.mode(False), torch.enable_grad():
            subject.reseed()
            value = loss(module, subject.batch(seed=21)) + loss(module, subject.batch(seed=22))
            return gradients_by_name(module, value)
    except Exception:  # a loss that needs labels: loss.alignment says so
        return {}


def _untaught(gradients: dict[str, Tensor | None], taught: dict[str, Tensor | None]) -> Finding | None:
    """Parameters that the outputs depend on, and the loss does not."""
    if not any(_any(g) for g in taught.values()):
        return None  # no loss, or one that asks nothing of random text
    reached = [name for name, g in gradients.items() if _any(g) and not RARE.search(name)]
    untaught = [name for name in reached if not _any(taught[name])]
    if not untaught:
        return None
    return _failed(
        f"{_counted(untaught)} no gradient of the loss, though the outputs depend on it",
        "the loss is taken of another output, or of one that is detached", "take the loss of what the model gives",
        {"untaught": untaught}, _untaught_script(untaught),
    )  # fmt: skip


def _passed(subject: Subject, gradients: dict[str, Tensor | None], alive: set[str]) -> Finding:
    assert subject.module is not None
    names = [name for name, g in gradients.items() if not _any(g) and name not in alive]
    if names and "unused" in subject.spec.declare:
        return CHECK.passed(DONE, f"{len(names)} parameters take no part, as declared", silent=names)
    if names:
        return CHECK.warned(DONE, f"{len(names)} parameters took no part in this batch", evidence={"silent": names})
    frozen = [name for name, p in subject.module.named_parameters() if not p.requires_grad]
    more = f"; {len(frozen)} are not trained" if frozen else ""
    return CHECK.passed(DONE, f"all {len(gradients)} trained parameters have a gradient{more}")


def _any(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _counted(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more have" if len(names) > 1 else f"{names[0]} has"


def _own(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _run(subject: Subject, hidden: dict[str, nn.Module | Tensor]) -> Ran | Finding:
    """Passes over two batches, and the gradients of what they give."""
    module = subject.module
    assert module is not None
    used: set[nn.Module] = set()
    returned: list[Any] = []
    parts = [*module.modules(), *(m for part in hidden.values() if isinstance(part, nn.Module) for m in part.modules())]
    handles = [part.register_forward_pre_hook(lambda part, _: used.add(part)) for part in parts]
    handles.append(module.register_forward_hook(lambda part, given, found: returned.append(found)))
    try:
        with torch.enable_grad():
            outputs = [subject(subject.batch(seed=seed), grads=True) for seed in (21, 22)]
            total = _scalar(subject, [x for found in outputs for x in tensors_in(found).values()])
            others = _scalar(subject, [x for found in returned for x in _side_by_side(found)])
    finally:
        for handle in handles:
            handle.remove()
    if not total.requires_grad:
        return CHECK.unsure(DONE, "the outputs have no gradient")
    gradients = gradients_by_name(module, total, again=others.requires_grad)
    beside = gradients_by_name(module, others) if others.requires_grad else {}
    return Ran(used, bool(returned), gradients, beside)


def _side_by_side(returned: Any) -> list[Tensor]:
    """Outputs of several heads; what lies in a list of its own, or is of heads, is a cache or what layers give."""
    found = {name: x for name, x in tensors_in(returned).items() if "." not in name and x.dim() < 4}
    return list(found.values()) if len(found) > 1 else []


def _scalar(subject: Subject, tensors: list[Tensor]) -> Tensor:
    parts = [x.float() for x in tensors if x.is_floating_point() and x.requires_grad]
    draw = torch.Generator().manual_seed(subject.seed)
    weighted = ((x * torch.randn(x.shape, generator=draw, device="cpu").to(x)).sum() for x in parts)
    return sum(weighted, torch.zeros((), device=subject.device))


OPTIMIZER = """
optimizer = ...  # fill in: as you make it
held = [id(p) for group in optimizer.param_groups for p in group["params"]]
missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
assert not missing, f"not in the optimizer: {missing}"
assert len(held) == len(set(held)), "some are in the optimizer twice"
"""


def _hidden_script(place: str) -> str:
    """``place``: a path, with numbers or keys where it is in a plain list or dictionary."""
    plain = place.partition("[")[0]
    owner, _, name = plain.rpartition(".")
    return f"""
part = model.get_submodule({owner!r}).{name}{place[len(plain) :]}
parameters = list(part.parameters()) if isinstance(part, torch.nn.Module) else [part]
known = {{id(p) for p in model.parameters()}}
assert all(id(p) in known for p in parameters), "a part is not registered in the model"
"""


def _untaught_script(names: list[str]) -> str:
    return f"""
model.eval()
loss, _ = loss_of(sample(1))
loss.backward()
still = [name for name, p in model.named_parameters() if name in {names[:8]} and p.grad is None]
assert not still, f"no gradient of the loss reaches {{still}}"
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


def _failed(seen: str, cause: str, fix: str, evidence: dict[str, Any], script: str, where: str = "") -> Finding:
    return CHECK.failed(
        DONE,
        seen,
        where=where,
        cause=cause,
        fix=fix,
        references=REFERENCES,
        evidence=evidence,
        script=script,
    )
