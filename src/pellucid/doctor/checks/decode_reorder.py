"""Does a cache whose rows are chosen anew go on as those rows would?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.cache_rows import Followed, followed, snapshot
from pellucid.doctor.check import Check
from pellucid.doctor.checks.kv_parity import part, prompted
from pellucid.doctor.finding import Finding
from pellucid.doctor.localise import written_at
from pellucid.doctor.measures import gap
from pellucid.doctor.scripts.stepping import feeding
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

CHECK = Check("decode.reorder", "quick", "Does beam search's choice of rows reach all of the cache?")
DONE = "read a prompt, chose its rows in another order, one of them twice, and took two steps"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares with the rows of a run that was never reordered."""
    spec = subject.spec
    if spec.step is None or spec.reorder is None:
        return CHECK.skipped(
            "nothing says how rows of a cache are chosen", "Spec(step=…, reorder=lambda cache, rows: cache)"
        )
    batch = prompted(subject)
    order = torch.tensor([2, 0, 0], device=batch.ids.device)

    def pair() -> tuple[Tensor, Tensor]:
        return _reordered(subject, batch, order), _plain(subject, batch)[order]

    agreed, found, _ = subject.agree(pair, exact=False)
    if agreed is False:
        rows = _followed(subject, batch, order)
        seen = f"outputs differ by {found.share:.2g} of the largest, where rounding gives {_rounding(subject, batch)}"
        return CHECK.failed(
            DONE,
            f"{seen}; {rows}" if rows is not None and str(rows) else seen,
            where=_place(subject),
            cause="some part of the cache is not reordered: a layer, the values, the memory of the source, its mask, "
            "or the lengths; or rows are repeated in another order (repeat for repeat_interleave)",
            fix="index_select every tensor of the cache, and what is kept of the source, by the chosen rows",
            references=("awslabs/sockeye#731", "jadore801120/attention-is-all-you-need-pytorch#28"),
            evidence={
                "gap": found.share,
                "kept": "" if rows is None else rows.part(),
            }
            | ({} if rows is None else rows.as_dict()),
            script=_script(subject),
        )
    if agreed is None:
        return CHECK.unsure(DONE, "outputs differ by more than rounding usually does", gap=found.share)
    return CHECK.passed(DONE, f"the same within {found.share:.1e}", gap=found.share)


def _place(subject: Subject) -> str:
    """The line of the user's function; nothing where it is one of ours."""
    function = subject.spec.reorder
    if function is None or str(getattr(function, "__module__", "")).startswith("pellucid."):
        return ""
    at = written_at(function)
    return f"reorder of the Spec ({at})" if at else ""


def _rounding(subject: Subject, batch: Batch) -> str:
    """By how much the same two steps differ from one pass, where nothing is reordered."""
    try:
        plain = _plain(subject, batch)
        share = gap(plain, subject(batch)[:, -plain.size(1) :]).share
    except Exception:  # a comparison is a help, and must not cost the finding
        return f"less than {tolerances.SHAPE_PASS:.0e}"
    if share > tolerances.SHAPE_PASS:  # then steps are wrong as well, which another check says
        return f"less than {tolerances.SHAPE_PASS:.0e}"
    return f"{max(share, 1e-8):.0e}"


def _followed(subject: Subject, batch: Batch, order: Tensor) -> Followed | None:
    """What became of each tensor of the cache; ``None`` where it cannot be looked at."""
    assert subject.spec.reorder is not None
    try:
        with subject.mode(False), torch.no_grad():
            cache = _prompt(subject, batch)
            before = snapshot(cache, batch.ids.size(0))
            return followed(before, snapshot(subject.spec.reorder(cache, order), order.numel()), order)
    except Exception:  # an explanation is a help, and must not cost the finding
        return None


def _prompt(subject: Subject, batch: Batch, cache: Any = None) -> Any:
    assert subject.spec.step is not None
    size = 1 if subject.spec.one_by_one else batch.ids.size(1) - 2
    for at in range(0, batch.ids.size(1) - 2, size):
        subject.reseed()
        _, cache = subject.spec.step(subject.model, part(batch, at, size), cache)
    return cache


def _steps(subject: Subject, batch: Batch, cache: Any) -> Tensor:
    assert subject.spec.step is not None
    outputs = []
    for at in (batch.ids.size(1) - 2, batch.ids.size(1) - 1):
        subject.reseed()
        found, cache = subject.spec.step(subject.model, part(batch, at, 1), cache)
        outputs.append(found[:, -1:])
    return torch.cat(outputs, dim=1)


def _reordered(subject: Subject, batch: Batch, order: Tensor) -> Tensor:
    assert subject.spec.reorder is not None
    with subject.mode(False), torch.no_grad():
        cache = subject.spec.reorder(_prompt(subject, batch), order)
        return _steps(subject, batch.rows(order), cache)


def _plain(subject: Subject, batch: Batch) -> Tensor:
    with subject.mode(False), torch.no_grad():
        return _steps(subject, batch, _prompt(subject, batch))


def _script(subject: Subject) -> str:
    feed = feeding(subject)
    prompt = feed.prompt(subject.spec.one_by_one)
    return f"""
model.eval()
{feed.lines}
rows = torch.tensor([2, 0, 0])
{prompt}
one, _ = {feed.step("ids[rows, 8:9]", "reorder(cache, rows)", "[rows]")}
{prompt}
two, _ = {feed.step("ids[:, 8:9]", "cache")}
one, two = one.nan_to_num(0, 0, 0), two.nan_to_num(0, 0, 0)
gap = (one - two[rows]).abs().max() / two.flatten(0, 1).std(0).max()
assert gap < 1e-4, f"the reordered cache goes on otherwise, by {{gap:.3g}} of what outputs vary by"
"""
