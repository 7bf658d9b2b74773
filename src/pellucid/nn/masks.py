"""Who may look where: one rule, rendered for each kernel.

Shapes: B batch, T queries, S keys, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

Bias = Callable[[Tensor, Tensor], Tensor]  # (query positions (B, T), key positions (B, S)) -> (B or 1, H, T, S)

PADDING = -1  # the segment of a token that is not there


@dataclass(frozen=True, eq=False)
class Sites:
    """Where the tokens of a sequence stand, which is all that the rule of a mask compares.

    Attributes:
        positions: of each token in its document. Without segments they rise along the row.
        segments: which document each token belongs to, ``PADDING`` where there is none; ``None`` when every token is
            real and of the same document.
    """

    positions: Int[Tensor, "B S"]
    segments: Int[Tensor, "B S"] | None = None

    @staticmethod
    def of(
        batch: int,
        length: int,
        device: torch.device,
        *,
        keep: Bool[Tensor, "B S"] | None = None,
        positions: Int[Tensor, "B S"] | None = None,
        segments: Int[Tensor, "B S"] | None = None,
    ) -> Sites:
        """The sites of a batch: counted from 0 over the real tokens, unless positions are given."""
        if positions is None:
            if keep is None:
                positions = torch.arange(length, device=device).expand(batch, -1)
            else:
                positions = (keep.cumsum(1) - 1).clamp(min=0)
        if keep is not None:
            document = torch.zeros_like(positions) if segments is None else segments
            segments = document.masked_fill(~keep, PADDING)
        return Sites(positions, segments)

    def after(self, past: Int[Tensor, " B"]) -> Sites:
        """The same sites, ``past`` positions later in each row."""
        return Sites(self.positions + past[:, None], self.segments)


@dataclass(eq=False, kw_only=True)
class Mask:
    """Who may look where, for the queries and keys of one pass.

    Attributes:
        query, key: where both stand. While decoding, the queries are the last T of the S keys.
        causal: nobody sees what comes later.
        window: nobody sees further than this many positions, the own one included.
        bias: what is added to the scores, as a function of the positions (ALiBi, T5).
    """

    query: Sites
    key: Sites
    causal: bool = False
    window: int | None = None
    bias: Bias | None = None

    def __post_init__(self) -> None:
        self._allowed: Tensor | None = None
        self._bias: Tensor | None = None
        self._additive: Tensor | None = None
        self._blind: Tensor | None = None
        self._fused: Tensor | None = None
        self._blocks: BlockMask | None = None

    def anew(self) -> Mask:
        """The same mask, nothing of it rendered yet."""
        return replace(self)

    def kept(self) -> Mask:
        """The mask with sites of its own: those of a cache's keys are overwritten as it goes on."""
        segments = self.key.segments
        key = Sites(self.key.positions.clone(), None if segments is None else segments.clone())
        copied = copy(self)
        copied.key = key
        return copied

    def showing(self, allowed: Bool[Tensor, "B 1 T S"]) -> Mask:
        """The mask with another rendering of its rule, as an edit may make it; this one where it is its own."""
        if allowed is self._allowed:
            return self
        changed = Shown(query=self.query, key=self.key, bias=self.bias)
        changed._allowed = allowed
        return changed

    def allows(self, query: Tensor, key: Tensor, query_segment: Tensor | None, key_segment: Tensor | None) -> Tensor:
        """The rule every rendering is derived from."""
        seen = torch.ones_like(query - key, dtype=torch.bool)
        if self.causal:
            seen = seen & (key <= query)
        if self.window is not None:
            seen = seen & ((query - key).abs() < self.window)
        if key_segment is not None:
            seen = seen & (key_segment != PADDING)
            if query_segment is not None:
                seen = seen & (key_segment == query_segment)
        return seen

    def allowed(self) -> Bool[Tensor, "B 1 T S"]:
        """The rule for every pair, rendered once for all layers that share this mask."""
        if self._allowed is None:
            query, key = self.query, self.key
            self._allowed = self.allows(
                query.positions[:, None, :, None],
                key.positions[:, None, None, :],
                None if query.segments is None else query.segments[:, None, :, None],
                None if key.segments is None else key.segments[:, None, None, :],
            )
        return self._allowed

    def biases(self) -> Float[Tensor, "#B H T S"] | None:
        """What is added to the scores, or ``None``; computed once for all layers that share this mask."""
        if self._bias is None and self.bias is not None:
            self._bias = self.bias(self.query.positions, self.key.positions)
        return self._bias

    def additive(self, dtype: torch.dtype) -> Float[Tensor, "#B #H T S"]:
        """Rule and bias as one term to add to the scores: -inf where nobody may look."""
        if self._additive is None or self._additive.dtype != dtype:
            bias = self.biases()
            zero = torch.zeros((), dtype=dtype, device=self.query.positions.device)
            visible = zero if bias is None else bias.to(dtype)
            self._additive = visible if self.hides_nothing() else torch.where(self.allowed(), visible, -torch.inf)
        return self._additive

    def fused(self, dtype: torch.dtype) -> Tensor:
        """What a fused kernel is given: the rule, or rule and bias as one term.

        Blind queries see everything there, since what a row of -inf becomes differs from kernel to kernel, NaN
        included; whoever asks has to clear their context.
        """
        bias, blind = self.bias is not None, self.blind()
        if blind is None:
            return self.additive(dtype) if bias else self.allowed()
        if self._fused is None or self._fused.dtype not in (dtype, torch.bool):
            self._fused = self.additive(dtype).masked_fill(blind, 0.0) if bias else self.allowed() | blind
        return self._fused

    def blocks(self) -> BlockMask:
        """The rule as blocks that are empty, full or mixed, for the flex kernel; made once, as the others."""
        if self._blocks is None:
            self._blocks = self._in_blocks()
        return self._blocks

    def _in_blocks(self) -> BlockMask:
        query, key = self.query, self.key

        def rule(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return self.allows(
                query.positions[b, t],
                key.positions[b, s],
                None if query.segments is None else query.segments[b, t],
                None if key.segments is None else key.segments[b, s],
            )

        B, T = query.positions.shape
        return create_block_mask(rule, B, None, T, key.positions.size(1), device=str(query.positions.device))

    def hides_nothing(self) -> bool:
        """Whether every query sees every key. One query at the end does, causal or not."""
        T, S = self.query.positions.size(1), self.key.positions.size(1)
        if self.key.segments is not None or (self.causal and T > 1):
            return False
        return self.window is None or (self.causal and window_covers(self.window, S))

    def is_triangle(self) -> bool:
        """Whether the rule is the plain causal triangle that fused kernels have built in."""
        T, S = self.query.positions.size(1), self.key.positions.size(1)
        plain = self.key.segments is None and self.bias is None
        return plain and self.causal and T == S and (self.window is None or window_covers(self.window, S))

    def blind(self) -> Bool[Tensor, "B 1 T 1"] | None:
        """The queries that see nothing at all, as one among padding does; ``None`` where there can be none."""
        if self.key.segments is None and self.query.segments is None:
            return None
        if self._blind is None:
            self._blind = ~self.allowed().any(dim=-1, keepdim=True)
        return self._blind


class Shown(Mask):
    """A mask that is what it shows, whatever rule it came from."""

    def anew(self) -> Mask:
        return self

    def hides_nothing(self) -> bool:
        return False

    def is_triangle(self) -> bool:
        return False

    def blind(self) -> Bool[Tensor, "B 1 T 1"]:
        return ~self.allowed().any(dim=-1, keepdim=True)


def window_covers(window: int, length: int) -> bool:
    """Whether a window is wide enough to reach over the whole sequence."""
    return length <= window
