"""How many tokens a model knows, which is padding, how many it reads, how wide they are: by its settings and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

SETTINGS = ("config", "cfg", "args", "hparams", "params", "conf", "settings", "opt")
VOCABULARY = (
    "vocab_size",
    "num_tokens",
    "n_vocab",
    "n_tokens",
    "num_embeddings",
    "vocabulary_size",
    "src_vocab_size",
    "vocab",
)
LENGTH = ("block_size", "max_length", "max_len", "max_seq_len", "max_seq_length", "max_sequence_length", "seq_len",
          "max_position_embeddings", "context_length", "context_size", "n_ctx", "ctx_len", "n_positions")  # fmt: skip
PADDING = ("pad_id", "pad_idx", "pad_token_id", "padding_idx", "pad_index", "src_pad_idx", "src_pad_id")
POSITION = re.compile(r"pos|(^|[._])(pe|wpe)($|[._])", re.IGNORECASE)
OTHER = re.compile(r"pos|(^|[._])(pe|wpe)($|[._])|segment|type|rel|speaker|lang|time", re.IGNORECASE)
WORDS = re.compile(r"tok|word|wte|vocab|embed|emb($|[._])|lut|src|tgt", re.IGNORECASE)
BARE = re.compile(r"(^|[._])(wte|wpe|emb\w*|tok\w*)($|[._])", re.IGNORECASE)
PAIR = re.compile(r"src|source|tgt|target", re.IGNORECASE)
SMALL = 16
"""Tables of fewer rows are of something else than words, where there is a larger one."""
SQUARE = re.compile(r"mask|tril|causal|bias", re.IGNORECASE)


def vocabulary(model: Any) -> int | None:
    """Of its settings, else the rows of its table of words: the smallest, where source and target have one each.

    A table of a few rows beside a larger one is of something else, unless there are as many outputs, or its name says
    that it is one of both.
    """
    if (told := _setting(model, VOCABULARY)) is not None:
        return told
    tables = _tables(model)
    words = {path: rows for path, rows in tables.items() if not OTHER.search(path)}
    named = {path: rows for path, rows in words.items() if rows > 1 and WORDS.search(path)} or words
    if max(named.values(), default=0) >= SMALL:
        outputs = {part.out_features for part in model.modules() if isinstance(part, nn.Linear)}
        named = {path: n for path, n in named.items() if n >= SMALL or n in outputs or PAIR.search(path)}
    return min((rows for rows in named.values() if rows > 1), default=None)


def largest(model: Any) -> int | None:
    """Rows of its largest table, but for those of positions and types."""
    return max((rows for path, rows in _tables(model).items() if not OTHER.search(path)), default=None)


def padding(model: Any) -> int | None:
    """The token of padding: of its settings, else what all its tables of words say that say one."""
    told, words = _setting(model, PADDING, least=0), vocabulary(model)
    if told is None and isinstance(model, nn.Module):
        tables = {path: part for path, part in model.named_modules() if isinstance(part, nn.Embedding)}
        ids = {part.padding_idx for path, part in tables.items() if not OTHER.search(path)} - {None}
        told = ids.pop() if len(ids) == 1 else None
    return None if told is None or (words is not None and told >= words) else told


def longest(model: Any) -> int | None:
    """Of its settings, else of its table of positions, else of its causal mask."""
    if (told := _setting(model, LENGTH)) is not None:
        return told
    if not isinstance(model, nn.Module):
        return None
    tables = [rows for path, rows in _tables(model).items() if POSITION.search(path)]
    tensors = [(name, x) for name, x in _bare(model) if x.dim() >= 2]
    # (L, D), (1, L, D) and (L, 1, D): all axes but the last, of which one alone is not 1.
    tables += [
        max(x.shape[:-1]) for name, x in tensors
        if POSITION.search(name) and x.dim() in (2, 3) and x.is_floating_point() and max(x.shape[:-1]) > 1
    ]  # fmt: skip
    squares = [x.size(-1) for name, x in tensors if SQUARE.search(name) and x.size(-1) == x.size(-2) > 1 and _flat(x)]
    return min([*tables, *squares], default=None)


def features(model: Any) -> int | None:
    """The width of the vectors it reads, where it has no table of embeddings."""
    if not isinstance(model, nn.Module) or _tables(model):
        return None
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            return module.embed_dim
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            return int(module.normalized_shape[-1])
        if isinstance(module, nn.Linear):
            return module.in_features
    return None


def _tables(model: Any) -> dict[str, int]:
    """Rows of every table of embeddings: modules, and parameters (V, D) that are named like one."""
    if not isinstance(model, nn.Module):
        return {}
    found = {path: part.num_embeddings for path, part in model.named_modules() if isinstance(part, nn.Embedding)}
    if found:
        return found
    return {name: x.size(0) for name, x in _bare(model) if x.dim() == 2 and BARE.search(name)}


def _bare(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that are no weights of a projection."""
    for path, part in model.named_modules():
        if not isinstance(part, nn.Linear | nn.MultiheadAttention | nn.Embedding | nn.modules.conv._ConvNd):
            own = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
            yield from ((f"{path}.{name}".lstrip("."), x) for name, x in own)


def _flat(x: Tensor) -> bool:
    return all(size == 1 for size in x.shape[:-2])


def _setting(model: Any, names: tuple[str, ...], least: int = 2) -> int | None:
    for owner in _owners(model):
        for name in names:
            value = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value >= least:
                return value
    return None


def _owners(model: Any) -> Iterator[Any]:
    yield model
    yield from (owner for name in SETTINGS if (owner := getattr(model, name, None)) is not None)
