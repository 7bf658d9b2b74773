"""What a model is shown when it reads a text: its tensors, and the pieces they stand for.

Shapes: B texts (1), T positions, S source positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pellucid.config.model import Tokens
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, generate
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class Reading:
    """One text, ready for ``model(*reading.inputs)`` or ``trace(model, reading.inputs)``.

    Attributes:
        inputs: tokens (1, T); of an encoder–decoder the source (1, S) and the target (1, T).
        pieces: the pieces of the text, one for each position.
        target: those of the target; ``None`` where there is none.
    """

    inputs: tuple[Any, ...]
    pieces: tuple[str, ...]
    target: tuple[str, ...] | None = None


def read(loaded: Loaded, text: str, target: str | None = None) -> Reading:
    """Cuts a text as the model was trained to read it.

    Args:
        target: what an encoder–decoder is fed as written; what it writes itself, greedily, when left out.

    Raises:
        UserError: for a model that reads no text, or a target for one that has none.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, EncoderDecoder):
        if target is not None:
            raise UserError("target", f"a model of kind {type(model).__name__} reads one text", "an encoder–decoder")
        ids = tokenizer.encode(text)
        framed = tokenizer.text(ids) if type(model).__name__ == "Encoder" else tokenizer.prompt(ids)
        return Reading((torch.tensor([framed], device=model.device),), _pieces(tokenizer, framed))
    if not isinstance(model.config.source, Tokens):
        raise UserError("text", f"this model reads {type(model.config.source).__name__.lower()}", "one that reads text")
    read_ids, writer = tokenizer.source(tokenizer.encode(text)), tokenizer.target
    source = torch.tensor([read_ids], device=model.device)
    start = [*writer.start, *writer.forced]
    if target is None:
        prompt = Prompt(torch.tensor([start], device=model.device), source=source)
        (written,) = generate(model, prompt, max_new_tokens=len(read_ids) + 50, ends=writer.ends)
    else:
        written = writer.encode(target)
    fed = [*start, *written]
    inputs = (source, torch.tensor([fed], device=model.device))
    return Reading(inputs, _pieces(tokenizer, read_ids), _pieces(writer, fed))


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, ...]:
    return tuple(tokenizer.pieces(ids))
