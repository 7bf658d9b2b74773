"""Models of the lab as folders that every command opens: in the layout of `transformers`, with a tokenizer of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers

from pellucid.config.model import stacks
from pellucid.config.run import Conventions
from pellucid.config.schema import kind_of
from pellucid.data.published import write_tokenizer
from pellucid.data.tokenizers import Tokenizer
from pellucid.models.build import Model
from pellucid.models.foreign.export import write_published


def save(folder: Path, model: Model, tokenizer: Tokenizer | None = None) -> None:
    """Writes the config, the weights and what cuts the texts.

    Raises:
        UserError: for a model that no published layout holds.
        CheckpointError: when it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = model.config
    ids = {}
    if tokenizer is not None:
        ids = write_tokenizer(folder, tokenizer, kind_of(type(described)), stacks(described)[-1].max_length)
    write_published(folder, model.eval(), ids)


def words(known: Sequence[str], special: Sequence[str], conventions: Conventions) -> Tokenizer:
    """Cuts at spaces into words that are known; any other is the first of the special tokens, or else of the words."""
    numbers = {word: i for i, word in enumerate((*known, *special))}
    raw = tokenizers.Tokenizer(models.WordLevel(numbers, unk_token=(*special, *known)[0]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([AddedToken(name, special=True) for name in special])
    return Tokenizer(raw, conventions)
