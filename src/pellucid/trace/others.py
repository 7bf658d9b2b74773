"""A tape of a model that is not ours: its modules by their paths, its attention by what is in every attention.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf, isclose
from typing import Any

from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.trace.calls import Call, numbered, tensors_in
from pellucid.trace.finder import Found, seeking
from pellucid.trace.operations import Given, Softmax
from pellucid.trace.sites import Site
from pellucid.trace.tape import Entry, Held, Tape
from pellucid.trace.working import Index, Operand, Step, Working, along, product, row, scored, single

NOWHERE = ("", 0)


@contextmanager
def tracing_others(model: nn.Module, tape: Tape) -> Iterator[Tape]:
    """Fills the tape when the block ends.

    Raises:
        UserError: for edits, which want a model that names its tensors itself.
    """
    if tape.edits:
        hint = "load it with pellucid.load, if its layout is known, and edit that"
        raise UserError("edits", f"{type(model).__name__} names no tensors of its own", "a model of pellucid", hint)
    returned: list[tuple[Call, dict[str, Tensor], dict[str, Tensor]]] = []

    def enter(call: Call, arguments: tuple[Any, ...]) -> None:
        search.watch.heard.enter(id(call), tensors_in(arguments))

    def hear(call: Call, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        heard = search.watch.heard
        inputs = heard.leave(id(call), tensors_in(arguments) | tensors_in(keywords))
        returned.append((call, inputs, heard.hear(tensors_in(result))))

    with seeking(model, hear, enter) as search:
        yield tape
    found = search.found(None)
    tape.coverage = found.coverage
    _Filling(tape, found, numbered(search.watch.stack.calls)).fill(returned)


@dataclass
class _Filling:
    """Puts what was seen on a tape: of each module what it was given, what it attended by, what it returned."""

    tape: Tape
    found: Found
    names: dict[int, str]
    told: set[str] = field(default_factory=set)

    def fill(self, returned: list[tuple[Call, dict[str, Tensor], dict[str, Tensor]]]) -> None:
        for call, inputs, outputs in returned:
            path = self.names[id(call)]
            kind = type(call.module).__name__
            for key, tensor in inputs.items():
                held = self.tape.input(tensor)
                if isinstance(held, Held):  # what came out of another module has that name already
                    self._add(self._named(path, "in", key if len(inputs) > 1 else ""), kind, tensor, Given(), (held,))
            for site in self.found.sites:
                if site.name == path:
                    self._site(site)
            given = tuple(self.tape.input(tensor) for tensor in inputs.values())
            for key, tensor in outputs.items():
                name = self._named(path, "out", key if len(outputs) > 1 else "")
                self._add(name, kind, tensor, Opaque(_described(call.module)), given)
        for site in self.found.sites:
            if site.name not in self.told:
                self._site(site)

    def _site(self, site: Site) -> None:
        self.told.add(site.name)
        names = {part: self._named(site.name, part) for part in ("q", "k", "v", "mask", "scores", "weights", "context")}
        for part in ("q", "k", "v"):
            tensor = getattr(site, part)
            self._add(names[part], site.module, tensor, Given(), (Held(tensor, "given"),))
        if site.mask is not None:
            self._add(names["mask"], site.module, site.mask, Given(), (Held(site.mask, "given"),))
        operands = (names["q"], names["k"])
        self._later(names["scores"], site, SiteScores(site), operands)
        self._later(names["weights"], site, SiteWeights(site), (names["scores"],))
        self._add(names["context"], site.module, site.context, SiteContext(site), (names["weights"], names["v"]))

    def _later(self, name: str, site: Site, operation: Any, inputs: tuple[str, ...]) -> None:
        """What no kernel has stored is computed where it is watched, or when it is asked for."""
        shape = (site.q.size(0), site.q.size(1), site.q.size(2), site.k.size(2))
        if self.tape.wants(name):
            self._add(name, site.module, operation.compute(), operation, inputs)
        else:
            entry = Entry(name, site.module, shape, site.q.dtype, operation, inputs, NOWHERE, device=site.q.device)
            self.tape.entries[name] = entry

    def _named(self, *parts: str) -> str:
        name = ".".join(filter(None, parts))
        return self.tape.renamed.get(name, name)

    def _add(self, name: str, kind: str, tensor: Tensor, operation: Any, inputs: tuple[str | Held, ...]) -> None:
        entry = Entry(name, kind, tuple(tensor.shape), tensor.dtype, operation, inputs, NOWHERE, device=tensor.device)
        self.tape.add(entry, name, tensor, fresh=True)


def _described(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


@dataclass(frozen=True)
class Opaque:
    """What a module makes that does not say how: its output was seen, and no more."""

    formula: str

    def compute(self, *operands: Any) -> Tensor:
        raise UserError(self.formula, "does not say how it computes", "a trace that watches what comes out of it")

    def explain(self, index: Index, *operands: Operand) -> Working:
        found, hint = "does not say how it computes", "scores, weights and context of an attention can be explained"
        raise UserError(self.formula, found, "a module of ours, or a part of an attention", hint)


@dataclass(frozen=True)
class SiteScores:
    """What the softmax is taken of."""

    site: Site
    formula: str = "Σ q · k · scale, with mask and bias"

    def compute(self, *operands: Any) -> Tensor:
        return self.site.scores()

    def explain(self, index: Index, *operands: Operand) -> Working:
        batch, head, query, key = index
        q, k = operands
        group = head // (q.value.size(1) // k.value.size(1))
        found = self.compute()[index].item()

        def after(total: float) -> list[Step]:
            steps = self._steps(total, index)
            agrees = isclose(steps[-1].value, found, rel_tol=1e-4, abs_tol=1e-4)
            return steps if agrees else [Step("× scale, + mask and bias", found)]

        return product(row(q, (batch, head, query), "q"), row(k, (batch, group, key), "k"), steps=after)

    def _steps(self, total: float, index: Index) -> list[Step]:
        formula, shape = self.site.formula, (*self.site.q.shape[:3], self.site.k.size(2))

        def here(numbers: Tensor) -> float:
            return numbers.expand(shape)[index].item()

        scale = here(formula.scale) if isinstance(formula.scale, Tensor) else formula.scale
        bias = None if formula.bias is None else here(formula.bias)
        hidden = formula.fill if formula.keep is not None and not here(formula.keep) else None
        hidden = -inf if formula.causal and index[3] > index[2] else hidden
        return scored(total, scale, formula.softcap, bias, hidden)


@dataclass(frozen=True)
class SiteWeights:
    """The softmax of the scores."""

    site: Site
    formula: str = "exp(score) / Σ exp(scores)"

    def compute(self, *operands: Any) -> Tensor:
        return self.site.weights()

    def explain(self, index: Index, *operands: Operand) -> Working:
        weight = self.compute()[index].item()
        plain = Softmax().explain(index, *operands)
        if isclose(plain.value, weight, rel_tol=1e-4, abs_tol=1e-7):
            return plain
        return product(single(operands[0], index), steps=lambda total: [Step("softmax of its row", weight)])


@dataclass(frozen=True)
class SiteContext:
    """What each head gathers."""

    site: Site
    formula: str = "Σ weights · v"

    def compute(self, *operands: Any) -> Tensor:
        return self.site.mixed()

    def explain(self, index: Index, *operands: Operand) -> Working:
        weights, v = operands
        batch, head, query, coordinate = index
        group = head // (weights.value.size(1) // v.value.size(1))
        return product(
            row(weights, (batch, head, query), "weights"),
            along(v.name, v.value[batch, group, :, coordinate], lambda term: (batch, group, term, coordinate), "v"),
        )
