"""Finds every place where a model attends, in any model, with its fused kernels left on.

One pass of the model is watched below autograd (:mod:`~pellucid.trace.intercept`). A fused kernel is read from its
arguments (:mod:`~pellucid.trace.fused`); attention in steps from the softmax and the products around it
(:mod:`~pellucid.trace.products`). Every site is recomputed from its queries, keys, values and mask, and compared with
what the model's own kernel returned: what does not agree is said to be not verified, never shown as if it were.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.trace import fused, products
from pellucid.trace.calls import Call, Entered, Returned, enclosing, following
from pellucid.trace.expressions import Expression
from pellucid.trace.formulas import UnclearError
from pellucid.trace.intercept import Watch
from pellucid.trace.provenance import Node, kind
from pellucid.trace.sites import Site
from pellucid.trace.uncompiled import uncompiled

_CLAIMS = re.compile(
    r"(?i:attention|attn|mamba|mixer|rwkv|retention|deltanet|hyena|longconv|shortconv)|SSM|Ssm[A-Z]|SSD"
)
_PARTS = re.compile(r"norm|embedding|dropout|output|mask|config|feed", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Found:
    """What :func:`find_attention` saw.

    Args:
        sites: in order of computation.
        unexplained: module path and reason, for each softmax that met values and each kernel that could not be read.
        silent: module path and class, for each module that calls itself attention and in which none was seen.
        output: what the model returned.
    """

    sites: tuple[Site, ...]
    unexplained: tuple[tuple[str, str], ...]
    silent: tuple[tuple[str, str], ...]
    output: Any

    def __getitem__(self, name: str) -> Site:
        """The site of that name.

        Raises:
            UserError: when there is none.
        """
        names = [site.name for site in self.sites]
        if name not in names:
            raise UserError("site", f"there is no {name!r}", hint="sites: " + (", ".join(names) or "none"))
        return self.sites[names.index(name)]

    @property
    def coverage(self) -> str:
        """One line: how many sites, how many verified, what was not understood."""
        sites = len(self.sites)
        verified = sum(site.verified for site in self.sites)
        parts = [f"{sites} attention site{'s' * (sites != 1)} found, {verified} verified"]
        if replayed := sum(site.replay is not None for site in self.sites):
            parts.append(f"{replayed} of them step by step")
        parts.append(f"{len(self.unexplained)} softmaxes or kernels unexplained{_listed(self.unexplained)}")
        if self.silent:
            classes = Counter(name for _, name in self.silent)
            names = ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in classes.items())
            parts.append(f"no softmax attention seen in {names}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """All but the tensors."""
        return {
            "coverage": self.coverage,
            "sites": [site.as_dict() for site in self.sites],
            "unexplained": [{"module": path, "why": why} for path, why in self.unexplained],
            "silent": [{"module": path, "class": name} for path, name in self.silent],
        }


def find_attention(model: nn.Module, *args: Any, **kwargs: Any) -> Found:
    """Runs the model once and finds every place where softmax(q kᵀ · scale + mask) v is computed.

    The result is the one of an untraced run, bit for bit, random numbers included; a compiled model runs eagerly. The
    model keeps nothing: no hook, no mode, also after an exception. Sites keep their operands; scores and weights are
    computed when asked for.

    Args:
        args: passed to the model, with ``kwargs``.
    """
    with seeking(model) as search:
        output = model(*args, **kwargs)
    return search.found(output)


@contextmanager
def seeking(model: nn.Module, returned: Returned | None = None, entered: Entered | None = None) -> Iterator[Search]:
    """The same for all that a ``with`` block does with the model.

    Args:
        returned: hears what each module was given and returned; ``entered``, what it is given before it begins.
    """
    search = Search()
    search.watch = watch = Watch(model, search.attended, search.called)
    try:
        with uncompiled(), following(watch.stack, returned, entered), watch:
            yield search
    finally:
        watch.provenance.clear()
        watch.heard.clear()


class Search:
    """Makes sites of what the watch tells."""

    def __init__(self) -> None:
        self.watch: Watch
        self.sites: list[tuple[Call, Site]] = []
        self.unexplained: list[tuple[Call, str]] = []

    def found(self, output: Any) -> Found:
        """All that was seen."""
        unexplained = tuple((_path(call), why) for call, why in self.unexplained)
        calls = [call for call, _ in self.sites], [call for call, _ in self.unexplained]
        return Found(_numbered(self.sites), unexplained, _silent(self.watch.stack.calls, *calls), output)

    def attended(self, weights: Expression, right: bool, values: Any, node: Node | None, output: Tensor) -> None:
        current = self.watch.stack.current
        if not weights.explained:
            self.unexplained.append((current, "a softmax of something that is no product of two activations"))
            return
        try:
            site, root = products.site_of(weights, right, values, output)
        except UnclearError as error:
            self.unexplained.append((current, str(error)))
            return
        except Exception as error:  # what we cannot read must not stop the model
            self.unexplained.append((current, f"reading it failed: {type(error).__name__}: {error}"))
            return
        # Softmax and dropout are often modules of their own: the site is where both products are.
        call = enclosing(root.call, current)
        self.sites.append((call, replace(site, module=type(call.module).__name__, kind=kind(root.nodes, node, call))))

    def called(self, func: Any, arguments: dict[str, Any], result: Any) -> bool:
        current = self.watch.stack.current
        name = (func.name() if hasattr(func, "_schema") else str(func)).split(".")[0]
        try:
            site = fused.site_of(name, arguments, result)
            if site is None:
                return False
            site = site if site.kind is not None else self._traced(site, arguments)
        except UnclearError as error:
            self.unexplained.append((current, str(error)))
        except Exception as error:  # nor must this
            self.unexplained.append((current, f"reading {name} failed: {type(error).__name__}: {error}"))
        else:
            self.sites.append((current, replace(site, module=type(current.module).__name__)))
        return True

    def _traced(self, site: Site, arguments: dict[str, Any]) -> Site:
        """What the way of a kernel's operands says: self or cross, scaled before, repeated for the heads."""
        provenance, operands = self.watch.provenance, [fused.argument(arguments, which) for which in ("q", "k", "v")]
        q, k, v = (provenance.node(x) for x in operands)
        site = replace(site, kind=kind((q, k), v, self.watch.stack.current))
        ways = [provenance.expression(x) for x in operands]
        site = products.unscaled(site, ways[0], ways[1])
        return products.ungrouped(site) if all(products.repeats(way) for way in ways[1:]) else site


def _path(call: Call) -> str:
    return call.path or type(call.module).__name__


def _numbered(found: Sequence[tuple[Call, Site]]) -> tuple[Site, ...]:
    count: Counter[str] = Counter()
    sites = []
    for call, site in found:
        path = _path(call)
        sites.append(replace(site, name=f"{path}#{count[path]}" if count[path] else path))
        count[path] += 1
    return tuple(sites)


def _silent(calls: Sequence[Call], sites: Sequence[Call], unexplained: Sequence[Call]) -> tuple[tuple[str, str], ...]:
    """Modules that call themselves attention, and neither they nor what is in or around them attends."""
    busy = {id(call.module) for found in (*sites, *unexplained) for call in found.line()}
    attends = {id(call.module) for call in (*sites, *unexplained)}
    silent: dict[str, str] = {}
    for call in calls:
        name = type(call.module).__name__
        claims = [one for one in call.line() if _claims(one)]
        if not claims or claims[0] is not call or id(call.module) in busy:
            continue
        if any(id(one.module) in busy for one in claims[1:]) or any(id(one.module) in attends for one in call.line()):
            continue  # a part of something that does attend
        if len(claims) == 1:
            silent.setdefault(_path(call), name)
    return tuple(silent.items())


def _claims(call: Call) -> bool:
    name = type(call.module).__name__
    whole = call.parent is None or bool(re.search(r"model|block|layer$", name, re.IGNORECASE))
    return bool(_CLAIMS.search(name)) and not _PARTS.search(name) and not whole


def _listed(unexplained: Sequence[tuple[str, str]]) -> str:
    if not unexplained:
        return ""
    reasons = Counter(why for _, why in unexplained)
    return " (" + "; ".join(f"{why} ×{count}" if count > 1 else why for why, count in reasons.items()) + ")"
