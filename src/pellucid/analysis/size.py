"""How large a model is and what it costs: parameters, arithmetic, memory, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pellucid.analysis.cost import TrainingCost, WritingCost, training_cost, writing_cost
from pellucid.analysis.flops import Flops, flops_of
from pellucid.analysis.machine import Machine, machine_of
from pellucid.analysis.memory import Dtype, InferenceMemory, TrainingMemory, inference_memory, training_memory
from pellucid.analysis.parameters import Part, parameter_count, parts_of
from pellucid.analysis.target import model_of
from pellucid.analysis.tower import Means
from pellucid.analysis.work import Work, work_on
from pellucid.config import model as config
from pellucid.config.model import stacks
from pellucid.config.presets import PRESETS, Preset
from pellucid.errors import ConfigError, UserError

TOKENS_PER_PARAMETER = 20
"""Of a training that spends its arithmetic best (Hoffmann et al. 2022, Table 3)."""

UTILIZATION = 0.4
"""Share of a GPU's peak that well-run trainings reach: 46 % in PaLM (Chowdhery et al. 2022, Table 3), 38 to 43 % in
Llama 3 (Grattafiori et al. 2024, Table 4)."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What there is to say about the size of a model.

    Attributes:
        name: what was asked for.
        model: its config.
        published: the preset, if it is one as it stands.
        parts: the parameters.
        work: the batch that arithmetic and memory are of.
        means: how it is trained.
        flops: of one row.
        training, checkpointed: memory of a training step, without and with checkpointing.
        inference: memory of reading or having written the batch, weights and cache in the precision of the products.
        machine: what it runs on.
        cost: of a training.
        writing: of a token; ``None`` for an encoder.
    """

    name: str
    model: config.Model
    published: Preset | None
    parts: Sequence[Part]
    work: Work
    means: Means
    flops: Flops
    training: TrainingMemory
    checkpointed: TrainingMemory
    inference: InferenceMemory
    machine: Machine
    cost: TrainingCost
    writing: WritingCost | None

    @property
    def parameters(self) -> int:
        """All of them; shared weights count once."""
        return sum(part.parameters for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Every figure, for programs: bytes, operations, seconds."""
        return {
            "model": self.name,
            "about": described(self.model),
            "parameters": self.parameters,
            "published": None if self.published is None else published(self.published),
            "parts": [{**asdict(part), "parameters": part.parameters} for part in self.parts],
            "work": asdict(self.work),
            "means": asdict(self.means),
            "flops": _flops(self.flops),
            "training": {**asdict(self.training), "state": self.training.state},
            "training_checkpointed": {**asdict(self.checkpointed), "state": self.checkpointed.state},
            "inference": asdict(self.inference),
            "machine": asdict(self.machine),
            "cost": asdict(self.cost),
            "writing": None if self.writing is None else asdict(self.writing),
        }


def size(
    target: str | Path | config.Model,
    settings: Sequence[str] = (),
    *,
    batch: int = 1,
    length: int | None = None,
    source_length: int | None = None,
    dtype: Dtype = "bfloat16",
    machine: str | Machine = "h100",
    utilization: float = UTILIZATION,
    tokens: int | None = None,
    devices: int | None = None,
    checkpointing: bool = False,
) -> Size:
    """The size of a model, worked out from its config; nothing is built.

    Args:
        target, settings: see :func:`pellucid.analysis.target.model_of`.
        batch: rows.
        length, source_length: positions of a row and of its source; all that the model can tell apart.
        dtype: of the products in training, where weights stay float32; of everything in inference.
        machine: a100, h100, h200, ``this`` for the processor at hand, a file, or a description.
        utilization: the share of the machine's peak that training reaches.
        tokens, devices: to train on; when left out 20 for each parameter, and as few as will hold it.
        checkpointing: whether blocks are computed once more, in the cost of training.

    Raises:
        UserError: for a target, a setting, a machine or a length that cannot be.
    """
    _check(dtype, utilization, tokens, devices)
    model = model_of(target, settings)
    _complete(model)
    device = machine_of(machine) if isinstance(machine, str) else machine
    work = work_on(model, batch=batch, length=length, source_length=source_length)
    means = Means(precision=dtype, device=device.device, checkpointing=checkpointing)
    wanted = tokens or TOKENS_PER_PARAMETER * parameter_count(model)
    return Size(
        name=" ".join([_kind(model) if isinstance(target, config.Model) else str(target), *settings]),
        model=model,
        published=PRESETS.get(str(target)) if not settings else None,
        parts=parts_of(model),
        work=work,
        means=means,
        flops=flops_of(model, work),
        training=training_memory(model, work, replace(means, checkpointing=False)),
        checkpointed=training_memory(model, work, replace(means, checkpointing=True)),
        inference=inference_memory(model, work, dtype),
        machine=device,
        cost=training_cost(model, work, means, device, tokens=wanted, utilization=utilization, devices=devices),
        writing=None if isinstance(model, config.Encoder) else writing_cost(model, work, dtype, device),
    )


def published(preset: Preset) -> dict[str, Any]:
    """What a publication says, beside what its model counts."""
    count = parameter_count(preset.counted or preset.model)
    return {"parameters": preset.parameters, "counted": count, "remark": preset.remark, "source": preset.source}


def described(model: config.Model) -> str:
    """The shape of a model in a line."""
    towers = []
    for stack in stacks(model):
        heads = f"{stack.attention.num_heads} heads of {stack.head_dim}"
        shared = "" if stack.num_kv_heads == stack.attention.num_heads else f" on {stack.num_kv_heads}"
        towers.append(
            f"{stack.num_layers} layers, d_model {stack.d_model:,}, {heads}{shared}, d_ff {stack.feed_forward.d_ff:,}"
        )
    return f"{_kind(model)}: " + "; ".join(towers)


def _kind(model: config.Model) -> str:
    return {"EncoderDecoder": "encoder–decoder"}.get(type(model).__name__, type(model).__name__.lower())


def _flops(flops: Flops) -> dict[str, Any]:
    row = {**asdict(flops), "forward": flops.forward, "training": flops.training}
    return {"row": row, "token": {name: flops.per_token(row[name]) for name in row if name != "tokens"}}


def _check(dtype: str, utilization: float, tokens: int | None, devices: int | None) -> None:
    if dtype not in ("float32", "bfloat16"):
        raise UserError("--dtype", f'found "{dtype}"', "float32 or bfloat16")
    if not 0 < utilization <= 1:
        raise UserError("--utilization", f"found {utilization}", "more than 0 and at most 1", "0.4 is 40 %")
    for name, value in (("--tokens", tokens), ("--devices", devices)):
        if value is not None and value < 1:
            raise UserError(name, f"found {value}", "1 or more")


def _complete(model: config.Model) -> None:
    """Refuses what only data would tell.

    Raises:
        ConfigError: for a vocabulary or labels that are still open.
    """
    fronts = (model.source, model.target) if isinstance(model, config.EncoderDecoder) else (model.front,)
    if any(isinstance(front, config.Tokens) and not front.vocab_size for front in fronts):
        raise ConfigError("vocab_size", "found 0", "the size of the tokenizer", "say vocab_size=8000")
    if isinstance(model, config.Encoder) and isinstance(model.head, config.Classification) and not model.head.labels:
        raise ConfigError("head.labels", "none", "the labels to tell apart", """say 'labels=["no", "yes"]'""")
