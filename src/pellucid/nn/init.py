"""Where the weights start, by the recipe of each family's publication."""

from __future__ import annotations

import math

from torch import nn

from pellucid.nn.attention import Attention
from pellucid.nn.embedding import AudioFront, PatchFront, TokenFront
from pellucid.nn.feed_forward import FeedForward, GatedFeedForward
from pellucid.nn.positions import RelativePositionBias


def xavier(model: nn.Module) -> None:
    """Xavier-uniform projections, zero biases, embeddings of deviation 1/√D (tensor2tensor's Transformer)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(module.weight)
            _zero_bias(module)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    _small_biases(model, 0.02)


def normal(model: nn.Module, deviation: float, *, truncated: bool, scaled_residual: bool) -> None:
    """Normal weights, zero biases (Devlin et al. 2019, truncated at two deviations; Radford et al. 2019).

    ``scaled_residual`` divides the deviation of whatever writes to the residual stream by √N, N being the number of
    such layers, so that their sum keeps its size (Radford et al. 2019, §2.3).
    """
    writers = _residual_writers(model)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            shrink = math.sqrt(len(writers)) if scaled_residual and module in writers else 1.0
            std = deviation / shrink
            if truncated:
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            else:
                nn.init.normal_(module.weight, std=std)
            if not isinstance(module, nn.Embedding):
                _zero_bias(module)


def t5(model: nn.Module, factor: float) -> None:
    """Each weight by its fan-in; queries also carry the 1/√K that T5's scores leave out (Mesh TensorFlow's init)."""
    for module in model.modules():
        match module:
            case Attention():
                d_model, d_source = module.query.in_features, module.key.in_features
                _normal(module.query, factor * (d_model * module.head_dim) ** -0.5)
                _normal(module.key, factor * d_source**-0.5)
                _normal(module.value, factor * d_source**-0.5)
                _normal(module.out, factor * module.out.in_features**-0.5)
            case FeedForward():
                for layer in (module.up, module.down, *([module.gate] if isinstance(module, GatedFeedForward) else [])):
                    _normal(layer, factor * layer.in_features**-0.5)
            case TokenFront():
                nn.init.normal_(module.table.weight, std=factor)
            case RelativePositionBias():
                nn.init.normal_(module.table.weight, std=factor * _width(model) ** -0.5)
            case PatchFront():
                _normal(module.project, factor * module.project.in_features**-0.5)
            case AudioFront():
                xavier(module)


def _width(model: nn.Module) -> int:
    return next(module.query.in_features for module in model.modules() if isinstance(module, Attention))


def _residual_writers(model: nn.Module) -> list[nn.Module]:
    attentions: list[nn.Module] = [module.out for module in model.modules() if isinstance(module, Attention)]
    return attentions + [module.down for module in model.modules() if isinstance(module, FeedForward)]


def _normal(layer: nn.Linear, std: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    _zero_bias(layer)


def _zero_bias(layer: nn.Linear | nn.Conv1d) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _small_biases(model: nn.Module, deviation: float) -> None:
    """A table of score biases is no embedding: at 1/√H it would drown the products."""
    for module in model.modules():
        if isinstance(module, RelativePositionBias):
            nn.init.normal_(module.table.weight, std=deviation)
