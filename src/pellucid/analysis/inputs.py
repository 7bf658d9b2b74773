"""Something to read for models that are compared, where nobody says what.

Shapes: B batch (2), T positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pellucid.config import model as config
from pellucid.config.model import sound_frames
from pellucid.config.parts import Stack
from pellucid.errors import UserError

ROWS, LENGTH = 2, 16


def drawn(a: nn.Module, b: nn.Module, seed: int) -> Any:
    """Inputs that both models can read: random tokens of the smaller vocabulary, images or sounds.

    Raises:
        UserError: for models that do not say what they read.
    """
    told: list[Any] = [getattr(model, "config", None) for model in (a, b)]
    described: list[config.Model] = [each for each in told if isinstance(each, config.Model)]
    if not described:
        raise UserError("diff", "these models do not say what they read", "inputs for both")
    draw = torch.Generator().manual_seed(seed)
    first = described[0]
    if isinstance(first, config.EncoderDecoder):
        pairs = [d for d in described if isinstance(d, config.EncoderDecoder)]
        source = _front([(d.source, d.encoder) for d in pairs], draw)
        return source, _front([(d.target, d.decoder) for d in pairs], draw)
    single = [(d.front, d.stack) for d in described if not isinstance(d, config.EncoderDecoder)]
    return _front(single, draw)


def _front(fronts: list[tuple[config.Front, Stack]], draw: torch.Generator) -> Tensor:
    front, stack = fronts[0]
    match front:
        case config.Tokens():
            vocabulary = min(other.vocab_size for other, _ in fronts if isinstance(other, config.Tokens))
            length = min([LENGTH, *(stack.max_length for _, stack in fronts if stack.max_length)])
            return torch.randint(0, vocabulary, (ROWS, length), generator=draw)
        case config.Patches():
            return torch.randn(ROWS, front.channels, front.image_size, front.image_size, generator=draw)
        case config.Audio():
            return torch.randn(ROWS, front.mels, sound_frames(stack), generator=draw)
