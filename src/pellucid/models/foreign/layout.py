"""What a layout is: the config's translation, a table of names, and what its files hold besides."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pellucid.config import model as config
from pellucid.config.parts import Attention
from pellucid.errors import ConfigError
from pellucid.models.foreign.settings import Settings
from pellucid.models.foreign.table import Table


@dataclass(frozen=True)
class Folder:
    """What a translation may look at.

    Attributes:
        settings: the config.json.
        tensors: the names in the weight files, after the layout's own renaming.
        pooling: the pooling that the folder declares beside it, as those of sentence-transformers do.
    """

    settings: Settings
    tensors: Collection[str]
    pooling: config.Embedding | None = None

    def has(self, name: str) -> bool:
        """Whether the files hold a tensor whose name ends like this."""
        return any(known == name or known.endswith(f".{name}") for known in self.tensors)

    def purpose(self, *supported: str) -> str:
        """What its ``architectures`` say it is for: ``ForMaskedLM``, ``Model`` …, the first one if they say nothing.

        Raises:
            ConfigError: for a purpose that is not supported.
        """
        named = self.settings.values.get("architectures") or []
        if not named:
            return supported[0]
        found = re.search(r"(For[A-Z]\w+|LMHeadModel|MTModel|EncoderModel|Model)$", str(named[0]))
        if found is None or found[0] not in supported:
            stem = str(named[0])[: found.start()] if found else ""
            wanted = ", ".join(stem + purpose for purpose in supported)
            raise ConfigError(f"{self.settings.where}: architectures", f"found {named[0]}", f"one of {wanted}")
        return found[0]


@dataclass(frozen=True)
class Written:
    """A config.json, and tensors of zeros that the layout has and the model does without: by name, their shapes."""

    settings: Mapping[str, Any]
    zeros: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes:
        model_types: the names it goes by in a config.json.
        read: the config of the model that a folder holds.
        table: which tensor is which parameter.
        write: the config.json of a model, as well as the layout can put it; ``None`` for another family. Whether it
            fits is seen by reading it back.
        prefix: what stands before the names of a model with a head, and is left out where the bare model was saved.
        renamed: pieces of names that other versions wrote, and what they are in the table.
        unread: patterns of tensors that say nothing of their own: masks, positions counted out, heads not asked for.
        heads: patterns of the tensors of its heads, which a folder that declares a pooling does without.
    """

    model_types: tuple[str, ...]
    read: Callable[[Folder], config.Model]
    table: Callable[[config.Model], Table]
    write: Callable[[config.Model], Written | None]
    prefix: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


def heads(settings: Settings, number: int, groups: int, width: int, head_dim: int | None, **given: Any) -> Attention:
    """Attention as a config.json describes it, leaving unsaid what follows from the width.

    Raises:
        ConfigError: for a width that its heads do not divide.
    """
    if number < 1 or (head_dim is None and width % number):
        raise ConfigError(settings.where, f"{number} heads for a width of {width}", "heads that divide the width")
    own = None if head_dim is None or head_dim * number == width else head_dim
    return Attention(num_heads=number, num_kv_heads=None if groups == number else groups, head_dim=own, **given)
