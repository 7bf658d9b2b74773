"""The largest flow through a network: Dinic's algorithm (Dinic 1970).

Shapes: N nodes.
"""

from __future__ import annotations

from collections import deque

from jaxtyping import Float
from torch import Tensor

NOTHING = 1e-12
"""What is left of a capacity by rounding."""


def max_flow(capacity: Float[Tensor, "N N"], start: int, end: int) -> float:
    """The largest flow from ``start`` to ``end``, ``capacity[a, b]`` being that of the edge from a to b.

    By the theorem of Ford & Fulkerson (1956) it is the capacity of the smallest cut between the two.
    """
    return Network(capacity).flow(start, end)


class Network:
    """Edges with capacities, of which any number of flows can be asked one after another."""

    def __init__(self, capacity: Float[Tensor, "N N"]) -> None:
        self.ends: list[int] = []  # edge 2i goes where edge 2i + 1 comes from
        self.capacity: list[float] = []
        self.edges: list[list[int]] = [[] for _ in range(capacity.size(0))]
        for a, b in capacity.nonzero().tolist():
            self._add(a, b, float(capacity[a, b]))

    def flow(self, start: int, end: int) -> float:
        """The largest flow from ``start`` to ``end``."""
        left, total = self.capacity.copy(), 0.0
        while (level := self._levels(left, start))[end] >= 0:
            turns = [0] * len(self.edges)
            while (more := self._push(left, level, turns, start, end)) > NOTHING:
                total += more
        return total

    def _add(self, a: int, b: int, capacity: float) -> None:
        for end, amount in ((b, capacity), (a, 0.0)):
            self.edges[a if end == b else b].append(len(self.ends))
            self.ends.append(end)
            self.capacity.append(amount)

    def _levels(self, left: list[float], start: int) -> list[int]:
        """How many edges with something left away from the start each node is; -1 where there is no way."""
        level = [-1] * len(self.edges)
        level[start] = 0
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            for edge in self.edges[node]:
                if left[edge] > NOTHING and level[self.ends[edge]] < 0:
                    level[self.ends[edge]] = level[node] + 1
                    waiting.append(self.ends[edge])
        return level

    def _push(self, left: list[float], level: list[int], turns: list[int], start: int, end: int) -> float:
        """Sends what one shortest way can take; a way that was found closed is not tried again in this phase."""
        path: list[int] = []
        node = start
        while node != end:
            edges = self.edges[node]
            while turns[node] < len(edges):
                edge = edges[turns[node]]
                if left[edge] > NOTHING and level[self.ends[edge]] == level[node] + 1:
                    break
                turns[node] += 1
            if turns[node] < len(edges):
                path.append(edge)
                node = self.ends[edge]
            elif path:
                node = self.ends[path.pop() ^ 1]
                turns[node] += 1
            else:
                return 0.0
        amount = min(left[edge] for edge in path)
        for edge in path:
            left[edge] -= amount
            left[edge ^ 1] += amount
        return amount
