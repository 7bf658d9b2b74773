"""Where every tensor of a running model comes from, by identity, without keeping any alive.

Two things are known of a tensor: its ``Node``, what it was computed from (no numbers; kept for the whole run), and, for
scores and weights, its :class:`~pellucid.trace.expressions.Expression` (forgotten with the tensor).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from pellucid.trace.calls import Call
from pellucid.trace.expressions import Expression
from pellucid.trace.overwritten import address

_SWEEP = 64  # operations between two clearings of what was said of dead tensors


class Node:
    """A tensor as a point of the graph.

    Args:
        parents: what it was computed from, parameters left out.
        time: when, by the clock of the trace; -1 for what came from outside.
        projected: whether a parameter was multiplied in.
        base: for a view, the node of the tensor viewed.
    """

    __slots__ = ("base", "parents", "projected", "time")

    def __init__(self, parents: tuple[Node, ...], time: int, projected: bool = False, base: Node | None = None) -> None:
        self.parents, self.time, self.projected = parents, time, projected
        self.base: Node = self if base is None else base.base


class _Entry:
    __slots__ = ("expression", "node", "ref", "storage", "weight")

    def __init__(self, tensor: Tensor, node: Node) -> None:
        # A reference of PyTorch's own: Python's breaks when a tensor lives on in C++ and comes back.
        self.ref = torch._C._WeakTensorRef(tensor)  # type: ignore[attr-defined]
        self.node, self.storage = node, address(tensor)
        self.expression: Expression | None = None
        self.weight = False


class Provenance:
    """What is known of the tensors alive.

    Args:
        constants: parameters and buffers, from which nothing is said to come.
    """

    def __init__(self, constants: Iterable[Tensor]) -> None:
        self.time = 0
        self._entries: dict[int, _Entry] = {}
        self._constants = {address(tensor) for tensor in constants if not tensor.is_nested}

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether it is a parameter or buffer, or a view of one."""
        return address(tensor) in self._constants

    def node(self, tensor: Tensor) -> Node | None:
        """What it was computed from; a new node for what came from outside; none for a constant."""
        entry = self._entry(tensor)
        if entry is None:
            if self.is_constant(tensor):
                return None
            entry = self._entries[id(tensor)] = _Entry(tensor, Node((), -1))
        return None if entry.weight else entry.node

    def expression(self, tensor: Tensor) -> Expression | None:
        """How it was computed, where that is known."""
        entry = self._entry(tensor)
        return None if entry is None else entry.expression

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether it is a constant, or constants put together."""
        entry = self._entry(tensor)
        return self.is_constant(tensor) or (entry is not None and entry.weight)

    def put(self, tensor: Tensor, node: Node, expression: Expression | None, weight: bool = False) -> None:
        """Says where a tensor comes from, also when it was written anew."""
        entry = self._entries[id(tensor)] = _Entry(tensor, node)
        entry.expression, entry.weight = expression, weight

    def sharing(self, tensor: Tensor) -> list[_Entry]:
        """What is said of other tensors over the same memory."""
        own, memory = id(tensor), address(tensor)
        return [
            entry
            for key, entry in self._entries.items()
            if entry.storage == memory and key != own and entry.expression is not None and not entry.ref.expired()
        ]

    def tick(self) -> None:
        """One operation passed."""
        self.time += 1
        if self.time % _SWEEP == 0:
            self._entries = {key: entry for key, entry in self._entries.items() if not entry.ref.expired()}

    def clear(self) -> None:
        """Lets go of everything."""
        self._entries.clear()

    def _entry(self, tensor: Tensor) -> _Entry | None:
        entry = self._entries.get(id(tensor))
        if entry is not None and (entry.ref.expired() or entry.storage != address(tensor)):
            return None  # an address used again
        return entry


def kind(others: Iterable[Node | None], v: Node | None, call: Call) -> Literal["self", "cross"] | None:
    """Whether values come from what queries and keys come from, seen from the call in which they were projected.

    Args:
        others: of queries and keys, in any order.
    """
    pair = [node for node in others if node is not None]
    if v is None or len(pair) < 2:
        return None
    early = False
    for frame in call.line():
        values, also = _sources(v, frame.began)
        found = [_sources(node, frame.began) for node in pair]
        sources = [one for one, _ in found]
        # Positions may be all that queries and keys share; or values come by a way of their own, as in MobileBERT.
        unsure = bool(sources[0] & sources[1]) and not all(one & values for one in sources)
        if frame.parent is not None and (unsure or not (also and all(projected for _, projected in found))):
            early |= any(projected for _, projected in found)
            continue
        if early:  # keys were projected elsewhere, as for a cache: what a decoder's queries know, its source does not
            return "self" if all(one <= values for one in sources) else "cross"
        return "self" if all(one & values for one in sources) else "cross"
    return None


def _sources(node: Node, began: int) -> tuple[set[int], bool]:
    """Identities of what came into the call on the way to the node; whether a projection lies between."""
    found: set[int] = set()
    seen: set[int] = set()
    projected = False
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if one.time <= began:
            found.add(id(one.base))
        else:
            projected |= one.projected
            waiting.extend(one.parents)
    return found, projected
