"""Low-rank terms in the two files of the ``peft`` library, beside the merged weights of a run.

``adapter/adapter_config.json`` and ``adapter/adapter_model.safetensors``: ``peft.PeftModel.from_pretrained`` puts them
on the model that was adapted, and what reads such files can read these.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from pellucid.config.start import LoRA
from pellucid.models.files import write_tensors, write_whole

ADAPTER, CONFIG, WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # what peft puts before the names of a model it has wrapped


def save_adapter(folder: Path, model: nn.Module, lora: LoRA, base: str) -> None:
    """Writes what an adapted model has beside its base: its low-rank terms, and the head where that was trained.

    Terms that were frozen go with the others: one half of them says nothing without the other.

    Args:
        folder: of the run.
        base: the run whose weights stand beside the terms.

    Raises:
        CheckpointError: when it cannot be written.
    """
    own = {name: value for name, value in model.named_parameters() if value.requires_grad or ".lora_" in name}
    beside = sorted({name.partition(".")[0] for name in own if ".lora_" not in name})
    for module in beside:  # peft wants the whole module, what it shares with others too
        own |= {f"{module}.{name}": parameter for name, parameter in model.get_submodule(module).named_parameters()}
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.targets),
        "modules_to_save": beside or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
    }
    write_tensors({PREFIX + name: tensor.detach() for name, tensor in own.items()}, folder / ADAPTER / WEIGHTS)
    write_whole(folder / ADAPTER / CONFIG, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))
