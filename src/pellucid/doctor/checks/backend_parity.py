"""Do all ways to compute the same model give the same?

Training mode without dropout against evaluation mode, with and without gradients asked for, with and without hooks: each
takes another path in some models. Models of ``transformers`` are also run with their other kernels and with
checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import without_dropout

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
        "with gradients": lambda: subject(batch, grads=True).detach(),
        "with a hook on every module": lambda: _hooked(subject, batch),
        **_kernels(subject, batch),
    }
    if _normalises_batches(subject.module):
        paths.pop("training mode without dropout")
    done = f"computed the same batch in several ways: {', '.join(paths)}"
    gaps, unsure = {}, []
    for name, path in paths.items():
        agreed, found, _ = subject.agree(
            lambda path=path: (_only(path(), real), _only(subject(batch), real)), exact=False
        )  # type: ignore[misc]
        gaps[name] = found.share
        if agreed is False:
            return CHECK.failed(
                done,
                f"{name}: outputs differ by {found.share:.2g} of the largest",
                cause="a branch for training, for a kernel or for a fast path computes something else: a mask that one of "
                "them drops, dropout that is no dropout, another scale",
                fix="let one function make the mask for all branches, and compare the branches in a test",
                references=REFERENCES,
                evidence={"gaps": gaps, "path": name},
                script=_script(name, real is not None),
            )
        if agreed is None:
            unsure.append(name)
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


def _script(path: str, padded: bool) -> str:
    """One way to compute the model against evaluation mode without gradients."""
    other = {
        "training mode without dropout": "model.train()",
        "with gradients": "",
        "with a hook on every module": "for part in model.modules():\n    part.register_forward_hook(lambda *_: None)",
    }.get(path, f"model.set_attn_implementation({path.split()[0]!r})")
    run = "masked(sample(1), keep)[keep]" if padded else "call(sample(1))"
    return f"""
for module in model.modules():  # without dropout
    for name, value in vars(module).items():
        if isinstance(value, float) and (name == "p" or "drop" in name):
            setattr(module, name, 0.0)
keep = torch.arange(sample(1).size(1)) < torch.tensor([24, 21, 18])[:, None]  # rows that end in padding
model.eval()
with torch.no_grad():
    one = {run}
{other}
{"two = " + run if path == "with gradients" else "with torch.no_grad():" + chr(10) + "    two = " + run}
gap = (one - two).abs().max() / one.abs().max()
assert gap < 1e-4, f"{path}: outputs differ by {{gap:.3g}} of the largest"
"""
