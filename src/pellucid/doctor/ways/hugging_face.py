"""How models of ``transformers`` are called. Nothing is imported from there: a model says by its config what it is."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Positions, Spec
from pellucid.errors import UserError

NO_LEFT_PAD = (
    "bart", "mbart", "mvp", "marian", "pegasus", "plbart", "blenderbot", "blenderbot-small", "biogpt", "rwkv", "trocr",
    "xglm",
)  # fmt: skip
"""Models whose positions are counted from the left whatever is padding: no left padding by design."""

UNSCALED = (
    "t5", "mt5", "umt5", "gpt_neo", "longt5", "switch_transformers", "udop", "pop2piano", "pix2struct",
    "pix2struct_text_model", "pix2struct_vision_model", "dia", "dia_encoder", "dia_decoder", "gemma3n", "gemma3n_text",
    "gemma4", "gemma4_text", "gemma4_vision", "gemma4_unified", "gemma4_unified_text", "diffusion_gemma",
    "diffusion_gemma_text", "embedding_gemma2", "embedding_gemma2_text",
)  # fmt: skip
"""Models whose scores are not divided by √head_dim, on purpose: the initialisation makes up for it, or norms of queries
and keys do."""

UNREADABLE = ("funnel", "prophetnet")
"""Models that scale queries, then add a bias or put them in other places, so that the scale is not seen any more."""

RELATIVE = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "mpnet")
SHARED = ("albert", "zamba", "zamba2")
TWO_WAY = ("xlnet", "xlm", "flaubert")
"""Models whose class is named after a language model, and which read both ways unless they are told otherwise."""

UNUSED = ("esm", "luke", "xlnet")
"""Models with parts that take no part when they read ids: a head for contacts, entities, what permutations need."""

INCLUSIVE = ("modernbert", "eurobert", "longformer")
"""Encoders whose window is a distance to both sides, and not a number of keys."""

POOLED = ("SequenceClassification", "ImageClassification", "MultipleChoice", "NextSentencePrediction")
READERS = ("MaskedLM", "TokenClassification", "QuestionAnswering", "EncoderModel", *POOLED)
CACHES = ("cache", "past_key_values", "cache_params", "state")
"""What the cache is called: by the version, and by the model."""

MASKED_ANEW = ("mamba", "mamba2", "falcon_mamba")
"""Models whose step takes the padding of the new tokens, and not of what is in the cache."""

UNCACHED = ("recurrent_gemma",)
"""Models that take a cache and return none."""

UNORDERED = ("rwkv", "xlstm")
"""Models whose state has no rows that could be chosen."""

SAMPLES = 4000
"""Of a sound: a quarter of a second."""


def spec_of(model: Any) -> Spec | None:
    """What the config and the class of a model of ``transformers`` say; ``None`` for any other."""
    settings: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(settings, "model_type") or not hasattr(model, "main_input_name"):
        return None
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    kind, name, taken = str(settings.model_type), type(model).__name__, _parameters(model)
    both = bool(getattr(settings, "is_encoder_decoder", False)) and not name.endswith("EncoderModel")
    writes = "CausalLM" in name or "LMHeadModel" in name or getattr(settings, "is_decoder", False) is True
    reads = any(part in name for part in READERS)
    if kind in TWO_WAY and not getattr(settings, "causal", False):
        writes, reads = False, True
    special = {i for key in ("mask_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id", "unk_token_id")
               if isinstance(i := getattr(settings, key, None), int)}  # fmt: skip
    words = {"no_left_pad": NO_LEFT_PAD, "shared_layers": SHARED, "unused": UNUSED}
    masked = "attention_mask" in taken
    caches = (both or writes) and _cache(model) is not None and kind not in UNCACHED
    trained = "labels" in taken and (writes or both or "MaskedLM" in name) and kind != "prophetnet"
    return Spec(
        kind="encoder_decoder" if both else "decoder" if writes else "encoder" if reads else None,
        vocab_size=_vocabulary(model, text),
        pad_id=_id(text, "pad_token_id"),
        bos_id=_id(text, "bos_token_id"),
        eos_id=_id(text, "eos_token_id"),
        special_ids=tuple(sorted(special)),
        window=_window(kind, text),
        max_length=_longest(text),
        example=_example(model, settings),
        call=_call,
        masked=masked,
        step=_step if caches else None,
        reorder=_reorder if caches and kind not in UNORDERED else None,
        loss=_loss if trained else None,
        labels="next" if kind == "fsmt" else "same" if "MaskedLM" in name or both else "next" if writes else None,
        positions=_positions(kind, text),
        scale=_scale(kind, text),
        tied=_tied(model, settings, text),
        pooled=any(part in name for part in POOLED),
        pad_sides=("left", "right") if caches and masked and not both and kind not in NO_LEFT_PAD else None,
        declare=frozenset(word for word, kinds in words.items() if kind in kinds),
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
    return found[0]


def _step(model: Any, batch: Batch, cache: Any) -> tuple[Tensor, Any]:
    name = _cache(model)
    assert name is not None
    given = _given(model, batch) | {name: cache, "use_cache": True}
    if batch.keep is not None and model.config.model_type in MASKED_ANEW:
        given["attention_mask"] = batch.keep[:, -batch.ids.size(1) :].long()
    if batch.source is not None and "encoder_outputs" in _parameters(model):
        # Some encoders refuse a cache, and all of them read the same source at each step.
        mask = given.get("attention_mask")
        given["encoder_outputs"] = model.get_encoder()(given.pop(_main(model)), **_some(attention_mask=mask))
    found = model(**given)
    if getattr(found, name, None) is None:
        raise UserError("step", f"{type(model).__name__} returns no {name}", hint="say how it steps: Spec(step=…)")
    return _outputs(found), getattr(found, name)


def _some(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _reorder(cache: Any, rows: Tensor) -> Any:
    cache.reorder_cache(rows)
    return cache


def _loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Labels are handed over unshifted, as its documentation says: the model shifts them."""
    labels = batch.labels
    if labels is None:
        labels = batch.ids if batch.keep is None else batch.ids.masked_fill(~batch.keep, -100)
    given = _given(model, batch)
    if model.config.model_type == "fsmt":  # it makes its input of the source, and wants labels that are shifted
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    elif batch.source is not None:  # the decoder's input is made of the labels
        given.pop("decoder_input_ids")
        given.pop("decoder_attention_mask", None)
    found = model(**given, labels=labels)
    return found.loss, _outputs(found)


def _cache(model: Any) -> str | None:
    return next((name for name in CACHES if name in _parameters(model)), None)


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


def _id(settings: Any, name: str) -> int | None:
    value = getattr(settings, name, None)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and value >= 0 else None


def _vocabulary(model: Any, settings: Any) -> int | None:
    size = _first(settings, "vocab_size", "src_vocab_size")
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    rows = getattr(table, "num_embeddings", None)
    return min(size or rows, rows) if isinstance(rows, int) else size


def _longest(settings: Any) -> int | None:
    return _first(
        settings, "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len",
        "context_length", "max_target_positions",
    )  # fmt: skip


def _window(kind: str, settings: Any) -> tuple[int, ...] | None:
    """The window of each layer, where there are any."""
    width = _first(settings, "sliding_window", "window_size")
    if width is None or getattr(settings, "use_sliding_window", True) is False:
        return None
    width += kind in INCLUSIVE
    kinds = getattr(settings, "layer_types", None) or getattr(settings, "attention_layers", None)
    if not kinds:
        return (width,)
    attending = [
        kind for kind in kinds if "linear" not in kind and ("attention" in kind or kind in ("global", "local"))
    ]
    return tuple(width if "sliding" in kind or "local" in kind else 0 for kind in attending) or None


def _scale(kind: str, settings: Any) -> float | Literal["learned"] | None:
    """What its config multiplies scores by, where that is not 1/√head_dim."""
    if kind in UNSCALED:
        return 1.0
    if kind in UNREADABLE:
        return "learned"
    if getattr(settings, "scale_attn_by_inverse_layer_idx", False):
        return "learned"  # in every layer another one
    if getattr(settings, "scale_attn_weights", True) is False:
        return 1.0
    for name, power in (("attention_multiplier", 1.0), ("query_pre_attn_scalar", -0.5)):
        value = getattr(settings, name, None)
        if isinstance(value, float | int):
            return float(value) ** power
    width = _first(settings, "attention_head_dim")
    if kind in ("zamba", "zamba2") and width is not None:
        return (width / 2) ** -0.5  # its queries are of two states side by side
    heads, size = _first(settings, "num_attention_heads"), _first(settings, "hidden_size")
    if kind in ("deberta", "deberta-v2") and heads and size:
        return (size / heads * (1 + len(settings.pos_att_type or ()))) ** -0.5  # He et al. 2020, eq. 4
    return None


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
    name, ids = _main(model), torch.zeros(1, 1, dtype=torch.long)
    if name == "pixel_values":
        size, channels = getattr(settings, "image_size", 224), getattr(settings, "num_channels", 3)
        height, width = (size, size) if isinstance(size, int) else size
        return Batch(ids=torch.zeros(1, channels, height, width))
    if name == "input_features":
        frames = 2 * (_first(settings, "max_source_positions") or 1500)
        width = _first(settings, "input_feat_per_channel")
        if width is not None:  # frames first
            return Batch(ids=ids, source=torch.zeros(1, frames // 2, width))
        return Batch(ids=ids, source=torch.zeros(1, _first(settings, "num_mel_bins") or 80, frames))
    if name == "input_values":
        sound = torch.zeros(1, SAMPLES)
        return Batch(ids=ids, source=sound) if getattr(settings, "is_encoder_decoder", False) else Batch(ids=sound)
    return None
