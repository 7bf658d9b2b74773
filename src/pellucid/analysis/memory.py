"""Bytes that training and inference take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pellucid.analysis.activations import kept_by, loss_working, vocabulary
from pellucid.analysis.parameters import parameter_count
from pellucid.analysis.tower import FULL, Means, before_blocks, in_blocks, towers_of
from pellucid.analysis.work import Work
from pellucid.config import model as config
from pellucid.config.model import stacks

Dtype = Literal["float32", "bfloat16"]
BYTES = {"float32": 4, "bfloat16": 2}

# ---- training ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes of a training step.

    Weights, gradients and both moments of AdamW are float32, whatever the precision of the products.

    Attributes:
        weights: of the model.
        gradients: one for each weight.
        optimizer: two moments for each weight.
        activations: what the forward pass keeps for the backward pass, copies of weights included.
        copies: of weights, in the precision of the products or joined for one of them.
        in_hand: the most of activations, of what the loss or a block works with, and of gradients made meanwhile.
        peak: the most at once. Gradients appear while activations go, so it is less than the sum of all.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    copies: int
    in_hand: int
    peak: int

    @property
    def state(self) -> int:
        """What stays from step to step, and the gradients: what sharding divides among devices."""
        return self.weights + self.gradients + self.optimizer


def training_memory(model: config.Model, work: Work, means: Means) -> TrainingMemory:
    """The memory of a step on one device, one batch an update."""
    weights = FULL * parameter_count(model)
    kept, towers = kept_by(model, work, means), towers_of(model, work, means)
    table = vocabulary(model) * stacks(model)[-1].d_model * FULL
    asked = work.rows * work.labels * stacks(model)[-1].d_model * FULL if table else 0
    # The loss; its backward, which multiplies what was kept once more; blocks; the end, with the embedding's gradient.
    last = kept.total + max(loss_working(model, work, means), table + asked)
    afresh = kept.largest_block + sum(tower.source_gradients() for tower in towers) if means.checkpointing else 0
    busy = [max(tower.working(), tower.held() if means.checkpointing else 0) for tower in towers]
    blocks = kept.total - kept.head + table + afresh + max(busy)
    end = weights + kept.cast + (table if "output" in model.tie else 0)
    in_hand = max(last, blocks, kept.total - kept.head + towers[-1].held())
    return TrainingMemory(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,
        activations=kept.total,
        copies=kept.cast + kept.joined,
        in_hand=in_hand,
        peak=3 * weights + max(in_hand, end),
    )


# ---- inference ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InferenceMemory:
    """Bytes of reading a batch of rows, or of having written it.

    Attributes:
        weights: in the type asked for.
        cache_per_token: keys and values that a position adds, in a row, as long as no window is full.
        cache: keys and values of all rows at their full length; a layer with a window keeps no more than that.
        source_cache: keys and values of the source, projected once.
        activations: the most that a pass over whole rows has in hand, the scores of all positions among it.
        peak: the most at once.
    """

    weights: int
    cache_per_token: int
    cache: int
    source_cache: int
    activations: int
    peak: int


def inference_memory(model: config.Model, work: Work, dtype: Dtype) -> InferenceMemory:
    """The memory of a batch in which everything, cache included, is of one type."""
    size = BYTES[dtype]
    stack, writes = stacks(model)[-1], not isinstance(model, config.Encoder)
    pair = 2 * stack.num_kv_heads * stack.head_dim * size
    slots = sum(min(stack.window(i) or work.tokens, work.tokens) for i in range(stack.num_layers))
    cache = work.rows * slots * pair if writes else 0
    source_cache = work.rows * work.source * stack.num_layers * pair
    weights, (reading, writing) = parameter_count(model) * size, _in_hand(model, work, size)
    return InferenceMemory(
        weights=weights,
        cache_per_token=stack.num_layers * pair if writes else 0,
        cache=cache,
        source_cache=source_cache,
        activations=max(reading, writing),
        peak=weights + max(reading, cache + source_cache + writing),
    )


def _in_hand(model: config.Model, work: Work, size: int) -> tuple[int, int]:
    """Before there is a cache, in an encoder or on the way to the first block; and beside a full one."""
    n, width = work.rows * work.tokens, stacks(model)[-1].d_model
    copies = 1 if getattr(model.head, "softcap", None) is None else 3
    head = n * (2 * width + copies * vocabulary(model)) * size
    *encoder, last = towers_of(model, work, Means(precision="float32"))
    states = sum(tower.vectors * tower.stack.d_model * size for tower in encoder)
    reading = [moment(tower, size) for tower in encoder for moment in (before_blocks, in_blocks)]
    return max([*reading, states + before_blocks(last, size)]), states + max(in_blocks(last, size), head)
