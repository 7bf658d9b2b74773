"""Does a pass leave anything behind that changes the next?"""

from __future__ import annotations

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.keeping import digests
from pellucid.doctor.measures import gap
from pellucid.doctor.subject import Subject

CHECK = Check("forward.stateless", "quick", "Does a pass leave the next one alone?")
DONE = "ran a batch, then others of other lengths, then the first again; hashed parameters and buffers before and after"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares the first and the last pass; names the tensors that a pass writes to."""
    batch, module = subject.batch(), subject.module
    subject(batch)  # a first pass may make tables that later ones use
    held = {} if module is None else {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = digests(held)
    first = subject(batch)
    length = batch.ids.shape[1]
    for seed, size in ((31, max(1, length // 2)), (32, length)):
        subject(subject.batch(2 + seed % 2, size, seed=seed) if subject.spec.example is None else batch)
    last = subject(batch)
    after = digests(held)
    written = [name for name in before if before[name] != after[name]]
    share = gap(last, first).share
    if share > 0 and "stochastic" not in subject.spec.declare:
        return CHECK.failed(
            DONE,
            f"the same batch gives outputs that differ by {share:.2g} of the largest after others were read"
            + (f"; {', '.join(written[:3])} changed" if written else ""),
            cause="something of one call is kept in the module and used by the next: a cache of keys and values, a mask "
            "or a table made for another length, running statistics in evaluation mode",
            fix="keep what belongs to one sequence in an argument and a return value, not in self",
            evidence={"gap": share, "written": written},
            script="""
model.eval()
one = call(sample(1))
call(sample(2)[:2, :5])
two = call(sample(1))
assert torch.equal(one, two), f"the same batch differs by {(one - two).abs().max():.3g} the second time"
""",
        )
    if written:
        return CHECK.warned(
            DONE, f"a pass in evaluation mode writes to {', '.join(written[:5])}", evidence={"written": written}
        )
    return CHECK.passed(DONE, "the same bits, and no parameter or buffer was written to")
