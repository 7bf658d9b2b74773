"""Do all ways to compute the same model give the same?

Training mode without dropout against evaluation mode, with and without gradients asked for, with and without hooks:
each takes another path in some models. Models of ``transformers`` are also run with their other kernels and with
checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.recomputing import differs
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import without_dropout
from pellucid.doctor.undropped import undropped

CHECK = Check("backend.parity", "standard", "Do all paths through the model give the same?")
REFERENCES = (
    "pytorch/pytorch#86120",
    "keras-team/keras#23038",
    "karpathy/nanoGPT#331",
    "huggingface/transformers#40700",
)


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares each path with evaluation mode, padded where padding is honoured."""
    if subject.module is None:
        return CHECK.skipped("a callable has one path", "a module in place of a callable")
    batch, real = _batch(subject)
    paths = {
        "training mode without dropout": lambda: _training(subject, batch),
        "training mode with dropout that drops nothing": lambda: _undropped(subject, batch),
        "with gradients": lambda: subject(batch, grads=True).detach(),
        "with a hook on every module": lambda: _hooked(subject, batch),
        **_kernels(subject, batch),
    }
    for name in [name for name in paths if name.startswith("training")]:
        if _normalises_batches(subject.module) or _random(subject, paths[name]):
            paths.pop(name)
    done = f"computed the same batch in several ways: {', '.join(paths)}"
    gaps, unsure = {}, []
    for name, path in paths.items():
        pair = lambda path=path: (_only(path(), real), _only(subject(batch), real))  # noqa: E731
        agreed, found, _ = subject.agree(pair, exact=False)
        gaps[name] = found.share
        if agreed is False:
            return CHECK.failed(
                done,
                f"{name}: outputs differ by {found.share:.2g} of the largest",
                cause="a branch for training, for a kernel or for a fast path computes something else: a mask that one "
                "of them drops, dropout that is no dropout, another scale",
                fix="let one function make the mask for all branches, and compare the branches in a test",
                references=REFERENCES,
                evidence={"gaps": gaps, "path": name},
                script=_script(name, real is not None),
            )
        if agreed is None:
            unsure.append(name)
    if (found_ := _recomputed(subject, batch, done)) is not None:
        return found_
    if unsure:
        return CHECK.unsure(done, f"{', '.join(unsure)}: differs by more than rounding usually does", gaps=gaps)
    return CHECK.passed(done, f"the same within {max(gaps.values()):.1e} of the largest output", gaps=gaps)


def _batch(subject: Subject) -> tuple[Batch, Tensor | None]:
    """Padded on the right, where a decoder's real tokens cannot see it; the places that are real."""
    if not subject.spec.masked or subject.spec.example is not None or subject.spec.kind == "encoder_decoder":
        return subject.batch(), None
    batch = subject.batch()
    rows, length = batch.ids.shape[:2]
    keep = torch.arange(length) < torch.tensor([length - 3 * row for row in range(rows)])[:, None]
    keep = keep.to(batch.ids.device)
    return batch.with_(keep=keep), keep


def _only(outputs: Tensor, real: Tensor | None) -> Tensor:
    if real is None or outputs.dim() < 3 or outputs.shape[:2] != real.shape:
        return outputs
    return torch.where(real.view(*real.shape, *[1] * (outputs.dim() - 2)), outputs, torch.zeros_like(outputs))


def _training(subject: Subject, batch: Batch) -> Tensor:
    assert subject.module is not None
    with without_dropout(subject.module):
        return subject(batch, train=True)


def _undropped(subject: Subject, batch: Batch) -> Tensor:
    """The branches that are taken where rates are not zero."""
    with undropped(subject.module):
        return subject(batch, train=True)


def _random(subject: Subject, path: Callable[[], Tensor]) -> bool:
    """Whether a path draws random numbers that are no dropout: noise of a router, masks of a spectrum."""
    one = path()
    subject.seed += 1
    try:
        return gap(path(), one).share > tolerances.EXACT_NOISE
    finally:
        subject.seed -= 1


def _recomputed(subject: Subject, batch: Batch, done: str) -> Finding | None:
    """Gradients of a step in which layers are computed anew for the backward pass."""
    assert subject.module is not None
    if not any(isinstance(p, nn.Parameter) and p.requires_grad for p in subject.module.parameters()):
        return None
    where = differs(subject, batch)
    if not where:
        return None
    return CHECK.failed(
        f"{done}; compared what modules give in the forward pass, and computed anew for the backward pass",
        f"{where} gives something else when it is computed anew: gradients are those of another function",
        where=where,
        cause="checkpointing draws other random numbers in the second pass, and dropout falls elsewhere",
        fix="checkpoint(function, x, use_reentrant=False), which keeps the random state unless it is told not to",
        references=("allenai/OLMo-core#828", "openai/guided-diffusion#167"),
        evidence={"recomputed": where},
        script=f"""
model.train()  # with your dropout
part, given = model.get_submodule({where!r}), []
part.register_forward_hook(lambda part, args, result: given.append(result.detach()))
call(sample(1)).square().mean().backward()
assert len(given) < 2 or torch.equal(given[0], given[-1]), "computed anew, it gives something else"
""",
    )


def _hooked(subject: Subject, batch: Batch) -> Tensor:
    assert subject.module is not None
    handles = [part.register_forward_hook(lambda *_: None) for part in subject.module.modules()]
    try:
        return subject(batch)
    finally:
        for handle in handles:
            handle.remove()


def _normalises_batches(module: nn.Module) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def _kernels(subject: Subject, batch: Batch) -> dict[str, Callable[[], Tensor]]:
    """The other kernels of a model of ``transformers``."""
    settings = getattr(subject.module, "config", None)
    now = getattr(settings, "_attn_implementation", None)
    if now not in ("eager", "sdpa") or not hasattr(subject.module, "set_attn_implementation"):
        return {}
    other = "eager" if now == "sdpa" else "sdpa"
    if other == "sdpa" and not getattr(subject.module, "_supports_sdpa", False):
        return {}

    def run() -> Tensor:
        with _implementation(subject.module, other, now):
            return subject(batch)

    return {f"{other} attention": run}


@contextmanager
def _implementation(module: Any, other: str, now: str) -> Iterator[None]:
    module.set_attn_implementation(other)
    try:
        yield
    finally:
        module.set_attn_implementation(now)


ZERO = """
for module in model.modules():  # without dropout
    for name, value in vars(module).items():
        if isinstance(value, float) and (name == "p" or "drop" in name):
            setattr(module, name, 0.0)
"""
KEEPING = """
F = torch.nn.functional  # dropout drops nothing, and its rates stay
attend = F.scaled_dot_product_attention
F.dropout = lambda x, *_, **__: x
F.scaled_dot_product_attention = lambda *given, dropout_p=0.0, **more: attend(*given, **more)
"""


def _script(path: str, padded: bool) -> str:
    """One way to compute the model against evaluation mode without gradients."""
    other = {
        "training mode without dropout": "model.train()",
        "training mode with dropout that drops nothing": "model.train()",
        "with gradients": "",
        "with a hook on every module": "for part in model.modules():\n    part.register_forward_hook(lambda *_: None)",
    }.get(path, f"model.set_attn_implementation({path.split()[0]!r})")
    run = "masked(sample(1), keep)[keep]" if padded else "call(sample(1))"
    return f"""{KEEPING if "drops nothing" in path else ZERO}
keep = torch.arange(sample(1).size(1)) < torch.tensor([24, 21, 18])[:, None]  # rows that end in padding
model.eval()
with torch.no_grad():
    one = {run}
{other}
{"two = " + run if path == "with gradients" else "with torch.no_grad():" + chr(10) + "    two = " + run}
gap = (one - two).abs().max() / one.abs().max()
assert gap < 1e-4, f"{path}: outputs differ by {{gap:.3g}} of the largest"
"""
