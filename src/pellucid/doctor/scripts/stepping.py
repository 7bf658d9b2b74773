"""How a script writes step by step: ``step``, ``stepped``, ``reorder``, ``poison``.

Shapes: B batch, T positions, S source positions, V outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pellucid.doctor.scripts.definition import Definition, copied, holds, own, to_fill
from pellucid.doctor.scripts.observing import expressed, observed, part_of
from pellucid.doctor.scripts.sampled import sampled
from pellucid.doctor.spec import Batch, Step
from pellucid.doctor.subject import Subject


@dataclass(frozen=True)
class Feeding:
    """How a script writes with a cache: after sources of different lengths where padding is honoured.

    Attributes:
        lines: that come first.
        whole: one pass.
    """

    lines: str
    whole: str
    more: str = ""
    name: str = "step"

    def step(self, ids: str, cache: str, rows: str = "") -> str:
        """A step with some ids, of all rows or of some."""
        more = "".join(f", {each}{rows}" for each in self.more.split())
        return f"{self.name}({ids}, {cache}{more})"

    def prompt(self, one_by_one: bool) -> str:
        """Lines that feed the first eight tokens."""
        if one_by_one:
            return f"cache = None\nfor at in range(8):\n    _, cache = {self.step('ids[:, at : at + 1]', 'cache')}"
        return f"_, cache = {self.step('ids[:, :8]', 'None')}"


def feeding(subject: Subject) -> Feeding:
    """How steps of a model are written in a script."""
    spec = subject.spec
    if spec.kind != "encoder_decoder":
        return Feeding(f"ids = {sampled(subject)}", "call(ids)")
    lines = "ids, source = sample(1), sample_source(9)"
    if not spec.masked or spec.example is not None:
        return Feeding(lines, "translated(source, ids)", "source")
    lines += "\nkeep = torch.arange(source.size(1)) < source.size(1) - torch.tensor([0, 4, 8])[:, None]"
    pad = f"\nsource = source.masked_fill(~keep, {spec.pad_id})" if spec.pad_id is not None else ""
    return Feeding(lines + pad, "masked(source, ids, keep)", "source keep", "stepped")


CACHES = (".cache", ".past_key_values", "[1]", "[2]", "['cache']", "[-1]")


def step(subject: Subject) -> Definition:
    """Outputs of new ids, and the cache with them."""
    return _stepping(subject, "step", "ids, cache, source=None", subject.batch())


def stepped(subject: Subject) -> Definition:
    """The same with padding on the left; of an encoder–decoder with padding of the source."""
    given = subject.batch()
    text = given.ids if given.source is None else given.source
    keep = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    keep[1, :2] = False
    if given.source is None:
        return _stepping(subject, "stepped", "ids, cache, keep", given.with_(keep=keep))
    return _stepping(subject, "stepped", "ids, cache, source, keep", given.with_(source_keep=keep))


def reorder(subject: Subject) -> Definition:
    """The rows of a cache chosen anew."""
    return copied(subject.spec.reorder, "reorder(cache, rows)", "the cache with these rows", subject)


def poison(subject: Subject) -> Definition:
    """Garbage in what is not in use."""
    what = "the cache with garbage in every slot that is not in use"
    return copied(subject.spec.poison, "poison(cache)", what, subject)


def _stepping(subject: Subject, name: str, arguments: str, whole: Batch) -> Definition:
    run, head = subject.spec.step, f"{name}({arguments})"
    what = "the outputs of the new ids, and the cache with them"
    if run is None:
        return to_fill(head, what)
    size = 1 if subject.spec.one_by_one else 5
    first, later = _part(whole, 0, size), _part(whole, size, size + 1)

    def theirs(model: Any) -> Any:
        return run(model, later, run(model, first, None)[1])

    def ours(space: dict[str, Any]) -> Any:
        more = [[x for x in (each.source, each.keep, each.source_keep) if x is not None] for each in (first, later)]
        _, cache = space[name](first.ids, None, *more[0])
        return space[name](later.ids, cache, *more[1])

    for definition in _ways(subject, run, name, head, (first, later)):
        if holds(subject, definition, ours, theirs):
            return definition
    return to_fill(head, what)


def _part(whole: Batch, at: int, end: int) -> Batch:
    return whole.with_(ids=whole.ids[:, at:end], keep=None if whole.keep is None else whole.keep[:, :end])


def _ways(subject: Subject, run: Step, name: str, head: str, batches: tuple[Batch, Batch]) -> Iterator[Definition]:
    """Definitions to be tried: the model's own call, and the user's function."""
    first, later = batches
    try:
        with subject.mode(False), torch.no_grad():
            _, cache = run(subject.model, first, None)
            seen = observed(subject.model, lambda model: run(model, later, cache))
    except Exception:  # a script is a help, and must not cost the finding
        seen = None
    if seen is not None:
        keep = later.keep if later.keep is not None else later.source_keep
        names = {"cache": cache, "ids": later.ids, "source": later.source, "keep": keep}
        outputs, after = seen.value
        text = seen.call({key: value for key, value in names.items() if value is not None})
        taken, kept = part_of(seen.result, outputs), _cache_in(seen.result, after)
        if text and taken is not None and kept is not None:
            yield Definition(f"def {head}:\n    found = {text}\n    return found{taken}, found{kept}")
        elif text and taken is not None and expressed(after, {"cache": cache}) == "cache":  # written to in place
            yield Definition(f"def {head}:\n    return {text}{taken}, cache")
    told = "ids=ids, keep=keep" if later.keep is not None else "ids=ids, source=source"
    told += ", source_keep=keep" if later.source_keep is not None else ""
    definition = own(run, f"_{name}", f"def {head}:\n    return _{name}(model, as_batch({told}), cache)", subject)
    if definition is not None:
        yield definition


def _cache_in(result: Any, cache: Any) -> str | None:
    """What takes the cache out of what a model returned."""
    for suffix in CACHES:
        try:
            if eval(f"result{suffix}", {"result": result}) is cache:
                return suffix
        except Exception:  # what is not there
            continue
    return None
