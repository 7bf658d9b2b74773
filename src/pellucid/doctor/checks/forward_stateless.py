"""Does a pass leave anything behind that changes the next?"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.keeping import digests, rescaled
from pellucid.doctor.measures import gap
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.unregistered import unseen

CHECK = Check("forward.stateless", "quick", "Does a pass leave the next one alone?")
DONE = "ran a batch, then others of other lengths, then the first again; hashed parameters and buffers before and after"
SHORT = 2
STATE = (
    "something of one call is kept in the module and used by the next: a cache of keys and values, a mask or a table "
    "made for another length, running statistics in evaluation mode"
)


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares the first and the last pass; names the tensors that a pass writes to."""
    module, probes = subject.module, _probes(subject)
    for probe in probes:
        subject(probe)  # a first pass may make tables that later ones use
    held = {} if module is None else {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = digests(held)
    same, share = subject.vanishes(lambda: _apart(subject, probes))
    after = digests(held)
    renormed = [] if module is None else rescaled(module)
    written = [name for name in before if before[name] != after[name] or name in renormed]
    asked = "stochastic" not in subject.spec.declare
    if same is False and asked:
        seen = f"the same batch gives outputs that differ by {share:.2g} of the largest after others were read"
        if written:
            seen += f"; {', '.join(written[:3])} changed"
        return _failed(
            seen, STATE, "keep what belongs to one sequence in an argument and a return value, not in self",
            {"gap": share, "written": written}, KEPT,
        )  # fmt: skip
    if (stale := _stale_mask(subject)) > 0:
        return _failed(
            f"rows and their padding in another order give outputs that differ by {stale:.2g}: another batch's mask",
            STATE, "make the mask of every batch anew, or keep it by more than its shape", {"gap": stale}, STALE,
        )  # fmt: skip
    if left := _left(subject):
        return _failed(left, *LEFT[left], {"left": left}, SCRIPTS[left])
    if same is None and asked:
        seen = f"outputs differ by {share:.2g} of the largest; double precision does not tell whether it is rounding"
        return CHECK.unsure(DONE, seen, gap=share, written=written)
    if written:
        return CHECK.warned(
            DONE, f"a pass in evaluation mode writes to {', '.join(written[:5])}", evidence={"written": written}
        )
    more = "" if module is None else unseen(module)
    what = f"the same but for rounding ({share:.1e})" if share and asked else "the same bits"
    return CHECK.passed(DONE, f"{what}, and no parameter or buffer was written to{more}")


def _apart(subject: Subject, probes: list[Batch]) -> float:
    """How far the last pass over each probe is from the first, as a share of the largest output; others lie between."""
    first = [subject(probe) for probe in probes]
    for other in _others(subject):
        subject(other)
    last = [subject(probe) for probe in reversed(probes)][::-1]  # what the one before left is another now
    return max(gap(b, a).share for a, b in zip(first, last, strict=True))


def _probes(subject: Subject) -> list[Batch]:
    """A batch of the usual length, and a short one: some keep a state only of a token or two."""
    batch = subject.batch()
    if subject.spec.example is not None or not subject.per_position:
        return [batch]
    short = batch.with_(ids=batch.ids[:, :SHORT])
    try:
        subject(short)
    except Exception:  # as a norm over time does with too few
        return [batch]
    return [batch, short]


def _others(subject: Subject) -> list[Batch]:
    length = subject.batch().ids.shape[1]
    if subject.spec.example is not None:
        return [subject.batch(seed=31)]
    return [subject.batch(3, max(1, length // 2), seed=31), subject.batch(2, length, seed=32)]


STALE = """
model.eval()
ids = sample(1)
keep = torch.ones_like(ids, dtype=torch.bool)
keep[0, -4:] = False  # padding at the end of row 0
one, two = masked(ids, keep), masked(ids.roll(1, 0), keep.roll(1, 0))  # the rows in another order
gap = (one.roll(1, 0) - two).abs().max() / one.abs().max()
assert gap < 1e-4, f"rows in another order differ by {gap:.3g}: the mask of the first batch is used again"
"""


def _stale_mask(subject: Subject) -> float:
    """By how much outputs differ when rows are exchanged together with their padding, as a share of the largest."""
    batch = subject.batch()
    if not subject.spec.masked or subject.spec.example is not None or batch.ids.dim() != 2 or subject.random:
        return 0.0
    rows, length = batch.ids.shape
    keep = torch.arange(length) < torch.tensor([length - 3 * row for row in range(rows)])[:, None]
    padded = batch.with_(keep=keep.to(batch.ids.device))
    order = torch.arange(rows).roll(1).to(batch.ids.device)

    def pair() -> tuple[Tensor, Tensor]:
        first = subject(padded)
        return subject(padded.rows(order)), first[order]

    agreed, found, _ = subject.agree(pair, exact=False)
    return found.share if agreed is False and "batch_coupled" not in subject.spec.declare else 0.0


INPUT = "it writes into what it was given to read"
SEED = "it sets the seed of all random numbers: they are the same after every pass"
MODE = "it switches its own parts between training and evaluation mode"
GRADIENTS = "it switches gradients off, or on, for whoever comes after"
DTYPE = "it changes the type of number that all of PyTorch makes"
LEFT = {
    INPUT: ("ids or vectors are changed in place: ids[:, 0] = …, x += …", "x = x.clone(), or x = x + …"),
    SEED: ("torch.manual_seed in forward: dropout then drops the same in every step", "a torch.Generator of its own"),
    MODE: ("self.eval() or self.train() in forward: dropout stays off, or on", "let the caller switch modes"),
    GRADIENTS: ("torch.set_grad_enabled(False) in forward, never undone", "with torch.no_grad(): …"),
    DTYPE: ("torch.set_default_dtype in forward", "dtype=… where tensors are made"),
}


KEPT = """
model.eval()
texts = [sample(1), sample(1)[:, :2]]
first = [call(ids) for ids in texts]
call(sample(2))
call(sample(3)[:2, :5])
for ids, before in list(zip(texts, first))[::-1]:
    after = call(ids)
    assert torch.equal(before, after), f"the same batch differs by {(before - after).abs().max():.3g} the second time"
"""
SCRIPTS = {
    INPUT: """
model.eval()
ids = sample(1)
call(ids)
assert torch.equal(ids, sample(1)), "it writes into what it reads"
""",
    SEED: """
model.train()
drawn = []
for seed in (1, 2):
    torch.manual_seed(seed)
    call(sample(1))
    drawn.append(torch.rand(()))
assert drawn[0] != drawn[1], "after a pass all random numbers are the same"
""",
    MODE: """
for training in (False, True):
    model.train(training)
    call(sample(1))
    parts = [name for name, part in model.named_modules() if part.training != training]
    assert not parts, f"a pass switched the mode of {parts}"
""",
    GRADIENTS: """
with torch.enable_grad():
    call(sample(1))
    assert torch.is_grad_enabled(), "a pass switched gradients off"
""",
    DTYPE: """
before = torch.get_default_dtype()
call(sample(1))
assert torch.get_default_dtype() == before, "a pass changed the default dtype"
""",
}


def _left(subject: Subject) -> str:
    """What a pass leaves behind besides what it computes."""
    assert subject.spec.call is not None
    batch, dtype, states = subject.batch(), torch.get_default_dtype(), []
    copies = [x.clone() for x in (batch.ids, batch.source) if x is not None]
    try:
        with subject.mode(True), torch.enable_grad():
            modes = {} if subject.module is None else {part: part.training for part in subject.module.modules()}
            for seed in (1, 2):
                torch.manual_seed(seed)
                subject.spec.call(subject.model, batch)
                states.append(torch.get_rng_state())
                if not torch.is_grad_enabled():
                    return GRADIENTS
            if torch.get_default_dtype() != dtype:
                return DTYPE
            if any(part.training != training for part, training in modes.items()):
                return MODE
        if torch.equal(*states):
            return SEED
    finally:
        torch.set_default_dtype(dtype)
    return "" if _same(batch, copies) else INPUT


def _same(batch: Batch, copies: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip((batch.ids, batch.source), copies, strict=False) if x is not None)


def _failed(seen: str, cause: str, fix: str, evidence: dict[str, object], script: str) -> Finding:
    return CHECK.failed(
        DONE,
        seen,
        cause=cause,
        fix=fix,
        evidence=evidence,
        script=script,
    )
