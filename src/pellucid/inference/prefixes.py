"""Prefix caching: a prompt that begins like an earlier one is read from where they part.

Shapes: B prompts, T tokens fed at once, V vocabulary.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pellucid.inference.rules import check
from pellucid.inference.writer import Ids, Shrinking, Writer
from pellucid.nn.positions import check_length


class Prefixes:
    """A writer that remembers what it has read, up to a number of tokens; the longest unused goes first.

    The scores are those of the writer itself, but for the order in which numbers are added up.

    Args:
        tokens: how many are kept at most, over all prefixes.
        shortest: a beginning must be so long to be worth a copy.

    Attributes:
        hits: prompts whose beginning was known. misses: the others. reused: tokens that need not be read again.
    """

    def __init__(self, writer: Writer, tokens: int, shortest: int = 16) -> None:
        check(tokens >= 0, "prefix_tokens", tokens, "0 or more")
        check(shortest > 0, "shortest", shortest, "more than 0")
        self.writer, self.tokens, self.shortest = writer, tokens, shortest
        self.hits = self.misses = self.reused = 0
        self.clear()

    def clear(self) -> None:
        """Forgets all prefixes."""
        self.held = 0  # tokens
        self._kept: OrderedDict[_Prefix, None] = OrderedDict()  # the longest unused first
        self._roots: dict[Any, _Node] = {}

    @property
    def limit(self) -> int | None:
        return self.writer.limit

    @property
    def source_limit(self) -> int | None:
        return self.writer.source_limit

    @property
    def device(self) -> torch.device:
        return self.writer.device

    def prefill(self, prompts: Ids, sources: Sequence[Any] | None = None) -> tuple[Float[Tensor, "B V"], Any]:
        """As :meth:`Writer.prefill`; what was read is kept."""
        for prompt in prompts:
            check_length(len(prompt), self.limit, "prompt")
        found = [self._find(key, prompt) for key, prompt in zip(_keys(prompts, sources), prompts, strict=True)]
        depths = [min(depth, len(prompt) - 1) for (_, depth), prompt in zip(found, prompts, strict=True)]
        known = [i for i, depth in enumerate(depths) if depth >= self.shortest]
        new = [i for i in range(len(prompts)) if i not in set(known)]
        self.hits, self.misses = self.hits + len(known), self.misses + len(new)
        parts: list[tuple[list[int], Tensor, Any]] = []
        if new:
            given = None if sources is None else [sources[i] for i in new]
            parts.append((new, *self.writer.prefill([prompts[i] for i in new], given)))
        for group in _alike(known, lambda i: len(prompts[i]) - depths[i]):
            copies = [(found[i][0], depths[i]) for i in group]
            parts.append((group, *self._go_on([prompts[i] for i in group], copies)))
        scores, rows = _gathered(parts)
        self.keep(prompts, rows, sources)
        return scores, rows

    def extend(self, tokens: Int[Tensor, "B T"], rows: Any) -> Float[Tensor, "B T V"]:
        """As :meth:`Writer.extend`."""
        return self.writer.extend(tokens, rows)

    def keep(self, texts: Ids, rows: Any, sources: Sequence[Any] | None = None) -> None:
        """Remembers rows as they are now, such as a finished answer that a conversation will go on from.

        Args:
            texts: of each row, its prompt included; what has not been fed yet does not count. Of one that is longer
                than all that may be kept its beginning is.
        """
        for i, (key, length) in enumerate(zip(_keys(texts, sources), rows.lengths, strict=True)):
            text = tuple(texts[i][: min(length, self.tokens)])
            if len(text) < self.shortest:
                continue
            known, depth = self._find(key, text)
            if known is not None and depth == len(text):
                self._kept.move_to_end(known)
                continue
            if known is not None and depth == len(known.tokens):
                self._drop(known)  # the new one begins with all of it
            while self.held + len(text) > self.tokens:
                self._drop(next(iter(self._kept)))
            own = copied(rows, [i])
            own.crop([len(text)])
            if isinstance(own, Shrinking):  # so that as many tokens are held as are counted
                own.shrink()
            self._add(_Prefix(key, text, own))

    def _go_on(self, prompts: Ids, found: Sequence[tuple[Any, int]]) -> tuple[Float[Tensor, "B V"], Any]:
        """Copies what is known and feeds the rest; shorter rests are padded, and the padding is forgotten."""
        T = max(len(prompt) - depth for prompt, (_, depth) in zip(prompts, found, strict=True))
        depths = [depth for _, depth in found]
        if self.limit is not None:  # padding needs positions too
            depths = [min(depth, self.limit - T) for depth in depths]
        self.reused += sum(depths)
        rows: Any = None
        for prefix, _ in found:
            self._kept.move_to_end(prefix)
            own = copied(prefix.rows, [0])
            if rows is None:
                rows = own
            else:
                rows.join(own)
        rows.crop(depths)
        rests = [list(prompt[depth:]) for prompt, depth in zip(prompts, depths, strict=True)]
        fed = torch.tensor([[*rest, *[0] * (T - len(rest))] for rest in rests], device=self.device)
        scores = self.writer.extend(fed, rows)
        rows.crop([len(prompt) for prompt in prompts])
        last = torch.tensor([len(rest) - 1 for rest in rests], device=scores.device)
        return scores[torch.arange(len(rests), device=scores.device), last], rows

    # ---- the prefixes, in a tree of tokens -----------------------------------------------------

    def _find(self, key: Any, text: Sequence[int]) -> tuple[_Prefix | None, int]:
        """The prefix that has most in common with a text, and how many tokens that is."""
        node, depth = self._roots.get(key), 0
        if node is None:
            return None, 0
        for token in text:
            if token not in node.children:
                break
            node, depth = node.children[token], depth + 1
        return next(iter(node.prefixes)), depth

    def _add(self, prefix: _Prefix) -> None:
        node = self._roots.setdefault(prefix.key, _Node())
        node.prefixes[prefix] = None
        for token in prefix.tokens:
            node = node.children.setdefault(token, _Node())
            node.prefixes[prefix] = None
        self._kept[prefix] = None
        self.held += len(prefix.tokens)

    def _drop(self, prefix: _Prefix) -> None:
        del self._kept[prefix]
        self.held -= len(prefix.tokens)
        node = self._roots[prefix.key]
        del node.prefixes[prefix]
        if not node.prefixes:
            del self._roots[prefix.key]
        for token in prefix.tokens:
            child = node.children[token]
            del child.prefixes[prefix]
            if not child.prefixes:
                del node.children[token]  # and all below it, which is this prefix alone
                break
            node = child


@dataclass(eq=False)
class _Prefix:
    """Tokens that were read, and one row that remembers them; ``key`` says what was read beside them."""

    key: Any
    tokens: tuple[int, ...]
    rows: Any


@dataclass
class _Node:
    """A place in the tree: the tokens that follow, and all prefixes that come by."""

    children: dict[int, _Node] = field(default_factory=dict)
    prefixes: dict[_Prefix, None] = field(default_factory=dict)


def copied(rows: Any, which: Sequence[int]) -> Any:
    """Some rows again, which from now on go their own way.

    Tensors are not copied before they are selected from: ``select`` must make new ones unless it keeps every row.
    """
    if list(which) == list(range(len(rows.lengths))):
        return copy.deepcopy(rows)
    with _Shared():
        again = copy.deepcopy(rows)
    again.select(which)
    return again


class _Shared(TorchFunctionMode):
    """Copies what holds tensors, but not the tensors."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func is Tensor.__deepcopy__ else func(*args, **(kwargs or {}))


def _keys(texts: Ids, sources: Sequence[Any] | None) -> Iterator[Any]:
    """What tells apart texts that begin alike: the source that is read beside them."""
    for i in range(len(texts)):
        if sources is None:
            yield None
        else:
            source = torch.as_tensor(sources[i]).cpu()
            yield source.dtype, tuple(source.shape), source.numpy().tobytes()


def _alike(rows: Sequence[int], size: Callable[[int], int]) -> list[list[int]]:
    """Groups in which no size is more than twice another, so that little is padded."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault((size(row) - 1).bit_length(), []).append(row)
    return list(groups.values())


def _gathered(parts: Sequence[tuple[list[int], Tensor, Any]]) -> tuple[Float[Tensor, "B V"], Any]:
    """Scores and rows that were computed in parts, in the order of the prompts."""
    (order, scores, rows), *others = parts
    order, each = list(order), [scores]
    for more, their_scores, their_rows in others:
        order += more
        each.append(their_scores)
        rows.join(their_rows)
    if order == sorted(order):
        return torch.cat(each), rows
    back = sorted(range(len(order)), key=order.__getitem__)
    rows.select(back)
    return torch.cat(each)[torch.tensor(back, device=scores.device)], rows
