"""Is the model told in which order tokens stand?"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.constant import Constant, Reading, constant, settled
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.subject import Subject

CHECK = Check("pos.present", "quick", "Is order told to the model?")
DONE = "read one token repeated: all that can then differ between positions is their order"
LONG = 256
SHUFFLED = "read a text and the same tokens in another order"
POSITIONS = re.compile(
    r"(^|[._])(pos\w*|pe|wpe|rope|rotary\w*|alibi\w*|relative\w*|inv_freq|freqs?(_c\w+)?|slopes)($|[._])", re.IGNORECASE
)
REFERENCES = ("Lightning-AI/pytorch-lightning#20099", "theEricMa/DiffPoseTalk#20")


@CHECK
def answer(subject: Subject) -> Finding:
    """Looks at the scores of every layer as well, in which relative positions show and outputs do not."""
    if "no_positions" in subject.spec.declare or subject.spec.positions == "none":
        return CHECK.skipped("no order is told, as declared")
    if not subject.per_position:
        return _pooled(subject)
    found = constant(subject)
    told = found.varies > tolerances.SAME
    scheme = found.text.scheme if found.text else None
    evidence: dict[str, object] = {"scheme": scheme, "varies": found.varies}
    for reading in (*found.readings, *_longer(subject, found)):
        if reading.scheme == "absolute" and (again := _again(reading)) and (tables := _tables(subject)):
            seen = f"in {reading.name}, {again} are told to be at one place"
            if still := _alike(tables, reading):
                return _untrained(seen, still, evidence)
            return _failed(
                DONE, seen, "positions are clamped, or counted anew after some tokens: the table is too short, or a "
                "chunk's own positions are taken for those of the text", evidence,
                _again_script(again, reading.first.k.size(2)),
            )  # fmt: skip
    if found.source is not None and found.source.scheme == "none":
        return _failed(DONE, "order is not told to the encoder: neither values nor scores differ", NEVER, evidence,
                       SOURCE_TOLD)  # fmt: skip
    if scheme is None and not told:
        return _unknown(subject, evidence)
    if scheme != "none" or told:
        where = f"by {scheme} positions" if scheme != "none" and scheme else "though not in the scores of any layer"
        return CHECK.passed(DONE, f"order is told, {where}", **evidence)
    return _none(subject, DONE, "neither outputs nor scores differ between positions", evidence)


NEVER = "positions are made and not added, or one position is given to all: pe[:, T] in place of pe[:, :T]"


def _none(subject: Subject, done: str, seen: str, evidence: dict[str, object]) -> Finding:
    """A decoder can learn without; an encoder cannot, nor is a model meant to be that has positions."""
    there = _there(subject)
    reads = subject.spec.kind == "encoder" and subject.spec.features is None  # vectors may have met theirs outside
    if there or subject.spec.positions is not None or reads:
        script = SHUFFLES if done == SHUFFLED else TOLD
        seen += f", though there is {', '.join(there[:2])}" if there else ""
        return _failed(done, seen, NEVER, evidence, script)
    return CHECK.warned(
        done, "no order is told: a causal decoder can learn without (NoPE), anything else cannot",
        fix='declare it if it is meant so: declare={"no_positions"}', evidence=evidence,
    )  # fmt: skip


def _unknown(subject: Subject, evidence: dict[str, object]) -> Finding:
    """Without attention to look at: an encoder whose outputs follow their tokens wherever they stand has no order."""
    if subject.spec.kind != "encoder":
        return CHECK.unsure(
            DONE, "outputs do not differ, and no attention is understood in which order could show", **evidence
        )
    batch = subject.batch()
    draw = torch.Generator().manual_seed(1)
    order = torch.randperm(batch.ids.size(1), generator=draw, device="cpu").to(batch.ids.device)
    share = _apart(subject, lambda: (subject(batch.with_(ids=batch.ids[:, order])), subject(batch)[:, order]))
    if share:
        return CHECK.passed(SHUFFLED, "outputs differ", moved=share, **evidence)
    return _none(subject, SHUFFLED, "outputs follow their tokens wherever they stand", {**evidence, "moved": share})


def _pooled(subject: Subject) -> Finding:
    """One output for a text: all tokens but the first, which may be the one that is looked at, change places."""
    batch = subject.batch()
    if batch.source is not None or batch.ids.dim() != 2 or batch.ids.size(1) < 3 or subject.spec.example is not None:
        return CHECK.skipped("there is no output for every position")
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(1, batch.ids.size(1)).flip(0)])
    shuffled = batch.with_(ids=batch.ids[:, order.to(batch.ids.device)])
    share = _apart(subject, lambda: (subject(shuffled), subject(batch)))
    if share:
        return CHECK.passed(SHUFFLED, "what they give differs", moved=share)
    return _none(subject, SHUFFLED, "they give the same", {"moved": share})


def _apart(subject: Subject, pair: Callable[[], tuple[Tensor, Tensor]]) -> float:
    """By how much two outputs differ, as a share of the largest; 0 where that is rounding, as double precision tells.

    Order may matter little at the start, when the first token is looked at and hardly attends to others.
    """
    share = gap(*pair()).share
    if share > tolerances.SHAPE_FAIL:
        return share
    double = subject.in_double(lambda: gap(*pair()).share)
    return share if double is not None and double > share * tolerances.STAYED else 0.0


def _longer(subject: Subject, found: Constant) -> tuple[Reading, ...]:
    """The same of a longer text, where there are tables: they may be told wrongly only far out."""
    longest = min(LONG, subject.spec.max_length or LONG)
    absolute = any(reading.scheme == "absolute" for reading in found.readings)
    if longest <= subject.length or not absolute or not _tables(subject):
        return ()
    try:
        return constant(subject, longest, rows=1).readings
    except Exception:  # a table that nobody told of may be shorter
        return ()


def _again(reading: Reading) -> str:
    """Which positions are told to be the same, in words; empty where none are."""
    values = reading.first.v.transpose(1, 2).flatten(2)
    length = values.size(1)
    if reading.settled <= length // 2:
        return f"all positions from {reading.settled} on"
    limit = tolerances.SAME * float(values.abs().max())
    for lag in range(1, length // 2 + 1):
        if float((values[:, lag:] - values[:, :-lag]).abs().max()) <= limit:
            return f"positions that are {lag} apart"
    return ""


def _alike(tables: dict[str, Tensor], reading: Reading) -> str:
    """The table of which all rows are the same from where positions are; they may begin two rows late, as in OPT."""
    start, length = reading.settled, reading.first.k.size(2)
    for name, x in tables.items():
        rows = x.squeeze()[:length]
        if 0 < start <= length // 2 and settled(rows[None]) <= min(start + 2, rows.size(0) - 2):
            return name
    return ""


def _untrained(seen: str, table: str, evidence: dict[str, object]) -> Finding:
    return CHECK.warned(
        DONE, f"{seen}: rows of {table} are the same there",
        cause="the table began as zeros, and no text that it was trained on was so long",
        fix="say how far it was trained: Spec(max_length=…), or train on longer texts", evidence=evidence,
    )  # fmt: skip


def _tables(subject: Subject) -> dict[str, Tensor]:
    """Tables that speak of positions: parameters and buffers (L, D)."""
    module = subject.module
    tensors: list[tuple[str, Tensor]] = [] if module is None else [*module.named_parameters(), *module.named_buffers()]
    there = {name: x for name, x in tensors if POSITIONS.search(name) and x.is_floating_point()}
    return {name: x for name, x in there.items() if x.squeeze().dim() == 2}


def _there(subject: Subject) -> list[str]:
    """Parameters, buffers and modules of the model whose names speak of positions."""
    module: nn.Module | None = subject.module
    if module is None:
        return []
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers(), *module.named_modules())]
    return [name for name in names if POSITIONS.search(name)]


TOLD = """
model.eval()
ids = sample(1)[:1, :1].repeat(1, 16)  # one token repeated: only by their order can its places differ
found = [scores for _, scores, _ in attention(ids) if scores.shape[-2:] == (16, 16)]
last = found[0].flatten(0, -3)[:, -1]  # what the last query makes of each key, in every head of the first layer
spread = max((row[row > -1e4].max() - row[row > -1e4].min()).item() for row in last)
moved = (call(ids) - call(ids)[:, :1]).abs().max() if call(ids).shape[:2] == ids.shape else 0.0
assert spread > 1e-5 or moved > 1e-5, "nothing differs from place to place"
"""
SOURCE_TOLD = """
model.eval()
source = sample_source(1)[:1, :1].repeat(1, 16)  # one token repeated: only by their order can its places differ
found = [scores for _, scores, _ in attention(sample(1)[:1, :10], source) if scores.shape[-2:] == (16, 16)]
last = found[0].flatten(0, -3)[:, -1]  # what the last query makes of each key, in every head of the first layer
spread = max((row[row > -1e4].max() - row[row > -1e4].min()).item() for row in last)
assert spread > 1e-5, "nothing in the encoder differs from place to place"
"""
SHUFFLES = """
model.eval()
ids = sample(1)
order = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(1, ids.size(1)).flip(0)])
one, two = call(ids), call(ids[:, order])
if one.shape[:2] == ids.shape:
    one = one[:, order]
assert (one - two).abs().max() > 1e-4 * one.abs().max(), "the order of tokens makes no difference"
"""


def _again_script(again: str, length: int) -> str:
    """The keys that are told the same place have the same scores for every query, where the mask is not looked at."""
    first, lag = (int(again.split()[-2]), 1) if again.startswith("all") else (0, int(again.split()[-2]))
    return f"""
model.eval()
ids = sample(1)[:1, :1].repeat(1, {length})  # one token repeated: only by their order can its places differ
products = attention(ids)[0][0]  # of every query of the first layer with every key
gap = (products[..., {first} : -{lag}] - products[..., {first + lag} :]).abs().amax()
assert gap > 1e-5 * products.abs().max(), "{again} are told to be at one place"
"""


def _failed(done: str, seen: str, cause: str, evidence: dict[str, object], script: str = TOLD) -> Finding:
    return CHECK.failed(
        done,
        seen,
        cause=cause,
        fix="x = tokens + positions(torch.arange(T)), or rotate q and k of each position by its own angle; if no order "
        'is meant, declare it: declare={"no_positions"}',
        references=REFERENCES,
        evidence=evidence,
        script=script,
    )
