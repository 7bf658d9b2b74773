"""How models of ``transformers`` are called. Nothing is imported from there: a model says by its config what it is."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Positions, Spec

NO_LEFT_PAD = (
    "bart",
    "mbart",
    "marian",
    "pegasus",
    "plbart",
    "blenderbot",
    "blenderbot-small",
    "rwkv",
    "biogpt",
    "xglm",
)
"""Models whose positions are counted from the left whatever is padding: no left padding by design."""

UNSCALED = ("t5", "mt5", "umt5", "gpt_neo", "longt5", "switch_transformers")
"""Models whose scores are not divided by √head_dim, on purpose: the initialisation makes up for it."""

RELATIVE = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "mpnet")
SHARED = ("albert",)
CACHES = ("cache", "past_key_values")
"""What a cache is called: the second name up to transformers 5.23."""
POOLED = ("SequenceClassification", "ImageClassification", "MultipleChoice", "NextSentencePrediction")


def spec_of(model: Any) -> Spec | None:
    """What the config and the class of a model of ``transformers`` say; ``None`` for any other."""
    settings = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(settings, "model_type") or not hasattr(model, "main_input_name"):
        return None
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    kind, name = str(settings.model_type), type(model).__name__
    both = bool(getattr(settings, "is_encoder_decoder", False)) and not name.endswith("EncoderModel")
    writes = "CausalLM" in name or "LMHeadModel" in name or getattr(settings, "is_decoder", False) is True
    vocabulary = _first(text, "vocab_size")
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if isinstance(getattr(table, "num_embeddings", None), int):
        vocabulary = min(vocabulary or table.num_embeddings, table.num_embeddings)
    special = {i for key in ("mask_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id", "unk_token_id")
               if isinstance(i := getattr(settings, key, None), int)}  # fmt: skip
    declare = set()
    if kind in NO_LEFT_PAD:
        declare.add("no_left_pad")
    if kind in SHARED:
        declare.add("shared_layers")
    caches = (both or writes) and any(name in _parameters(model) for name in CACHES)
    trained = "labels" in _parameters(model) and (writes or both or "MaskedLM" in name)
    return Spec(
        kind="encoder_decoder" if both else "decoder" if writes else None,
        vocab_size=vocabulary,
        pad_id=_id(text, "pad_token_id"),
        bos_id=_id(text, "bos_token_id"),
        eos_id=_id(text, "eos_token_id"),
        special_ids=tuple(sorted(special)),
        window=_window(text),
        max_length=_first(text, "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"),
        example=_example(model, settings),
        call=_call,
        masked="attention_mask" in _parameters(model),
        step=_step if caches else None,
        reorder=_reorder if caches else None,
        loss=_loss if trained else None,
        labels="same" if "MaskedLM" in name or both else "next" if writes else None,
        positions=_positions(kind, text),
        scale=1.0 if kind in UNSCALED else _first_float(text, "attention_multiplier"),
        tied=_tied(model, settings, text),
        pooled=any(part in name for part in POOLED),
        declare=frozenset(declare),
    )


def _call(model: Any, batch: Batch) -> Tensor:
    return _outputs(model(**_given(model, batch)))


def _given(model: Any, batch: Batch) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if batch.source is not None:
        given[_main(model)] = batch.source
        given["decoder_input_ids"] = batch.ids
        if batch.source_keep is not None:
            given["attention_mask"] = batch.source_keep.long()
        if batch.keep is not None:
            given["decoder_attention_mask"] = batch.keep.long()
    else:
        given[_main(model)] = batch.ids
        if batch.keep is not None:
            given["attention_mask"] = batch.keep.long()
        if batch.positions is not None and "position_ids" in _parameters(model):
            given["position_ids"] = batch.positions
    if "use_cache" in _parameters(model):
        given["use_cache"] = False
    return given


def _outputs(found: Any) -> Tensor:
    for name in ("logits", "prediction_logits", "last_hidden_state"):
        if isinstance(getattr(found, name, None), Tensor):
            tensor: Tensor = getattr(found, name)
            return tensor
    tensor = found[0]
    return tensor


def _step(model: Any, batch: Batch, cache: Any) -> tuple[Tensor, Any]:
    name = next(name for name in CACHES if name in _parameters(model))
    given: dict[str, Any] = {name: cache, "use_cache": True}
    if batch.source is not None:
        given |= {_main(model): batch.source, "decoder_input_ids": batch.ids}
        if batch.source_keep is not None:
            given["attention_mask"] = batch.source_keep.long()
        if batch.keep is not None:
            given["decoder_attention_mask"] = batch.keep.long()
    else:
        given["input_ids"] = batch.ids
        if batch.keep is not None:
            given["attention_mask"] = batch.keep.long()
        if batch.positions is not None and "position_ids" in _parameters(model):
            given["position_ids"] = batch.positions
    found = model(**given)
    return _outputs(found), getattr(found, name)


def _reorder(cache: Any, rows: Tensor) -> Any:
    cache.reorder_cache(rows)
    return cache


def _loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Labels are handed over unshifted, as its documentation says: the model shifts them."""
    labels = batch.labels
    if labels is None:
        labels = batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)
    given = _given(model, batch) | {"labels": labels}
    if batch.source is not None:  # the decoder's input is made of the labels
        given.pop("decoder_input_ids")
        given.pop("decoder_attention_mask", None)
    found = model(**given)
    return found.loss, _outputs(found)


def _main(model: Any) -> str:
    name: str = getattr(model, "main_input_name", "input_ids")
    return name


def _parameters(model: Any) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _first(settings: Any, *names: str) -> int | None:
    for name in names:
        if isinstance(value := getattr(settings, name, None), int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _first_float(settings: Any, name: str) -> float | None:
    value = getattr(settings, name, None)
    return float(value) if isinstance(value, float | int) else None


def _id(settings: Any, name: str) -> int | None:
    value = getattr(settings, name, None)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and value >= 0 else None


def _window(settings: Any) -> tuple[int, ...] | None:
    """The window of each layer, where there are any."""
    width = _first(settings, "sliding_window", "window_size")
    if width is None or getattr(settings, "use_sliding_window", True) is False:
        return None
    kinds = getattr(settings, "layer_types", None) or getattr(settings, "attention_layers", None)
    if not kinds:
        return (width,)
    return tuple(width if "sliding" in kind or "local" in kind else 0 for kind in kinds)


def _positions(kind: str, settings: Any) -> Positions | None:
    if kind in RELATIVE:
        return "relative"
    if any(getattr(settings, name, None) is not None for name in ("rope_theta", "rope_parameters", "rope_scaling")):
        return "rotary"
    if getattr(settings, "alibi", False) or kind in ("bloom", "mpt"):
        return "alibi"
    return {"absolute": "learned"}.get(getattr(settings, "position_embedding_type", ""))  # type: ignore[return-value]


def _tied(model: Any, settings: Any, text: Any) -> bool | None:
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        return None
    value = getattr(settings, "tie_word_embeddings", getattr(text, "tie_word_embeddings", None))
    return value if isinstance(value, bool) else None


def _example(model: Any, settings: Any) -> Batch | None:
    """Images or sounds, where the model reads those."""
    name = _main(model)
    if name == "pixel_values":
        size, channels = getattr(settings, "image_size", 224), getattr(settings, "num_channels", 3)
        height, width = (size, size) if isinstance(size, int) else size
        return Batch(ids=torch.zeros(1, channels, height, width))
    if name == "input_features":
        frames = 2 * (_first(settings, "max_source_positions") or 1500)
        sound = torch.zeros(1, _first(settings, "num_mel_bins") or 80, frames)
        return Batch(ids=torch.zeros(1, 1, dtype=torch.long), source=sound)
    return None
