"""What a model is meant to be and how it is called: what the doctor cannot know, as far as it is said.

Shapes: B batch, T positions of the sequence that is written or read, S positions of the source, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from pellucid.errors import UserError, nearest

Kind = Literal["decoder", "encoder", "encoder_decoder", "prefix"]
Positions = Literal["learned", "sinusoidal", "rotary", "alibi", "relative", "none"]
Side = Literal["left", "right"]

KINDS: tuple[Kind, ...] = ("decoder", "encoder", "encoder_decoder", "prefix")

ON_PURPOSE = {
    "batch_coupled": "rows of a batch influence one another: BatchNorm, contrastive losses, the capacity of experts",
    "expert_choice": "experts choose their tokens from the whole sequence, the future included",
    "frozen": "some parameters are not to be trained",
    "length_dependent": "what a prefix gives depends on what follows it only by its length: dynamic scaling of angles",
    "no_left_pad": "texts are never padded on the left",
    "no_positions": "the order of tokens is not told to the model (NoPE)",
    "not_softmax": "attention takes no softmax: sigmoid, linear, softmax with one added",
    "one_way": "not every source position must reach the decoder: pooled or windowed memory",
    "per_sequence": "the loss is a mean over sequences and not over tokens",
    "shared_layers": "layers share their parameters (ALBERT, Universal Transformer)",
    "sinks": "some keys take part in the softmax and have no value, or can be seen from everywhere",
    "stochastic": "two passes in evaluation mode may differ",
    "unused": "some modules or parameters take no part",
}
"""The words of ``Spec.declare`` and what they say is meant so."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """What a model is given to read.

    Attributes:
        ids: (B, T) tokens; (B, T, D) vectors where the model reads those; images or sounds where it reads those.
        keep: (B, T), True where a token is real and False where it is padding, or 1 and 0; ``None``: all are.
        source: what an encoder–decoder reads, as ``ids``.
        source_keep: (B, S), of the source.
        labels: (B, T), what the loss is to ask; ``None``: the ids themselves.
        positions: (B, T), counted from 0 without the padding; only where the doctor tries them.
    """

    ids: Tensor
    keep: Tensor | None = None
    source: Tensor | None = None
    source_keep: Tensor | None = None
    labels: Tensor | None = None
    positions: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("keep", "source_keep"):
            object.__setattr__(self, name, _of_booleans(name, getattr(self, name)))

    def with_(self, **changes: Any) -> Batch:
        """The same but for what is named, each in one piece of memory: some models ``view`` what they are given."""
        whole: dict[str, Any] = {name: None if x is None else x.contiguous() for name, x in changes.items()}
        return replace(self, **whole)

    def rows(self, chosen: Any) -> Batch:
        """Some of its rows."""
        return self._each(lambda x: x[chosen])

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        changed: dict[str, Any] = {name: None if x is None else change(x) for name, x in values}
        return Batch(**changed)


def _of_booleans(name: str, keep: Tensor | None) -> Tensor | None:
    """A mask of a tokenizer is of whole numbers, of which ``~`` makes others that are all true."""
    if keep is None or keep.dtype == torch.bool:
        return keep
    if not keep.is_meta and not bool(((keep == 0) | (keep == 1)).all()):
        low, high = float(keep.min()), float(keep.max())
        raise UserError(name, f"found numbers from {low:g} to {high:g}", "True or 1 where a token is real, else 0")
    return keep.bool()


Call = Callable[[Any, Batch], Tensor]
Step = Callable[[Any, Batch, Any], tuple[Tensor, Any]]
Reorder = Callable[[Any, Tensor], Any]
Objective = Callable[[Any, Batch], tuple[Tensor, Tensor]]
Criterion = Callable[[Tensor, Batch], Tensor]
Accumulate = Callable[[Any, Sequence[Batch]], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Spec:
    """What a model is meant to be. All of it is optional: what can be inferred is, and is said in the report.

    Attributes:
        kind: ``decoder`` (sees the past), ``encoder`` (sees all), ``encoder_decoder``, or ``prefix`` (sees the first
            ``prefix`` positions both ways and the past).
        vocab_size: V; ids are drawn from it.
        features: D, where the model reads vectors (B, T, D) in place of ids.
        example: a batch that it reads, where that is neither ids nor vectors: images, sounds. Others are drawn like it.
        batch: one of the real data, as it is trained on, for what is asked of data.
        pad_id: of the padding.
        bos_id: of the start.
        eos_id: of the end.
        special_ids: others that must not be drawn as if they were words.
        window: how many keys a query may see, itself included; several are cycled over the layers, and 0 is everywhere:
            ``(4096, 0)`` alternates.
        max_length: the longest sequence.
        prefix: of the kind ``prefix``, how many positions see one another.
        call: (model, batch) → outputs (B, T, V), or (B, labels) of what reads a whole text. Says how masks are given.
        masked: whether ``call`` honours ``batch.keep`` and ``batch.source_keep``.
        step: (model, batch, cache) → outputs (B, T, V) of the new ids alone and the cache with them; the cache is
            ``None`` at first; ``batch.keep`` covers what is in the cache as well. ``batch.source`` is always given.
        one_by_one: whether ``step`` takes one token at a time only, once there is a cache.
        reorder: (cache, rows) → the cache with its rows chosen anew, as beam search does.
        poison: (cache) → the cache with garbage in every slot that is not in use.
        loss: (model, batch) → (loss, outputs): how it is trained; the outputs must be those the loss was taken of.
        criterion: (outputs, batch) → loss, in place of ``loss`` where ``call`` gives what it is taken of.
        labels: where a token is asked: ``next`` one to the right of its position (decoders), ``same`` in its place
            (masked language models), or ``None`` by kind.
        accumulate: (model, batches) → leaves in ``.grad`` what several small batches give together.
        optimizer: what trains it.
        schedule: step, from 0 → learning rate.
        positions: how order is told.
        scale: what scores are multiplied by, if not 1/√head_dim: 1.0 in T5. ``"learned"`` for one that is trained.
        tied: whether the embedding is the output projection as well.
        shared: names of parameters, by ``fnmatch`` patterns, that are shared on purpose.
        pooled: whether the output is of the whole text, (B, …).
        pad_sides: where padding may stand. Where nobody says so, a decoder that counts positions from the left edge is
            warned of; where nobody even says how masks are given (empty), so is one that makes NaN of padding there.
        smoothing: label smoothing of the loss.
        pretrained: whether the weights are trained already, so that nothing is asked of how they start.
        declare: what is so on purpose; the words are those of ``ON_PURPOSE``.
    """

    kind: Kind | None = None
    vocab_size: int | None = None
    features: int | None = None
    example: Batch | None = None
    batch: Batch | None = None
    pad_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    special_ids: tuple[int, ...] = ()
    window: int | tuple[int, ...] | None = None
    max_length: int | None = None
    prefix: int | None = None
    call: Call | None = None
    masked: bool | None = None
    step: Step | None = None
    one_by_one: bool = False
    reorder: Reorder | None = None
    poison: Callable[[Any], Any] | None = None
    loss: Objective | None = None
    criterion: Criterion | None = None
    labels: Literal["next", "same"] | None = None
    accumulate: Accumulate | None = None
    optimizer: Optimizer | None = None
    schedule: Callable[[int], float] | None = None
    positions: Positions | None = None
    scale: float | Literal["learned"] | None = None
    tied: bool | None = None
    shared: tuple[str, ...] = ()
    pooled: bool | None = None
    pad_sides: tuple[Side, ...] | None = None
    smoothing: float = 0.0
    pretrained: bool | None = None
    declare: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        object.__setattr__(self, "declare", frozenset(self.declare))
        for word in sorted(self.declare - ON_PURPOSE.keys()):
            raise UserError("declare", f'found "{word}"', hint=nearest(word, ON_PURPOSE))
        if self.kind is not None and self.kind not in KINDS:
            raise UserError("kind", f'found "{self.kind}"', " or ".join(KINDS), nearest(self.kind, KINDS))
        if self.kind == "prefix" and self.prefix is None:
            raise UserError("kind", '"prefix" without a length', "prefix=N, how many positions see one another")
        for name, least in (("vocab_size", 2), ("features", 1), ("max_length", 1), ("prefix", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(name, f"found {value}", f"{least} or more")
        if min(self.windows, default=0) < 0:
            raise UserError("window", f"found {self.window}", "0 or more", "0 is everywhere")

    @property
    def windows(self) -> tuple[int, ...]:
        """The window of each layer, to be cycled; 0 is everywhere."""
        return self.window if isinstance(self.window, tuple) else (self.window or 0,)

    @property
    def widest(self) -> int:
        """The largest window; 0 where no layer has one."""
        return max(self.windows)

    def over(self, inferred: Spec) -> Spec:
        """This one where it says something, and what was inferred where it does not."""
        said = {f.name: value for f in fields(self) if _says(value := getattr(self, f.name), f.name)}
        said["declare"] = self.declare | inferred.declare
        if self.criterion is not None:
            said["loss"] = self.loss  # what was found out is not what is meant
        return replace(inferred, **said)


def _says(value: Any, name: str) -> bool:
    return value not in (None, (), frozenset()) and not (name in ("one_by_one", "smoothing") and not value)
