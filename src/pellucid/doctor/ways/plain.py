"""How any other module or callable is called: read from its signature, and tried.

What a mask argument means is not guessed from its name alone where the name is not clear: a mask of all ones, and one
of all zeros, are tried, and the one that changes nothing says which of both hides.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.measures import gap
from pellucid.doctor.spec import Batch, Spec
from pellucid.errors import UserError
from pellucid.trace.calls import tensors_in

SOURCES = ("src", "source", "source_ids", "src_ids", "src_tokens", "encoder_input_ids", "encoder_input", "enc_input",
           "enc_inputs", "encoder_inputs", "inputs", "input_ids", "x", "src_seq")  # fmt: skip
TARGETS = ("tgt", "trg", "target", "target_ids", "tgt_ids", "tgt_tokens", "decoder_input_ids", "decoder_input",
           "dec_input", "dec_inputs", "decoder_inputs", "targets", "y", "trg_seq", "prev_output_tokens")  # fmt: skip
KEEPS = ("keep", "attention_mask", "input_mask", "keep_mask", "valid_mask")
DROPS = ("key_padding_mask", "src_key_padding_mask", "pad_mask", "padding_mask")
UNCLEAR = ("mask", "src_mask", "attn_mask")
LABELS = ("labels", "targets", "target", "lm_labels")
SOURCE_KEEPS = ("source_keep", "src_keep", "attention_mask", "source_mask", "src_attention_mask")
SOURCE_DROPS = ("src_key_padding_mask", "memory_key_padding_mask", "source_padding_mask", "src_padding_mask")
TARGET_KEEPS = ("keep", "target_keep", "tgt_keep", "decoder_attention_mask")
TARGET_DROPS = ("tgt_key_padding_mask", "target_padding_mask", "tgt_padding_mask")
WRITERS = re.compile(r"gpt|decoder|causal|lm$|language|llama|generat", re.IGNORECASE)
READERS = re.compile(r"bert|encoder|classif|vit|embed", re.IGNORECASE)


def spec_of(model: Any, said: Spec) -> Spec:
    """What the signature and the parts of a model tell.

    Args:
        said: what the user said, which need not be found out.

    Raises:
        UserError: for a model that cannot be called without being told how.
    """
    features = said.features or (None if said.call else _features(model))
    vocabulary = said.vocab_size or (None if features else _vocabulary(model))
    kind, both = said.kind, said.kind == "encoder_decoder"
    longest = _longest(model)
    if said.call is not None:
        return Spec(kind=kind, vocab_size=vocabulary, features=features, max_length=longest)
    names = _signature(model)
    required = [name for name, default in names.items() if default is inspect.Parameter.empty]
    if kind is None and len(required) == 2 and _pair(required):
        kind, both = "encoder_decoder", True
    if len(required) > (2 if both else 1):
        raise UserError(
            "call",
            f"{type(model).__name__}.forward needs {', '.join(required)}, and nothing says what to give it",
            "a model that reads ids (B, T), or to be told how it is called",
            "say it: Spec(call=lambda model, batch: model(batch.ids, …))",
        )
    places = list(names)
    call = _pair_call(places) if both else _single_call(places)
    return Spec(
        kind=kind or _named_kind(model, places), vocab_size=vocabulary, features=features, max_length=longest, call=call
    )


def masks(model: Any, kind: str | None, batch: Batch, run: Callable[[Callable[..., Tensor]], Tensor]) -> Any:
    """How its mask arguments are given, found by trying.

    Args:
        run: runs a call with the same random numbers each time.

    Returns:
        A call that honours ``keep``, or ``None``.
    """
    places = list(_signature(model))
    if kind == "encoder_decoder":
        pairs = [
            (_named(places, SOURCE_KEEPS, True) or _named(places, SOURCE_DROPS, False), "source_keep"),
            (_named(places, TARGET_KEEPS, True) or _named(places, TARGET_DROPS, False), "keep"),
        ]
        chosen = [(name, kept, which) for found, which in pairs if found is not None for name, kept in [found]]
        if "memory_key_padding_mask" in places and any(name == "src_key_padding_mask" for name, _, _ in chosen):
            chosen.append(("memory_key_padding_mask", False, "source_keep"))
        plain = _pair_call(places)
    else:
        found = _named(places, KEEPS, True) or _named(places, DROPS, False) or _named(places, UNCLEAR, True)
        chosen = [] if found is None else [(*found, "keep")]
        plain = _single_call(places)
    honoured = [(name, kept, which) for name, kept, which in chosen if which != ""]
    accepted = []
    for name, kept, which in honoured:
        polarity = _polarity(name, kept, which, plain, batch, run)
        if polarity is not None:
            accepted.append((name, polarity, which))
    if not accepted:
        return None

    def call(model: Any, batch: Batch) -> Tensor:
        given = {}
        for name, kept, which in accepted:
            mask = getattr(batch, which)
            if mask is not None:
                given[name] = mask if kept else ~mask
        return plain(model, batch, **given)

    return call


def _polarity(
    name: str, kept: bool, which: str, plain: Any, batch: Batch, run: Callable[[Callable[..., Tensor]], Tensor]
) -> bool | None:
    """Whether True keeps, by what changes nothing; by the name where both or neither do not."""
    of = batch.source if which == "source_keep" else batch.ids
    if of is None:
        return None
    ones = torch.ones(of.shape[:2], dtype=torch.bool, device=of.device)
    unchanged = {}
    bare = run(lambda model, given: plain(model, given))
    for value in (True, False):
        try:
            masked = run(lambda model, given, value=value: plain(model, given, **{name: ones if value else ~ones}))
            unchanged[value] = masked.shape == bare.shape and gap(masked, bare).share <= 1e-4
        except Exception:  # what a mask of another shape or type raises
            unchanged[value] = False
    if name in UNCLEAR:
        return None if unchanged[True] == unchanged[False] else unchanged[True]
    return kept if any(unchanged.values()) else None


def _single_call(places: list[str]) -> Any:
    labels = next((name for name in places[1:] if name in LABELS), None)

    def call(model: Any, batch: Batch, **masks: Tensor) -> Tensor:
        found = outputs_of(model(batch.ids, **masks))
        if labels is not None and found.dim() == 3 and found.size(1) == 1 != batch.ids.size(1):
            # Models in nanoGPT's manner give the last position alone unless they are given targets.
            found = outputs_of(model(batch.ids, **{labels: batch.ids}, **masks))
        return found

    return call


def _pair_call(places: list[str]) -> Any:
    def call(model: Any, batch: Batch, **masks: Tensor) -> Tensor:
        return outputs_of(model(batch.source, batch.ids, **masks))

    return call


def outputs_of(found: Any) -> Tensor:
    """The outputs in whatever a model returned: the tensor, that named ``logits``, or the first with three axes."""
    if isinstance(found, Tensor):
        return found
    if isinstance(found, Mapping) and isinstance(found.get("logits"), Tensor):
        return found["logits"]
    if isinstance(getattr(found, "logits", None), Tensor):
        tensor: Tensor = found.logits
        return tensor
    tensors = [tensor for tensor in tensors_in(found).values() if tensor.is_floating_point()]
    if not tensors:
        raise UserError("call", f"the model returned {type(found).__name__} without a tensor", "logits (B, T, V)")
    return next((tensor for tensor in tensors if tensor.dim() >= 3), tensors[0])


def loss_of(model: Any) -> Any:
    """How a model that takes labels gives its loss; ``None`` for one that does not.

    Models in nanoGPT's manner take targets that the caller has shifted: both ways of giving them exist, and which is
    meant cannot be seen. So it is the caller's to say, by ``Spec(loss=…)``.
    """
    return None


def _named(places: list[str], known: tuple[str, ...], kept: bool) -> tuple[str, bool] | None:
    return next(((name, kept) for name in known if name in places[1:]), None)


def _signature(model: Any) -> dict[str, Any]:
    function = model.forward if isinstance(model, nn.Module) else model
    taken = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {"ids": inspect.Parameter.empty}
    return {p.name: p.default for p in parameters if p.kind in taken}


def _pair(required: list[str]) -> bool:
    return required[0].lower() in SOURCES and required[1].lower() in TARGETS


def _named_kind(model: Any, places: list[str]) -> Any:
    """By its class; ``None`` where that says nothing: then by what it does."""
    name = type(model).__name__
    if WRITERS.search(name) and not re.search(r"encoder", name, re.IGNORECASE):
        return "decoder"
    return "encoder" if READERS.search(name) else None


def _embeddings(model: Any) -> list[nn.Embedding]:
    return [m for m in model.modules() if isinstance(m, nn.Embedding)] if isinstance(model, nn.Module) else []


def _vocabulary(model: Any) -> int | None:
    """Of its config, else the rows of the first table of embeddings whose name is not that of positions."""
    for name in ("vocab_size", "num_tokens", "n_vocab", "vocab"):
        for owner in (model, getattr(model, "config", None)):
            if isinstance(value := getattr(owner, name, None), int):
                return value
    if not isinstance(model, nn.Module):
        return None
    tables = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Embedding)]
    words = [m.num_embeddings for path, m in tables if not _of_positions(path)]
    return min(words) if words else None


def _of_positions(path: str) -> bool:
    return bool(re.search(r"pos|wpe|segment|token_type|type_emb|rel", path.lower()))


def _longest(model: Any) -> int | None:
    for name in ("block_size", "max_length", "max_len", "max_seq_len", "max_position_embeddings", "context_length", "n_ctx"):  # fmt: skip
        for owner in (model, getattr(model, "config", None)):
            if isinstance(value := getattr(owner, name, None), int) and not isinstance(value, bool) and value > 1:
                return value
    if not isinstance(model, nn.Module):
        return None
    tables = [m.num_embeddings for path, m in model.named_modules() if isinstance(m, nn.Embedding) and "pos" in path]
    return min(tables) if tables else None


def _features(model: Any) -> int | None:
    """The width of the vectors it reads, where it has no table of embeddings."""
    if not isinstance(model, nn.Module) or _embeddings(model):
        return None
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            return module.embed_dim
        if isinstance(module, nn.LayerNorm):
            return module.normalized_shape[-1]
        if isinstance(module, nn.Linear):
            return module.in_features
    return None
