"""What a model is made of, for the page to draw: its towers, their parts and sizes.

From the config alone: shapes are those of a model that is built without its weights.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pellucid.analysis.parameters import parameter_count, parts_of
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.schema import to_dict
from pellucid.models.build import build_empty

FAMILY = {config.Encoder: "encoder", config.Decoder: "decoder", config.EncoderDecoder: "encoder_decoder"}
HEAD = {
    config.Language: "language",
    config.MaskedLanguage: "masked",
    config.Classification: "classification",
    config.TokenClassification: "token_classification",
    config.Embedding: "embedding",
}


def described(model: config.Model) -> dict[str, Any]:
    """Family, head, towers and parameters of a model."""
    shapes, head = _shapes(model), model.head
    pieces = [{**asdict(part), "parameters": part.parameters, "shapes": shapes[part.name]} for part in parts_of(model)]
    return {
        "family": FAMILY[type(model)],
        "head": HEAD[type(head)],
        "labels": list(head.labels) if isinstance(head, config.Classification | config.TokenClassification) else None,
        "parameters": parameter_count(model),
        "tie": list(model.tie),
        "towers": towers_of(model),
        "parts": pieces,
        "config": to_dict(model),
    }


def _shapes(model: config.Model) -> dict[str, dict[str, list[int]]]:
    """The shapes of each part's parameters, as (outputs, inputs) where it is a matrix; all layers are alike."""
    found: dict[str, dict[str, list[int]]] = {}
    for name, parameter in build_empty(model).named_parameters(remove_duplicate=False):
        path = name.replace("blocks.0.", "blocks.*.").split(".")
        module, own = (path[:-1], path[-1]) if path[-1] in ("weight", "bias") else (path, "weight")
        found.setdefault(".".join(module), {})[own] = list(parameter.shape)
    return found


def towers_of(model: config.Model) -> list[dict[str, Any]]:
    """Its towers as the page draws them, in the order of computation."""
    match model:
        case config.EncoderDecoder():
            return [
                _tower("encoder.", "Encoder", model.encoder, model.source, causal=False),
                _tower("decoder.", "Decoder", model.decoder, model.target, causal=True, cross=True),
            ]
        case config.Encoder():
            return [_tower("", "Encoder", model.stack, model.front, causal=False)]
        case config.Decoder():
            return [_tower("", "Decoder", model.stack, model.front, causal=True)]


def _tower(
    prefix: str, title: str, stack: parts.Stack, front: config.Front, *, causal: bool, cross: bool = False
) -> dict[str, Any]:
    attention, feed_forward = stack.attention, stack.feed_forward
    return {
        "prefix": prefix,
        "title": title,
        "layers": stack.num_layers,
        "causal": causal,
        "cross": cross,
        "d_model": stack.d_model,
        "num_heads": attention.num_heads,
        "num_kv_heads": attention.num_kv_heads or attention.num_heads,
        "head_dim": stack.head_dim,
        "scale": stack.head_dim**-0.5 if attention.scale is None else attention.scale,
        "softcap": attention.softcap,
        "d_ff": feed_forward.d_ff,
        "gated": feed_forward.gated,
        "activation": feed_forward.activation,
        "norm": type(stack.norm).__name__,
        "epsilon": stack.norm.epsilon,
        "qk_norm": attention.qk_norm,
        "placement": stack.placement,
        "final_norm": stack.has_final_norm,
        "positions": {"kind": type(stack.positions).__name__, **to_dict(stack.positions)},
        "windows": [stack.window(i) for i in range(stack.num_layers)],
        "front": {"kind": type(front).__name__, **to_dict(front)},
        "sites": [
            f"{prefix}blocks.{i}.{name}"
            for i in range(stack.num_layers)
            for name in (("self_attention", "cross_attention") if cross else ("self_attention",))
        ],
    }
