"""Does a row of a batch depend on its neighbours?"""

from __future__ import annotations

import torch

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.localise import first_row
from pellucid.doctor.measures import gap
from pellucid.doctor.subject import RANDOM, Subject

CHECK = Check("batch.independence", "quick", "Is every row of a batch alone?")
DONE = "replaced the first row, permuted the rows, and ran a row alone"


@CHECK
def answer(subject: Subject) -> Finding:
    """Replacing is compared bit for bit; permuting and a batch of one within rounding."""
    if "batch_coupled" in subject.spec.declare:
        return CHECK.skipped("rows are declared to be coupled")
    if subject.random:
        return CHECK.unsure("", RANDOM)
    batch = subject.batch()
    base = subject(batch)
    rows = base.size(0)
    if rows != batch.ids.size(0):
        return CHECK.unsure(DONE, f"{batch.ids.size(0)} rows give outputs of shape {tuple(base.shape)}")
    ids = batch.ids.clone()
    ids[0] = subject.other(batch.ids, 4)[0]
    source = None if batch.source is None else batch.source.clone()
    if source is not None:
        source[0] = subject.other(batch.source, 5)[0]  # type: ignore[arg-type]
    changed = batch.with_(ids=ids, source=source)
    others = gap(subject(changed)[1:], base[1:])
    control = gap(subject(changed)[:1], base[:1]).share
    if others.share > tolerances.EXACT_NOISE:
        where = first_row(subject, batch, changed, row=1)
        return _failed(
            f"replacing row 0 moved row {others.row + 1} by {others.share:.2g} of the largest output",
            where,
            others.share,
        )
    order = torch.arange(rows).roll(1).to(batch.ids.device)
    agreed, found, _ = subject.agree(lambda: (subject(batch.rows(order)), subject(batch)[order]), exact=False)
    if agreed is False:
        return _failed(f"permuting the rows changed what they give by {found.share:.2g}", "", found.share)
    alone, single, _ = subject.agree(lambda: (subject(batch.rows(slice(1, 2))), subject(batch)[1:2]), exact=False)
    if alone is False:
        return _failed(f"row 1 alone differs by {single.share:.2g} from row 1 of {rows}", "", single.share)
    evidence = {"replaced": others.share, "permuted": found.share, "alone": single.share, "control": control}
    if control <= tolerances.CONTROL:
        return CHECK.unsure(DONE, "but replacing a row did not move that row either: nothing is read", **evidence)
    if agreed is None or alone is None:
        return CHECK.unsure(DONE, "rows differ by more than rounding usually does", **evidence)
    return CHECK.passed(DONE, "other rows kept their bits, and a row alone is what it is among others", **evidence)


def _failed(seen: str, where: str, share: float) -> Finding:
    return CHECK.failed(
        DONE,
        seen,
        where=where,
        cause="something mixes over the batch axis: attention over the wrong axis (batch_first forgotten), heads "
        "folded "
        "into the batch in another order than they are unfolded, statistics or a routing over the batch, a mask "
        "repeated for the wrong rows",
        fix="(B, T, D) throughout, or batch_first=True; fold heads as x.transpose(1, 2).reshape(B * H, T, K) and masks "
        "by repeat_interleave(H, 0); norms over the last axis",
        references=("lsdefine/attention-is-all-you-need-keras#36", "OpenNMT/OpenNMT-py#502"),
        evidence={"gap": share},
        script="""
model.eval()
ids = sample(1)
other = ids.clone()
other[0] = sample(2)[0]
moved = (call(ids) - call(other))[1:].abs().max()
assert moved == 0, f"replacing row 0 moved other rows by {moved:.3g}"
assert (call(ids)[1:2] - call(ids[1:2])).abs().max() < 1e-4, "a row alone differs"
""",
    )
