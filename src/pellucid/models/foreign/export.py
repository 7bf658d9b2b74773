"""A model of ours in a published layout: config.json, model.safetensors, and the tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from pellucid.config import model as config
from pellucid.config.parts import Stack
from pellucid.config.schema import to_dict
from pellucid.errors import ConfigError, UserError
from pellucid.models.build import Model, build_empty
from pellucid.models.files import write_tensors, write_whole
from pellucid.models.foreign.basis import by_halves
from pellucid.models.foreign.folder import CONFIG, LAYOUTS
from pellucid.models.foreign.layout import Folder, Layout, Written
from pellucid.models.foreign.settings import Settings
from pellucid.models.foreign.table import Place, places
from pellucid.models.foreign.weights import SINGLE

# What sentence-transformers declare beside a model.
MODULES, POOLING, SENTENCES = Path("modules.json"), Path("1_Pooling/config.json"), Path("sentence_bert_config.json")
# What decides nothing once a model is trained, or is chosen anew wherever it runs.
_PASSING = frozenset({"dropout", "kernel", "init"})


def write_published(folder: Path, model: Model, ids: Mapping[str, Any]) -> str:
    """Writes the config and the weights of a model; returns the ``model_type`` of the layout that holds it exactly.

    Args:
        ids: special tokens to be told in the config, such as ``eos_token_id``.

    Raises:
        UserError: when no layout has such a model, saying for each how it differs.
        CheckpointError: when it cannot be written.
    """
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    described, tensors = by_halves(model.config, tensors)
    layout, written, found, twin = _fitting(described, ids)
    settings = {**written.settings, **ids, "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")}
    stored = dict(_stored(found, twin, tensors))
    example = next(iter(tensors.values()))
    stored |= {name: torch.zeros(shape, dtype=example.dtype) for name, shape in written.zeros.items()}
    if str(settings["architectures"][0]).endswith("Model") and layout.prefix and not _has_head(described):
        stored = {name.removeprefix(layout.prefix): tensor for name, tensor in stored.items()}
    write_tensors(stored, folder / SINGLE, metadata={"format": "pt"})
    _write_json(folder / CONFIG, settings)
    return str(settings["model_type"])


def _fitting(model: config.Model, ids: Mapping[str, Any]) -> tuple[Layout, Written, list[Place], nn.Module]:
    """The layout that, having written a model down, reads the same model."""
    twin = build_empty(model)
    reasons = []
    for layout in LAYOUTS:
        written = layout.write(model)
        if written is None or written.settings["model_type"] not in layout.model_types:
            continue
        kind = written.settings["model_type"]
        try:
            found = places(layout.table(model), twin)
            names = [place.rows[0].theirs for place in found]
            settings = Settings(written.settings, CONFIG)
            pooling = model.head if isinstance(model, config.Encoder) and pools(model.head) else None
            again = layout.read(Folder(settings, names, pooling))
            settings.finish()
        except (ConfigError, LookupError) as error:
            reasons.append(f"{kind}: {error}")
            continue
        differing = differences(model, again)
        pads = [told.get("pad_token_id") for told in (written.settings, ids)]
        if None not in pads and pads[0] != pads[1]:
            differing.append(f"padding {pads[0]}, from which it counts its positions, not {pads[1]}")
        if not differing:
            return layout, written, found, twin
        reasons.append(f"{kind} has {', '.join(differing[:4])}")
    told = "; ".join(reasons) or "none has its family and positions"
    raise UserError(
        "convert", f"no published layout holds this model exactly ({told})", hint="train with such settings"
    )


def write_pooling(folder: Path, head: config.Embedding, width: int, longest: int | None) -> None:
    """What sentence-transformers declare of an embedding model: how states are pooled, how long a text may be."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if head.normalized else [])]
    paths = ["", POOLING.parent.name, "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    modes = {"first": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    pooling: dict[str, Any] = {f"pooling_mode_{name}": head.pooling == own for own, name in modes.items()}
    (folder / POOLING).parent.mkdir(exist_ok=True)
    files: dict[Path, Any] = {
        MODULES: modules,
        POOLING: {"word_embedding_dimension": width, **pooling},
        **({SENTENCES: {"max_seq_length": longest, "do_lower_case": False}} if longest is not None else {}),
    }
    for path, value in files.items():
        _write_json(folder / path, value)


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, lambda part: part.write_text(json.dumps(value, indent=2) + "\n"))


def pools(head: object) -> TypeGuard[config.Embedding]:
    """Whether a head is one that the files of sentence-transformers declare, and not the pooler of the layout."""
    return isinstance(head, config.Embedding) and not head.projected


def differences(one: config.Model, other: config.Model) -> list[str]:
    """The settings in which two models compute differently: name and the two values, the other's first."""
    ours, theirs = (dict(_leaves(to_dict(_written_out(model)))) for model in (one, other))
    names = sorted({*ours, *theirs})
    return [
        f"{name} {theirs.get(name)}, not {ours.get(name)}"
        for name in names
        if not _same(ours.get(name), theirs.get(name))
    ]


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other))
    return one == other


def _written_out(model: config.Model) -> config.Model:
    """The model with what follows from other settings said."""
    tie = tuple(sorted(model.tie))
    if isinstance(model, config.EncoderDecoder):
        return replace(model, encoder=_stack(model.encoder), decoder=_stack(model.decoder), tie=tie)
    return replace(model, stack=_stack(model.stack), tie=tie)


def _stack(stack: Stack) -> Stack:
    attention = stack.attention
    said = replace(
        attention,
        num_kv_heads=stack.num_kv_heads,
        head_dim=stack.head_dim,
        key_bias=attention.bias if attention.key_bias is None else attention.key_bias,
        out_bias=attention.bias if attention.out_bias is None else attention.out_bias,
        scale=stack.head_dim**-0.5 if attention.scale is None else attention.scale,
    )
    windows = tuple(stack.window(layer) or 0 for layer in range(stack.num_layers))
    return replace(stack, attention=said, windows=windows, final_norm=stack.has_final_norm)


def _leaves(plain: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for name, value in plain.items():
        if name in _PASSING:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _stored(found: list[Place], twin: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file, under the first of its names."""
    canonical = {id(parameter): name for name, parameter in twin.named_parameters()}
    for place in found:
        row = place.rows[0]
        yield row.theirs, row.write([tensors[canonical[id(parameter)]] for parameter in place.parameters])


def _has_head(model: config.Model) -> bool:
    return not (isinstance(model, config.Encoder) and isinstance(model.head, config.Embedding))
