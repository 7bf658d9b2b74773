"""How many devices a model needs, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pellucid.analysis.flops import flops_of, flops_of_step
from pellucid.analysis.machine import Machine
from pellucid.analysis.memory import BYTES, Dtype, inference_memory, training_memory
from pellucid.analysis.parameters import parts_of
from pellucid.analysis.tower import FULL, Means
from pellucid.analysis.work import Work
from pellucid.config import model as config

MOST_DEVICES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """A training on equal devices.

    Attributes:
        tokens: that are read in all, those of a source included.
        flops: of all of them, recomputation included.
        devices: how many; ``None`` where no number would do.
        memory: bytes on each, at the most.
        fits: whether they have as much.
        seconds: all of it, at the share of their peak that was stated.
    """

    tokens: int
    flops: float
    devices: int | None
    memory: float
    fits: bool
    seconds: float | None


def training_cost(
    model: config.Model,
    work: Work,
    means: Means,
    machine: Machine,
    *,
    tokens: int,
    utilization: float,
    devices: int | None = None,
) -> TrainingCost:
    """Time and memory of a training on so many devices, or on as few as will hold it.

    Each device has its share of the rows, at least one, and its share of weights, gradients and moments.

    Args:
        utilization: the share of the machine's matrix products that all arithmetic amounts to.
    """
    count = devices or fewest_devices(model, work, means, machine)
    flops = flops_of(model, work)
    each = flops.training + (flops.recomputed if means.checkpointing else 0)
    total = tokens * flops.per_token(each)
    memory = memory_of_each(model, work, means, count or MOST_DEVICES)
    speed = (count or 0) * machine.peak(means.precision) * utilization
    return TrainingCost(
        tokens=tokens,
        flops=total,
        devices=count,
        memory=memory,
        fits=memory <= machine.memory,
        seconds=total / speed if speed else None,
    )


def fewest_devices(model: config.Model, work: Work, means: Means, machine: Machine) -> int | None:
    """The smallest number of devices that hold a training; ``None`` where one row is too much for any."""

    def fits(devices: int) -> bool:
        return memory_of_each(model, work, means, devices) <= machine.memory

    enough = 1
    while not fits(enough):
        enough *= 2
        if enough > MOST_DEVICES:
            return None
    low, high = enough // 2, enough  # the one does not fit, or is none; the other does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def memory_of_each(model: config.Model, work: Work, means: Means, devices: int) -> float:
    """Bytes on each of several devices, all state split among them (Rajbhandari et al. 2020, ZeRO stage 3).

    What is outside of the blocks is whole on each device for a step, and so are the weights of the block at work and
    of the next one, and the gradients of the last. Copies of weights go when their block is split again, as they do
    under a mixed-precision policy of ``fully_shard``.
    """
    memory = training_memory(model, replace(work, rows=-(-work.rows // devices)), means)
    if devices == 1:
        return memory.peak
    blocks: dict[str, int] = {}
    outside = 0
    for part in parts_of(model):
        tower, _, inside = part.name.partition("blocks.*.")
        if inside:
            blocks[tower] = blocks.get(tower, 0) + part.parameters // part.copies
        else:
            outside += part.parameters
    whole = FULL * (outside + 3 * max(blocks.values()))
    return 3 * memory.weights / devices + whole + max(memory.in_hand - memory.copies, memory.gradients / devices)


@dataclass(frozen=True, kw_only=True)
class WritingCost:
    """Writing on one device, or on as few as hold weights and cache.

    Attributes:
        devices: how many.
        flops: of one more token in each row.
        bytes_read: of weights and caches, for one more token in each row.
        tokens_per_second: at the most, all rows together: everything is read once, at full bandwidth, or computed at
            the peak, whichever takes longer.
    """

    devices: int
    flops: int
    bytes_read: int
    tokens_per_second: float


def writing_cost(model: config.Model, work: Work, dtype: Dtype, machine: Machine) -> WritingCost:
    """The upper bound of writing speed at the end of rows of ``work.tokens``.

    Raises:
        TypeError: for an encoder, which does not write.
    """
    memory = inference_memory(model, work, dtype)
    flops = work.rows * flops_of_step(model, work)
    weights = sum(part.matrix for part in parts_of(model) if part.over in ("tokens", "labels")) * BYTES[dtype]
    read = weights + memory.cache + memory.source_cache
    devices = int(-(-memory.peak // machine.memory))
    seconds = max(read / machine.bandwidth, flops / machine.peak(dtype)) / devices
    return WritingCost(devices=devices, flops=flops, bytes_read=read, tokens_per_second=work.rows / seconds)
