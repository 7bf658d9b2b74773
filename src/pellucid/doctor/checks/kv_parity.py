"""Does writing with a cache give what one pass over everything gives?

One token at a time, in uneven chunks, and after a long prompt; past the window where there is one; with rows of
different lengths where padding is honoured. Shapes differ between the two, so rounding may too: double precision
decides what is noise.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap, moved
from pellucid.doctor.padding import padded
from pellucid.doctor.scripts.stepping import feeding
from pellucid.doctor.spec import Batch
from pellucid.doctor.step_faults import ADDED, StepFault, step_fault
from pellucid.doctor.subject import RANDOM, Subject

CHECK = Check("kv.parity", "quick", "Does writing with a cache give what one pass gives?")
UNEVEN = (7, 1, 5, 1, 2)
CHUNKS, ACROSS, BEYOND = "uneven chunks", "across the window", "a prompt beyond the window, then one by one"
REFUSABLE = {CHUNKS: "chunks after a prompt", ACROSS: "texts beyond the window", BEYOND: "prompts beyond the window"}
"""What a step need not take, as those that take one token at a time, or have room for so many."""
PASSED = "past the window a step sees other keys than one pass: the cache drops one that may be seen, or keeps one more"
CROSSED = "the cache has room for the window alone, or the mask of a step is made for no more keys"
REFERENCES = (
    "pytorch/pytorch#108108", "huggingface/transformers#45242", "mistralai/mistral-inference#88",
    "Dao-AILab/flash-attention#517",
)  # fmt: skip
RAGGED = """
model.eval()
ids = sample(1)
keep = torch.ones_like(ids, dtype=torch.bool)
keep[1, :4] = False  # row 1 begins with padding
whole, cache, gaps = masked(ids, keep).nan_to_num(0, 0, 0), None, []
for at in range(ids.size(1)):
    found, cache = stepped(ids[:, at : at + 1], cache, keep[:, : at + 1])
    apart = (found[:, -1].nan_to_num(0, 0, 0) - whole[:, at])[keep[:, at]]
    gaps.append(apart.abs().max() / whole[keep].std(0).max())
assert max(gaps) < 1e-4, f"rows of different lengths differ from one pass by {max(gaps):.3g} of what outputs vary by"
"""
HIDE = (
    "hide from query i of T, over S keys, the keys beyond S - T + i: allowed = torch.ones(T, S, dtype=torch.bool)"
    ".tril(S - T), a boolean mask, in which True may be seen"
)
EVERYTHING = f"append keys and values; count positions from the cache's length; {HIDE}"
ROWS = "rows of different lengths"
WHY = {
    "stored": "keys of the past are not in the cache, or not those that were put there: they are not appended, are "
    "written to the wrong slot, or belong to another layer or row",
    "masked": "the mask of a step or chunk hides what it may see, or shows what it may not: with T queries and S keys "
    "the queries are the last T of S (is_causal counts from the top left)",
    "source": "a step reads another source than one pass: that of another row, or without its padding mask",
    "placed": "new keys differ from those of one pass: positions restart at 0, or do not go on from the cache's length",
}
"""By what attention finds in a step."""

CAUSES = {
    "one by one": "the step feeds or reads the wrong slot or position: positions restart at 0, keys are not appended, "
    "or the mask of one query hides the past",
    "a prompt, then one by one": "the prompt is cached otherwise than it is read: positions of the step do not go on "
    "from the prompt's length",
    CHUNKS: "the mask of a chunk is aligned with the first key in place of the last: with T queries and S "
    "keys the queries are the last T of S (is_causal is top-left), or no mask is made once a cache exists",
    ACROSS: PASSED,
    BEYOND: PASSED,
    ROWS: "one position counter or one length for the whole batch, or padding that is seen from the cache",
}


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares each way of feeding the same tokens; the first that differs names the usual fault."""
    if not subject.writes or subject.spec.kind == "prefix":
        return CHECK.skipped(f"nothing is written step by step by an {subject.spec.kind}")
    if subject.spec.step is None:
        return CHECK.skipped("nothing says how to step", "Spec(step=lambda model, batch, cache: (outputs, cache))")
    if subject.random:
        return CHECK.unsure("", RANDOM)
    batch, far = prompted(subject), subject.past_window
    near = feedings(batch.ids.size(1), subject.spec.one_by_one)
    beyond = across_window(far) if far is not subject else {}
    ways = {name: (subject, batch, chunks) for name, chunks in near.items()}
    ways |= {name: (far, far.batch(), chunks) for name, chunks in beyond.items()}
    done = f"fed {batch.ids.size(1)} tokens through the cache ({', '.join(near)})"
    done += f", {far.length} tokens ({', '.join(beyond)})" if beyond else ""
    done += " and compared with one pass"
    if nowhere := no_numbers(subject(batch)):
        return CHECK.unsure(done, f"of one pass, outputs {nowhere}: there is nothing to compare there")
    gaps: dict[str, float] = {}
    notes = "; chunks were not asked, it steps by one" if subject.spec.one_by_one else ""
    unsure, crashed = [], ""
    for name, (probe, given, chunks) in ways.items():
        try:
            agreed, found, double = probe.agree(partial(pair, probe, given, chunks), exact=False)
        except Exception as error:
            if name not in REFUSABLE:
                return _raised(subject, name, done, error, chunks)
            notes += f"; {REFUSABLE[name]} raise {type(error).__name__}"
            if name == ACROSS and not of_pellucid(subject):
                crashed = f"{name}: stepping raises {type(error).__name__}: {error}"
            continue
        gaps[name] = found.share
        if agreed is False:
            return _failed(name, done, gaps, double, chunks, probe)
        if agreed is None:
            unsure.append(name)
    ragged = _ragged(subject, gaps)
    if ragged is False:
        return _failed(ROWS, done, gaps, None, near["one by one"], subject)
    if unsure:
        return CHECK.unsure(done, f"{', '.join(unsure)}: differs by more than rounding usually does", gaps=gaps)
    if crashed:
        fix = f"{EVERYTHING}; where no text is so long, say so: Spec(max_length=…)"
        return CHECK.warned(done, crashed, cause=CROSSED, fix=fix, evidence={"gaps": gaps})
    notes += far.short + (f"; {ROWS} were not asked{ragged}" if isinstance(ragged, str) else "")
    return CHECK.passed(done, f"the same within {max(gaps.values()):.1e} of the largest output{notes}", gaps=gaps)


def no_numbers(outputs: Tensor) -> str:
    """At how many positions outputs (B, T, …) are no numbers, and at which first; empty where all are."""
    wrong = outputs.isnan().flatten(2).any(-1) if outputs.dim() > 2 else outputs.isnan()
    if not bool(wrong.any()):
        return ""
    return f"are no numbers at {int(wrong.sum())} positions, first at {int(wrong.any(0).int().argmax())}"


def _raised(subject: Subject, name: str, done: str, error: Exception, chunks: list[int]) -> Finding:
    """A step that the user wrote and that raises is a fault; one that was found out may be called wrongly."""
    assert subject.spec.step is not None
    seen = f"{name}: stepping raises {type(error).__name__}: {error}"
    if of_pellucid(subject):
        return CHECK.unsure(done, seen)
    return CHECK.failed(
        done,
        seen,
        cause="keys and values of the cache and of the step do not fit: appended along another axis than that of time, "
        "or met by a mask or positions of another length",
        fix="torch.cat([past, new], dim=2) for keys (B, H, S, K)",
        references=REFERENCES,
        evidence={"way": name, "chunks": chunks},
        script=f"""
model.eval()
try:
{textwrap.indent(_script(chunks, subject).replace("model.eval()", "").strip(), "    ")}
except AssertionError:
    raise
except Exception as error:
    raise AssertionError(f"stepping raises {{type(error).__name__}}: {{error}}") from error
""",
    )


def of_pellucid(subject: Subject) -> bool:
    """Whether the step was found out, and not written by the user."""
    return getattr(subject.spec.step, "__module__", "").startswith("pellucid.")


def prompted(subject: Subject) -> Batch:
    """What is written, after sources of different lengths where padding is honoured."""
    spec = subject.spec
    ragged = spec.kind == "encoder_decoder" and spec.masked and spec.example is None
    return padded(subject, "right").batch if ragged else subject.batch()


def feedings(length: int, one_by_one: bool) -> dict[str, list[int]]:
    """The sizes of the chunks, by name."""
    prompt = max(1, length - 5)
    ways = {"one by one": [1] * length, "a prompt, then one by one": [prompt] + [1] * (length - prompt)}
    if one_by_one:
        return {"one by one": ways["one by one"]}
    chunks: list[int] = []
    while sum(chunks) < length:
        chunks.append(min(UNEVEN[len(chunks) % len(UNEVEN)], length - sum(chunks)))
    return ways | {CHUNKS: chunks}


def across_window(subject: Subject) -> dict[str, list[int]]:
    """The same around the end of a window that is too wide to be reached in small steps."""
    length, window = subject.length, subject.spec.widest
    if subject.spec.one_by_one:
        return {ACROSS: [1] * length}
    ways = {ACROSS: window - 3, BEYOND: window + 3}
    return {name: [prompt] + [1] * (length - prompt) for name, prompt in ways.items() if prompt < length}


def pair(subject: Subject, batch: Batch, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Outputs through the cache and of one pass, (B, N, V), at the positions that the steps give outputs for."""
    stepped, places = through_cache(subject, batch, chunks)
    return stepped, subject(batch)[:, places]


def through_cache(subject: Subject, batch: Batch, chunks: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Feeds a batch in chunks; returns the outputs and the positions that they are of."""
    assert subject.spec.step is not None
    cache, at, outputs = None, 0, []
    places: list[int] = []
    with subject.mode(False), torch.no_grad():
        for size in chunks:
            subject.reseed()
            found, cache = subject.spec.step(subject.model, part(batch, at, size), cache)
            at += size
            outputs.append(found)
            places += range(at - found.size(1), at)  # some give the outputs of the last token alone
    return torch.cat(outputs, dim=1), places


def part(batch: Batch, at: int, size: int) -> Batch:
    """The next ``size`` tokens, with the padding of all that came before as well."""
    end = at + size
    return batch.with_(
        ids=batch.ids[:, at:end],
        keep=None if batch.keep is None else batch.keep[:, :end],
        positions=None if batch.positions is None else batch.positions[:, at:end],
    )


def left_padded(batch: Batch, shortest: int = 3) -> Batch:
    """The same ids with the rows' beginnings as padding, more in each row; and the positions of what is left."""
    rows, length = batch.ids.shape[:2]
    gone = torch.tensor([row * max(1, (length - shortest) // (2 * max(1, rows - 1))) for row in range(rows)])
    keep = (torch.arange(length) >= gone[:, None]).to(batch.ids.device)
    return batch.with_(keep=keep, positions=(keep.cumsum(1) - 1).clamp(min=0))


def first_apart(subject: Subject, batch: Batch, chunks: Sequence[int]) -> int:
    """The first position whose output through the cache is another than that of one pass."""
    stepped, places = through_cache(subject, batch, chunks)
    apart = moved(stepped, subject(batch)[:, places]).amax(0) > tolerances.SHAPE_PASS
    return places[int(apart.int().argmax())]


def _ragged(subject: Subject, gaps: dict[str, float]) -> bool | str:
    """Rows padded on the left, against one pass with the same padding; a text, why it was not asked, where it was not.

    The user's own step need not take padding, also where the model does.
    """
    spec = subject.spec
    if not spec.masked or "no_left_pad" in spec.declare or spec.kind == "encoder_decoder":
        return ""
    batch = left_padded(subject.batch())
    chunks = feedings(batch.ids.size(1), spec.one_by_one)
    sizes = chunks.get("a prompt, then one by one", chunks["one by one"])
    if not of_pellucid(subject) and not _pads(subject, batch.with_(positions=None), sizes):
        return ", the step takes no padding"
    for each in (batch.with_(positions=None), batch):

        def real(each: Batch = each) -> tuple[Tensor, Tensor]:
            stepped, places = through_cache(subject, each, sizes)
            assert each.keep is not None
            keep = each.keep[:, places]
            whole = subject(each)[:, places]
            zero = torch.zeros_like(whole)
            shape = (*keep.shape, *[1] * (whole.dim() - 2))
            return torch.where(keep.view(shape), stepped, zero), torch.where(keep.view(shape), whole, zero)

        try:
            agreed, found, _ = subject.agree(real, exact=False)
        except Exception:
            return ", the step takes no padding"
        gaps[ROWS] = found.share
        if agreed:
            return True
    return False


def _pads(subject: Subject, batch: Batch, chunks: Sequence[int]) -> bool:
    """Whether padding moves what steps give, or makes them raise."""
    try:
        one, other = (through_cache(subject, each, chunks)[0] for each in (batch, batch.with_(keep=None)))
    except Exception:  # which is looked at where they are compared
        return True
    return bool(gap(one, other))


def _failed(
    name: str, done: str, gaps: dict[str, float], double: float | None, chunks: list[int], subject: Subject
) -> Finding:
    fault, seen = StepFault(), f"{name}: outputs differ by {gaps[name]:.2g} of the largest"
    if name != ROWS:
        batch = prompted(subject)
        position = first_apart(subject, batch, chunks)
        fault = step_fault(subject, batch, chunks, position)
        seen += f", first at position {position}"
    if name == CHUNKS:
        seen += "; one token at a time agrees: only chunks of several tokens after others fail"
    return CHECK.failed(
        done,
        seen,
        where=fault.where,
        cause=ADDED if fault.added else WHY.get(fault.why, CAUSES[name]),
        fix=HIDE if fault.why == "masked" else EVERYTHING,
        references=REFERENCES,
        evidence={"gaps": gaps, "in_double": double, "way": name, "chunks": chunks, "why": fault.why,
                  "mask": fault.mask, "added": fault.added},
        script=RAGGED if name == ROWS else _script(chunks, subject),
    )  # fmt: skip


def _script(chunks: list[int], subject: Subject) -> str:
    feed = feeding(subject)
    return f"""
model.eval()
{feed.lines}
whole, cache, gaps, at = {feed.whole}.nan_to_num(0, 0, 0), None, [], 0
for size in {chunks}:
    found, cache = {feed.step("ids[:, at : at + size]", "cache")}
    at += size
    apart = found[:, -1].nan_to_num(0, 0, 0) - whole[:, at - 1]
    gaps.append(apart.abs().max() / whole.flatten(0, 1).std(0).max())
assert max(gaps) < 1e-4, f"writing with the cache differs from one pass by {{max(gaps):.3g}} of what outputs vary by"
"""
