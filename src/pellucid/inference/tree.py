"""A beam search as a tree: every text that a step looked at, what became of it, and the texts that were found.

Shapes: P prompt positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.beam import PAPER, Candidate, Fate, Hypothesis, LengthPenalty, beam_search
from pellucid.inference.decode import Prompt, WritingModel
from pellucid.inference.rules import AnyRule


@dataclass(frozen=True)
class Node:
    """A text that a step looked at.

    Attributes:
        parent: the node it goes on from; -1 for the prompt, which is no node.
        token: what it adds. length: how many tokens it has written.
        log_probability: of its token alone. total: of all that it has written. score: that over its length penalty.
        fate: it went on, has ended, or was given up.
        beam: which of the beginnings that go on it is; ``None`` for one that does not.
    """

    parent: int
    token: int
    length: int
    log_probability: float
    total: float
    score: float
    fate: Fate
    beam: int | None


@dataclass(frozen=True)
class Tree:
    """All that a search looked at.

    Attributes:
        nodes: in the order looked at, so that parents come first.
        found: the texts that :func:`pellucid.inference.beam.beam_search` returns, the best first.
        leaves: the node that each of them ends in; -1 where rules left nothing to be written.
    """

    nodes: tuple[Node, ...]
    found: tuple[Hypothesis, ...]
    leaves: tuple[int, ...]

    def path(self, node: int) -> list[int]:
        """The nodes from the prompt to a node."""
        path = []
        while node >= 0:
            path.append(node)
            node = self.nodes[node].parent
        return path[::-1]

    def as_dict(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """For JSON, with the piece of every token."""
        pieces = tokenizer.pieces(node.token for node in self.nodes)
        texts = (tokenizer.decode(text.tokens) for text in self.found)
        return {
            "nodes": [{**asdict(node), "piece": piece} for node, piece in zip(self.nodes, pieces, strict=True)],
            "found": [
                {"tokens": list(one.tokens), "text": text, "score": one.score, "leaf": leaf}
                for one, text, leaf in zip(self.found, texts, self.leaves, strict=True)
            ],
        }


def beam_tree(
    model: WritingModel,
    prompt: Prompt,
    *,
    beams: int,
    max_new_tokens: int,
    ends: Sequence[int],
    penalty: LengthPenalty = PAPER,
    filters: Sequence[AnyRule] = (),
    written: int = 0,
) -> Tree:
    """The tree of one search, whose best leaf is its result; the arguments are those of ``beam_search``.

    Raises:
        UserError: for a prompt of more than one row.
    """
    if prompt.tokens.size(0) != 1:
        raise UserError("prompt", f"{prompt.tokens.size(0)} rows", "one: a tree is drawn of one text")
    nodes: list[Node] = []
    standing = dict.fromkeys(range(beams), -1)  # the node that each beam stands at

    def grow(row: int, length: int, candidates: list[Candidate]) -> None:
        now: dict[int, int] = {}
        for one in candidates:
            parent = standing[one.beam]
            before = nodes[parent].total if parent >= 0 else 0.0
            if one.becomes is not None:
                now[one.becomes] = len(nodes)
            alone = one.total - before
            nodes.append(Node(parent, one.token, length, alone, one.total, one.score, one.fate, one.becomes))
        standing.clear()
        standing.update(now)

    settings: dict[str, Any] = {"ends": ends, "penalty": penalty, "filters": filters, "written": written}
    (found,) = beam_search(model, prompt, beams=beams, max_new_tokens=max_new_tokens, observer=grow, **settings)
    tree = Tree(tuple(nodes), tuple(found), ())
    return Tree(tree.nodes, tree.found, tuple(_leaf(tree, text) for text in found))


def _leaf(tree: Tree, text: Hypothesis) -> int:
    """Where a text ends in the tree."""
    for place, node in enumerate(tree.nodes):
        if node.fate != "dropped" and node.score == text.score:
            tokens = [tree.nodes[step].token for step in tree.path(place)]
            if tuple(tokens[: len(tokens) - (node.fate == "finished")]) == text.tokens:
                return place
    assert not text.tokens, "every text that is found was looked at"
    return -1
