"""Does the model survive half precision?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pellucid.doctor.attributes import attributes_kept
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.padding import padded
from pellucid.doctor.subject import Subject

CHECK = Check("precision.drift", "standard", "Does the model survive half precision?")
HALF = (torch.bfloat16, torch.float16)


@CHECK
def answer(subject: Subject) -> Finding:
    """Runs the model in bfloat16 and float16, padded where padding is honoured, and looks for NaN and overflow."""
    if subject.module is None:
        return CHECK.skipped("a callable cannot be cast", "a module in place of a callable")
    batch = subject.batch()
    if subject.spec.masked and subject.spec.example is None:
        batch = padded(subject, "right").batch
    if subject.spec.features is not None or subject.spec.example is not None:
        return CHECK.skipped("what it reads would have to be cast as well")
    single = subject(batch)
    done = "ran it in bfloat16 and float16 on the same batch"
    drift: dict[str, float] = {}
    unrun: dict[str, str] = {}
    for dtype in HALF:
        name = str(dtype).split(".")[-1]
        try:
            outputs = _in(subject, dtype, lambda: subject(batch))
        except Exception as error:
            if "overflow" in str(error):
                return _overflow(done, name, str(error))
            unrun[name] = ": ".join((type(error).__name__, *str(error).strip().splitlines()[:1]))
            continue
        if bool(outputs.isnan().any()) and not bool(single.isnan().any()):
            return _overflow(done, name, "outputs are NaN")
        drift[name] = gap(outputs, single).share
    if not drift:
        return CHECK.skipped(f"in half precision it does not run: {next(iter(unrun.values()))}")
    told = ", ".join(f"{name} {share:.2g}" for name, share in drift.items())
    more = "".join(f"; in {name} it does not run: {why}" for name, why in unrun.items())
    return CHECK.passed(
        done, f"deviation from float32, as a share of the largest output: {told}{more}", drift=drift, unrun=unrun
    )


def _overflow(done: str, name: str, seen: str) -> Finding:
    return CHECK.warned(
        done,
        f"in {name}: {seen}",
        cause="a mask is filled with -1e9, which float16 cannot hold, or masks of the lowest number are added to -inf",
        fix="torch.finfo(scores.dtype).min or -inf for masks, added up as booleans",
        references=("facebookresearch/fairseq#3575", "NVIDIA/apex#93"),
        evidence={"dtype": name},
        script=f"model.to(torch.{name})\nassert not call(sample(1)).isnan().any()",
    )


def _in(subject: Subject, dtype: torch.dtype, run: Callable[[], Tensor]) -> Tensor:
    """Runs with the floating tensors in half precision; the model's own are put back, not cast back."""
    module: nn.Module | None = subject.module
    assert module is not None
    tensors = [x for x in (*module.parameters(), *module.buffers()) if x.dtype == torch.float32]
    own = [x.data for x in tensors]
    cast: dict[int, Tensor] = {}
    try:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = cast.setdefault(id(data), data.to(dtype))
        with attributes_kept(module):  # a table that is cast on the way would be met in single precision afterwards
            return run().float()
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
