"""How any other module or callable is called: read from its signature, and tried.

What a mask argument means is not guessed from its name alone where the name is not clear: a mask of all ones, and one
of all zeros, are tried, and the one that changes nothing says which of both hides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.doctor.measures import gap
from pellucid.doctor.spec import Batch, Kind, Spec
from pellucid.doctor.ways import size
from pellucid.doctor.ways.signature import MASK, Signature, signature
from pellucid.errors import UserError
from pellucid.trace.calls import tensors_in

KEEPS = ("keep", "attention_mask", "input_mask", "keep_mask", "valid_mask")
DROPS = ("key_padding_mask", "src_key_padding_mask", "pad_mask", "padding_mask")
UNCLEAR = ("mask", "src_mask", "attn_mask")
SOURCE_KEEPS = ("source_keep", "src_keep", "attention_mask", "source_mask", "src_attention_mask")
SOURCE_DROPS = ("src_key_padding_mask", "memory_key_padding_mask", "source_padding_mask", "src_padding_mask")
TARGET_KEEPS = ("keep", "target_keep", "tgt_keep", "decoder_attention_mask")
TARGET_DROPS = ("tgt_key_padding_mask", "target_padding_mask", "tgt_padding_mask")
WRITERS = re.compile(r"gpt|decoder|causal|lm$|language|llama", re.IGNORECASE)
READERS = re.compile(r"bert|encoder|classif|vit|embed|mask\w*(lm|language)|mlm", re.IGNORECASE)
"""A name that both match, such as that of a masked language model, says nothing; nor does a generator, which
ELECTRA has for masked words."""
FORMS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda mask: mask, lambda mask: mask.long(), lambda mask: mask.float(),
    lambda mask: mask[:, None], lambda mask: mask[:, None, None],
)  # fmt: skip
"""How a mask (B, T) may be wanted: as numbers, or with axes for heads and queries."""

Run = Callable[[Callable[..., Tensor]], Tensor]


@dataclass(frozen=True)
class Masking:
    """A mask argument as it is understood.

    Attributes:
        name: of the argument.
        of: the part of the batch that it is made of.
        kept: whether True keeps.
        form: how it is wanted.
    """

    name: str
    of: str
    kept: bool
    form: Callable[[Tensor], Tensor]

    def given(self, keep: Tensor) -> Tensor:
        """The argument for ``keep`` (B, T)."""
        return self.form(keep if self.kept else ~keep)


def spec_of(model: Any, said: Spec) -> Spec:
    """What the signature and the parts of a model tell.

    Args:
        said: what the user said, which need not be found out.

    Raises:
        UserError: for a model that cannot be called without being told how.
    """
    vectors = said.features or (None if said.vocab_size or said.example is not None else size.features(model))
    words = None if vectors else size.vocabulary(model)
    kind, longest, pad = said.kind, size.longest(model), None if vectors else size.padding(model)
    if said.call is not None:
        return Spec(kind=kind, prefix=said.prefix, vocab_size=words, features=vectors, max_length=longest, pad_id=pad)
    known = signature(model)
    pair = known.pair if kind in (None, "encoder_decoder") else None
    if kind == "encoder_decoder" and pair is None and len(known.names) > 1:
        pair = (known.names[0], known.names[1])
    kind = "encoder_decoder" if pair is not None else kind
    given = {*(pair or (known.ids,)), None if pair else known.labels}
    if missing := [name for name in known.required if name not in given]:
        raise _untold(model, known, pair, missing)
    call = _pair_call(known, pair) if pair else _single_call(known)
    return Spec(
        kind=kind or _named_kind(model), prefix=said.prefix, vocab_size=words, features=vectors,
        max_length=longest, pad_id=pad, call=call,
    )  # fmt: skip


def _untold(model: Any, known: Signature, pair: tuple[str, str] | None, missing: list[str]) -> UserError:
    """What a signature needs that nothing says how to give, with the line to write."""
    name = type(model).__name__
    parts = {pair[0]: "batch.source", pair[1]: "batch.ids"} if pair else {known.ids: "batch.ids"}
    written = ", ".join(
        parts.get(each, f"{each}=…") if each not in known.by_name else f"{each}={parts.get(each, '…')}"
        for each in known.required
    )
    kind = 'kind="encoder_decoder", ' if pair else ""
    masks = [each for each in missing if MASK in each.lower()]
    more = ""
    if masks:
        keeps = "batch.source_keep and batch.keep are" if pair else "batch.keep is"
        more = f"; make {' and '.join(masks)} there as your training does ({keeps} True where a token is real, or None)"
    return UserError(
        "call", f"{name} needs {', '.join(known.required)}, and nothing says what to give as {', '.join(missing)}",
        "to be told how it is called", f"say it: Spec({kind}call=lambda model, batch: model({written})){more}",
    )  # fmt: skip


def masks(model: Any, kind: str | None, batch: Batch, run: Run) -> Any:
    """How its mask arguments are given, found by trying.

    Args:
        run: runs a call with the same random numbers each time.

    Returns:
        A call that honours ``keep``, or ``None``.
    """
    known = signature(model)
    both = kind == "encoder_decoder"
    pair = (known.pair or (known.names[0], known.names[1])) if both else None
    plain = _pair_call(known, pair) if pair else _single_call(known)
    candidates = list(_candidates(known.optional, both))
    accepted = [found for candidate in candidates if (found := _understood(*candidate, plain, batch, run)) is not None]
    if not accepted:
        return None

    def call(model: Any, batch: Batch) -> Tensor:
        kept = {masking: getattr(batch, masking.of) for masking in accepted}
        return plain(model, batch, **{m.name: m.given(keep) for m, keep in kept.items() if keep is not None})

    return call


def _candidates(names: tuple[str, ...], both: bool) -> Iterator[tuple[str, str, bool | None]]:
    """Arguments that may be masks of padding: the name, of what, and whether True keeps (``None``: unclear)."""
    if not both:
        sure = _first(names, KEEPS, True) or _first(names, DROPS, False) or _first(names, UNCLEAR, None)
        if sure is not None:
            yield sure[0], "keep", sure[1]
        return
    source = (
        _first(names, SOURCE_KEEPS, True) or _first(names, SOURCE_DROPS, False) or _first(names, ("src_mask",), None)
    )
    target = _first(names, TARGET_KEEPS, True) or _first(names, TARGET_DROPS, False)
    if source is not None:
        yield source[0], "source_keep", source[1]
        if source[0] == "src_key_padding_mask" and "memory_key_padding_mask" in names:
            yield "memory_key_padding_mask", "source_keep", False
    if target is not None:
        yield target[0], "keep", target[1]


def _first(names: tuple[str, ...], known: tuple[str, ...], kept: bool | None) -> tuple[str, bool | None] | None:
    return next(((name, kept) for name in known if name in names), None)


def _understood(name: str, of: str, kept: bool | None, plain: Any, batch: Batch, run: Run) -> Masking | None:
    """The first form and polarity in which a mask of all that is real changes nothing."""
    read = batch.source if of == "source_keep" else batch.ids
    if read is None:
        return None
    real = torch.ones(read.shape[:2], dtype=torch.bool, device=read.device)
    bare = run(lambda model, given: plain(model, given))

    def unchanged(masking: Masking) -> bool:
        try:
            masked = run(lambda model, given: plain(model, given, **{name: masking.given(real)}))
        except Exception:  # what a mask of another shape or type raises
            return False
        return masked.shape == bare.shape and gap(masked, bare).share <= 1e-4

    for form in FORMS:
        fitting = [polarity for polarity in (True, False) if unchanged(Masking(name, of, polarity, form))]
        if kept in fitting or (kept is None and len(fitting) == 1):
            return Masking(name, of, fitting[0] if kept is None else kept, form)
    return None


def _single_call(known: Signature) -> Any:
    name, labels = known.ids, known.labels

    def given(batch: Batch, more: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if name is None or (name == known.names[0] and name not in known.by_name):
            return (batch.ids,), more
        return (), {name: batch.ids, **more}

    def call(model: Any, batch: Batch, **masks: Tensor) -> Tensor:
        asked = {labels: batch.ids} if labels is not None else {}
        needed = asked if labels in known.required else {}
        places, named = given(batch, {**needed, **masks})
        found = outputs_of(model(*places, **named))
        if labels is not None and not needed and found.dim() == 3 and found.size(1) == 1 != batch.ids.size(1):
            # Models in nanoGPT's manner give the last position alone unless they are given targets.
            places, named = given(batch, {**asked, **masks})
            found = outputs_of(model(*places, **named))
        return found

    return call


def _pair_call(known: Signature, pair: tuple[str, str]) -> Any:
    def call(model: Any, batch: Batch, **masks: Tensor) -> Tensor:
        parts = {pair[0]: batch.source, pair[1]: batch.ids}
        if not known.by_name.intersection(pair) and set(known.names[:2]) == set(pair):
            return outputs_of(model(*(parts[name] for name in known.names[:2]), **masks))
        return outputs_of(model(**parts, **masks))

    return call


def outputs_of(found: Any) -> Tensor:
    """The outputs in whatever a model returned: the tensor, that named ``logits``, or the first with three axes.

    Behind one with two axes, what is square in its last two may be a map of attention, and is not meant.
    """
    if isinstance(found, Tensor):
        return found
    named = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if isinstance(named, Tensor):
        return named
    tensors = [tensor for tensor in tensors_in(found).values() if tensor.is_floating_point()]
    if not tensors:
        raise UserError("call", f"the model returned {type(found).__name__} without a tensor", "logits (B, T, V)")
    first = next((tensor for tensor in tensors if tensor.dim() >= 2), tensors[0])
    behind = (tensor for tensor in tensors if tensor.dim() >= 3 and tensor.size(-1) != tensor.size(-2))
    return first if first.dim() >= 3 else next(behind, first)


def _named_kind(model: Any) -> Kind | None:
    """By its class; ``None`` where that says nothing, or two things: then by what it does."""
    name = type(model).__name__
    writes, reads = bool(WRITERS.search(name)), bool(READERS.search(name))
    return None if writes == reads else "decoder" if writes else "encoder"
