"""What a signature says of how a model is called: what it reads, what masks it, what it is asked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

IDS = ("input_ids", "ids", "idx", "tokens", "token_ids", "input", "inputs", "x", "src", "source", "text", "sequence",
       "seq")  # fmt: skip
SOURCES = (
    "src", "source", "source_ids", "src_ids", "src_tokens", "source_tokens", "src_seq", "encoder_input_ids",
    "encoder_input", "encoder_inputs", "enc_input", "enc_inputs", "enc", "inputs", "input_ids", "x", "inp",
)  # fmt: skip
TARGETS = (
    "tgt", "trg", "target", "target_ids", "tgt_ids", "tgt_tokens", "target_tokens", "trg_seq", "tgt_in",
    "decoder_input_ids", "decoder_input", "decoder_inputs", "dec_input", "dec_inputs", "dec", "outputs", "out",
    "prev_output_tokens", "tar",
)  # fmt: skip
LABELS = ("labels", "targets", "target", "lm_labels", "label", "y")
MASK = "mask"


@dataclass(frozen=True)
class Signature:
    """The parameters of ``forward``.

    Attributes:
        names: all that can be given by name or by place, in their order.
        required: those without a default.
        by_name: those that can be given by name alone.
        any_more: whether it takes names that it does not list.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    by_name: frozenset[str] = frozenset()
    any_more: bool = False

    @property
    def optional(self) -> tuple[str, ...]:
        """Those with a default."""
        return tuple(name for name in self.names if name not in self.required)

    @property
    def ids(self) -> str | None:
        """What a model of one sequence reads; ``None``: whatever comes first."""
        if self.required:
            return next((name for name in IDS if name in self.required), self.required[0])
        return next((name for name in self.names if name in IDS), self.names[0] if self.names else None)

    @property
    def pair(self) -> tuple[str, str] | None:
        """Source and target, where two sequences must be given."""
        needed = [name for name in self.required if MASK not in name.lower()]
        if len(needed) != 2:
            return None
        first, second = (name.lower() for name in needed)
        if first in SOURCES and second in TARGETS:
            return needed[0], needed[1]
        if first in TARGETS and (second in SOURCES or second in ("memory", "context", "encoder_output", "enc_out")):
            return needed[1], needed[0]
        return None

    @property
    def labels(self) -> str | None:
        """What the loss is asked, where it may be given and is not what is read."""
        return next((name for name in LABELS if name in self.names and name != self.ids), None)


def signature(model: Any) -> Signature:
    """Of ``forward``, or of a callable; empty where Python knows none."""
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return Signature((), ())
    listed = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Signature(
        names=tuple(p.name for p in listed),
        required=tuple(p.name for p in listed if p.default is p.empty),
        by_name=frozenset(p.name for p in listed if p.kind is p.KEYWORD_ONLY),
        any_more=any(p.kind is p.VAR_KEYWORD for p in parameters.values()),
    )
