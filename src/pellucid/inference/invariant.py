"""Batch-invariant writing: the scores of a text have the same bits, whoever is written beside it.

Sums of floating-point numbers depend on their order, and kernels choose it by shape: a product of 1 row takes another
path than one of 32, a last few numbers another than those before them. So every product is given the same shape: texts
stand in groups of one size and one length, which copies fill up where there are too few.

Measured on CPU with torch 2.13, what differed between batches was ``F.linear`` below 4 rows, batched products below 16,
attention over padded keys, and SiLU and GELU (tanh) in the numbers that do not fill two vectors of 16; softmax, norms
and attention over equally many keys did not. Within one shape, rows had the same bits wherever they stood and whatever
stood beside them, where no such numbers are left over: where G times each width is a multiple of 32 times the number
of threads. A group of one needs no condition.

Shapes: B rows, G texts of a group, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd, lcm
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.inference.prefixes import copied
from pellucid.inference.rules import check
from pellucid.inference.writer import Ids, Writer

LEAST, MOST = 8, 64  # texts of a group; fewer multiply slowly, and one alone takes the time and room of all


def group_for(widths: Iterable[int], threads: int) -> int:
    """The smallest group in which no numbers are left over, for vectors of these widths; else one text by itself."""
    whole = 32 * threads
    needed = lcm(*(whole // gcd(whole, width) for width in widths))
    group = -(-LEAST // needed) * needed
    return group if group <= MOST else 1


class Invariant:
    """A writer whose scores do not depend on the batch, to the last bit.

    Args:
        group: G, texts that are written together. One alone costs as much as so many; see :func:`group_for`.
    """

    def __init__(self, writer: Writer, group: int = LEAST) -> None:
        check(group > 0, "group", group, "more than 0")
        self.writer, self.group = writer, group

    @property
    def limit(self) -> int | None:
        return self.writer.limit

    @property
    def source_limit(self) -> int | None:
        return self.writer.source_limit

    @property
    def device(self) -> torch.device:
        return self.writer.device

    def prefill(self, prompts: Ids, sources: Sequence[Any] | None = None) -> tuple[Float[Tensor, "B V"], InvariantRows]:
        """As :meth:`Writer.prefill`."""
        alike: dict[Any, list[int]] = {}
        for i, prompt in enumerate(prompts):
            read = None if sources is None else tuple(torch.as_tensor(sources[i]).shape)
            alike.setdefault((len(prompt), read), []).append(i)
        rows = InvariantRows(self.group, [], [(0, 0)] * len(prompts))
        scores: dict[int, Tensor] = {}
        for (_, read), members in alike.items():
            for now in _chunks(members, self.group):
                full = _filled(now, self.group)
                given = None if sources is None else [sources[i] for i in full]
                logits, inner = self.writer.prefill([prompts[i] for i in full], given)
                for slot, i in enumerate(now):
                    scores[i], rows.places[i] = logits[slot], (len(rows.groups), slot)
                rows.groups.append(_Group(inner, read))
        return torch.stack([scores[i] for i in range(len(prompts))]), rows

    def extend(self, tokens: Int[Tensor, "B T"], rows: InvariantRows) -> Float[Tensor, "B T V"]:
        """As :meth:`Writer.extend`."""
        scores: dict[int, Tensor] = {}
        for g, group in enumerate(rows.groups):
            inside = {slot: i for i, (own, slot) in enumerate(rows.places) if own == g}
            beside = next(iter(inside.values()))
            full = [inside.get(slot, beside) for slot in range(self.group)]
            found = self.writer.extend(tokens[torch.tensor(full, device=tokens.device)], group.rows)
            scores.update((i, found[slot]) for slot, i in inside.items())
        return torch.stack([scores[i] for i in range(tokens.size(0))])


@dataclass
class _Group:
    """Texts of one length, as many as a group has, some of which nobody asked for.

    Attributes:
        read: the shape of their sources.
    """

    rows: Any
    read: Any

    @property
    def length(self) -> int:
        """How many tokens each has been fed."""
        return int(self.rows.lengths[0])


@dataclass
class InvariantRows:
    """Rows in groups.

    Attributes:
        size: G.
        places: the group of each row, and its slot there.
    """

    size: int
    groups: list[_Group]
    places: list[tuple[int, int]]

    @property
    def lengths(self) -> list[int]:
        return [self.groups[group].length for group, _ in self.places]

    def select(self, rows: Sequence[int]) -> None:
        """As :meth:`Rows.select`."""
        places = [self.places[row] for row in rows]
        self._regroup(places, [self.groups[group].length for group, _ in places])

    def join(self, other: InvariantRows) -> None:
        """As :meth:`Rows.join`."""
        behind = [(group + len(self.groups), slot) for group, slot in other.places]
        self.groups, self.places = self.groups + other.groups, self.places + behind
        self._merge()

    def crop(self, lengths: Sequence[int]) -> None:
        """As :meth:`Rows.crop`."""
        self._regroup(self.places, [min(own, length) for own, length in zip(self.lengths, lengths, strict=True)])

    def _regroup(self, places: Sequence[tuple[int, int]], lengths: Sequence[int]) -> None:
        """Rows from these places of the present groups, cut to these lengths; rows of a group end equally long."""
        alike: dict[tuple[int, int], list[int]] = {}
        for row, ((group, _), length) in enumerate(zip(places, lengths, strict=True)):
            alike.setdefault((group, length), []).append(row)
        parts = [(key, now) for key, rows in alike.items() for now in _chunks(rows, self.size)]
        last = {group: i for i, ((group, _), _) in enumerate(parts)}  # who may take the group itself, not a copy
        groups: list[_Group] = []
        found = [(0, 0)] * len(places)
        for i, ((group, length), now) in enumerate(parts):
            old = self.groups[group]
            slots = [places[row][1] for row in now]
            rows = old.rows if last[group] == i else copied(old.rows, range(self.size))
            if slots != list(range(len(slots))):
                rows.select(_filled(slots, self.size))
            if length < old.length:
                rows.crop([length] * self.size)
            for slot, row in enumerate(now):
                found[row] = len(groups), slot
            groups.append(_Group(rows, old.read))
        self.groups, self.places = groups, found
        self._merge()

    def _merge(self) -> None:
        """Puts groups of one length together where they fit into one."""
        counts = [sum(own == g for own, _ in self.places) for g in range(len(self.groups))]
        into: dict[Any, int] = {}
        for g in sorted(range(len(self.groups)), key=lambda g: -counts[g]):
            key = self.groups[g].length, self.groups[g].read
            host = into.setdefault(key, g)
            if host == g or counts[host] + counts[g] > self.size:
                into[key] = g  # the emptier of the two, for others to come
                continue
            slots = [slot for g_, slot in self.places if g_ == host]
            more = [slot for g_, slot in self.places if g_ == g]
            self.groups[host].rows.join(self.groups[g].rows)
            self.groups[host].rows.select(_filled([*slots, *(self.size + slot for slot in more)], self.size))
            moved = iter(range(counts[host] + counts[g]))
            news = {(host, slot): next(moved) for slot in slots} | {(g, slot): next(moved) for slot in more}
            self.places = [(host, news[place]) if place in news else place for place in self.places]
            counts[host], counts[g] = counts[host] + counts[g], 0
        stay = [g for g, count in enumerate(counts) if count]
        self.groups = [self.groups[g] for g in stay]
        self.places = [(stay.index(g), slot) for g, slot in self.places]


def _chunks(rows: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _filled(rows: Sequence[int], size: int) -> list[int]:
    """These rows and the first of them again, until they are as many as a group has."""
    return [*rows, *[rows[0]] * (size - len(rows))]
