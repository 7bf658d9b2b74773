"""Faults planted in classes of ``transformers``, small and from their configs.

A fault takes the place of one method of one part of a model: the part gets a subclass of its own class, so that all
else is the published code.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Spec
from zoo.entry import Bug

VOCAB, WINDOW = 99, 8
COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = COMMON | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
BART = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
      "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
       "patch_size": 8, "num_labels": 5}  # fmt: skip
Arguments = dict[str, Any]


# ---- how a fault is planted -----------------------------------------------------------------------------


def instead(part: nn.Module, method: str, made: Callable[..., Any]) -> None:
    """``made(self, own, *args, **kwargs)`` in the place of a method of one part; ``own`` is the published one."""
    kind = type(part)
    published = getattr(kind, method)

    @functools.wraps(published)
    def planted(self: Any, *args: Any, **kwargs: Any) -> Any:
        return made(self, functools.partial(published, self), *args, **kwargs)

    part.__class__ = type(kind.__name__, (kind,), {method: planted, "__module__": kind.__module__})


def told(part: nn.Module, change: Callable[[Any, Arguments], None], method: str = "forward") -> None:
    """Changes what a part is given, by name."""
    signature = inspect.signature(getattr(type(part), method))

    def made(self: Any, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs)
        change(self, given.arguments)
        named = {name: value for name, value in given.arguments.items() if name not in ("self", "kwargs")}
        return own(**named, **given.arguments.get("kwargs", {}))

    instead(part, method, made)


def gpt2(**more: Any) -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2 | more))


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED | more))


def mistral() -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED, sliding_window=WINDOW))


def gemma2() -> Any:
    settings = GROUPED | {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**settings))


def bert(kind: str = "BertForMaskedLM", **more: Any) -> Any:
    return getattr(transformers, kind)(transformers.BertConfig(**COMMON | more))


def bart() -> Any:
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**BART))


def t5() -> Any:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**T5))


# ---- masks ----------------------------------------------------------------------------------------------


def unmasked(self: Any, given: Arguments) -> None:
    self.is_causal, given["attention_mask"] = False, None


def unmasked_in_training(self: Any, given: Arguments) -> None:
    """A path that runs with dropout only makes no mask."""
    self.is_causal = not self.training
    if self.training:
        given["attention_mask"] = None


def square(given: Arguments) -> Tensor:
    size = given["hidden_states"].size(1)
    return torch.ones(size, size, dtype=torch.bool)


def upside_down(self: Any, given: Arguments) -> None:
    given["attention_mask"] = square(given).triu()[None, None]


def without_window(self: Any, given: Arguments) -> None:
    given["attention_mask"] = None


def times_triangle(self: Any, given: Arguments) -> None:
    """The mask is multiplied by the band that it should be added to: what is outside is 0, and seen."""
    ones = square(given)
    lowest = torch.zeros(ones.shape).masked_fill(~ones.tril(), torch.finfo(torch.float32).min)
    given["attention_mask"] = (lowest * ones.tril().triu(1 - WINDOW))[None, None]


def leaking_gpt2() -> Any:
    model = gpt2()
    told(model.transformer.h[1].attn, unmasked)
    return model


def leaking_in_training() -> Any:
    model = gpt2()
    told(model.transformer.h[0].attn, unmasked_in_training)
    return model


def backwards_llama() -> Any:
    model = llama()
    for layer in model.model.layers:
        told(layer.self_attn, upside_down)
    return model


def boundless_mistral() -> Any:
    model = mistral()
    for layer in model.model.layers:
        told(layer.self_attn, without_window)
    return model


def sliding_gemma2() -> Any:
    model = gemma2()
    sliding = [
        layer for layer, kind in zip(model.model.layers, model.config.layer_types, strict=True) if "sliding" in kind
    ]
    for layer in sliding:
        told(layer.self_attn, times_triangle)
    return model


def reading_both_ways(*, always: bool) -> Any:
    """``is_decoder`` is set, and the mask is made as if it were not; the kernel's own makes up for it, where it may."""
    model = bert("BertLMHeadModel", is_decoder=True)
    for layer in model.bert.encoder.layer:
        layer.attention.self.is_causal = not always

    def masks(self: Any, own: Any, **given: Any) -> Any:
        self.config.is_decoder = False
        try:
            return own(**given)
        finally:
            self.config.is_decoder = True

    instead(model.bert, "_create_attention_masks", masks)
    return model


class NormOverTime(nn.Module):
    """Statistics over all positions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean((1, 2), keepdim=True)) / (x.var((1, 2), keepdim=True) + 1e-5).sqrt() * self.weight


def normed_over_time() -> Any:
    model = gpt2()
    model.transformer.ln_f = NormOverTime(32)
    return model


class ExpertsChoose(nn.Module):
    """Each expert takes the tokens that score highest in the sequence."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp, self.router = mlp, nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        chosen = scores >= scores.topk(x.size(1) // 2, dim=1).values[:, -1:]
        return self.mlp(x) * chosen * scores.sigmoid()


def experts_choose() -> Any:
    model = llama()
    model.model.layers[0].mlp = ExpertsChoose(model.model.layers[0].mlp)
    return model


# ---- padding ----------------------------------------------------------------------------------------------


def positions_ignored() -> Any:
    model = gpt2()
    told(model.transformer, lambda self, given: given.update(position_ids=None))
    return model


def padding_seen(kind: str) -> Any:
    """The mask does not come to the layers."""
    config = getattr(transformers, f"{kind}Config")(**COMMON)
    model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    told(model.base_model, lambda self, given: given.update(attention_mask=None))
    return model


def padding_inverted() -> Any:
    model = bert()

    def inverted(self: Any, given: Arguments) -> None:
        if given.get("attention_mask") is not None:
            given["attention_mask"] = 1 - given["attention_mask"]

    told(model.bert, inverted)
    return model


def pooled_over_padding() -> Any:
    model = bert("BertForSequenceClassification", num_labels=3)
    instead(model.bert.pooler, "forward", lambda self, own, x: self.activation(self.dense(x.mean(1))))
    return model


def encoder_decoder() -> Any:
    """BERT reads, GPT-2 writes."""
    encoder, decoder = transformers.BertConfig(**COMMON), transformers.GPT2Config(**GPT2, add_cross_attention=True)
    settings = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    settings.decoder_start_token_id, settings.pad_token_id = 1, 0
    return transformers.EncoderDecoderModel(config=settings)


def memory_mask_lost() -> Any:
    model = encoder_decoder()
    told(model.decoder.transformer, lambda self, given: given.update(encoder_attention_mask=None))
    return model


def t5_memory_mask_lost() -> Any:
    model = t5()
    told(model.decoder, lambda self, given: given.update(encoder_attention_mask=None))
    return model


def bart_reads_itself() -> Any:
    model = bart()
    for layer in model.model.decoder.layers:
        told(layer.encoder_attn, lambda self, given: given.update(
            key_value_states=given["hidden_states"], attention_mask=square(given).tril()[None, None], cache=None
        ))  # fmt: skip
    return model


# ---- caches -----------------------------------------------------------------------------------------------


def rotation_restarts() -> Any:
    """Each step begins at position 0."""
    model = llama()
    told(model.model.rotary_emb, lambda self, given: given.update(
        position_ids=given["position_ids"] - given["position_ids"][:, :1]
    ))  # fmt: skip
    return model


def cache_forgotten() -> Any:
    """The keys and values of one layer are not stored."""
    model = llama()

    def alone(self: Any, given: Arguments) -> None:
        if given.get("cache") is not None:
            given.update(cache=None, attention_mask=square(given).tril()[None, None])

    told(model.model.layers[1].self_attn, alone)
    return model


def bart_positions_restart() -> Any:
    model = bart()
    told(model.model.decoder.embed_positions, lambda self, given: given.update(
        position_ids=given["position_ids"] - given["position_ids"][:1], cache_length=0
    ))  # fmt: skip
    return model


def roberta_positions_restart() -> Any:
    """Positions are counted over the tokens that are given, without those of the cache."""
    model = transformers.RobertaForCausalLM(
        transformers.RobertaConfig(**COMMON | {"pad_token_id": 1, "bos_token_id": 0}, is_decoder=True)
    )
    told(model.roberta.embeddings, lambda self, given: given.update(cache_length=0))
    return model


def half_reordered(cache: Any, rows: Tensor) -> Any:
    cache.self_attention_cache.reorder_cache(rows)
    return cache


# ---- arithmetic -----------------------------------------------------------------------------------------


def scaled(model: Any, scale: float) -> Any:
    for part in model.modules():
        if hasattr(part, "scaling"):
            part.scaling = scale
    return model


def mixed_rotation() -> Any:
    """Frequencies side by side, as for pairs of neighbours, and halves that are turned."""
    model = llama()

    def beside(self: Any, own: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angle = position_ids[..., None].float() * self.inv_freq
        return angle.repeat_interleave(2, -1).cos(), angle.repeat_interleave(2, -1).sin()

    instead(model.model.rotary_emb, "forward", beside)
    return model


def softmax_over_queries() -> Any:
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT))

    def attend(self: Any, own: Any, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        heads = [
            p(hidden_states).unflatten(-1, (4, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        ]
        weights = (heads[0] @ heads[1].mT * self.scaling).softmax(-2)
        return self.o_proj((weights @ heads[2]).transpose(1, 2).flatten(2)), None

    for layer in model.vit.layers if hasattr(model.vit, "layers") else model.vit.encoder.layer:
        instead(layer.attention, "forward", attend)
    return model


def eager_differs() -> Any:
    """The path that returns weights has another scale."""
    model = llama()

    def one_path(self: Any, given: Arguments) -> None:
        self.scaling = self.head_dim ** (-0.5 if self.config._attn_implementation != "eager" else -1.0)

    for layer in model.model.layers:
        told(layer.self_attn, one_path)
    return model


class AlwaysDropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p)


def dropout_always() -> Any:
    model = gpt2()
    model.transformer.h[0].mlp.dropout = AlwaysDropout(0.1)
    return model


# ---- parameters -----------------------------------------------------------------------------------------


def untied() -> Any:
    model = gpt2()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def one_layer_twice() -> Any:
    model = llama()
    model.model.layers[1] = model.model.layers[0]
    return model


def layers_copied() -> Any:
    model = llama()
    model.model.layers[1] = copy.deepcopy(model.model.layers[0])
    return model


def layers_in_a_list() -> Any:
    model = llama()
    layers = list(model.model.layers)
    del model.model.layers
    model.model.layers = layers
    return model


def norm_never_called() -> Any:
    model = llama()
    for layer in model.model.layers:
        layer.self_attn.q_norm = nn.RMSNorm(8)
    return model


def careless_checkpoints() -> Any:
    """Dropout of the second pass is another one."""
    model = gpt2(resid_pdrop=0.2)
    model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return model


# ---- losses ---------------------------------------------------------------------------------------------


def shifted_by_caller(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    labels = torch.cat([batch.ids[:, 1:], torch.full_like(batch.ids[:, :1], -100)], 1)
    found = model(input_ids=batch.ids, labels=labels)
    return found.loss, found.logits


def shifts_twice() -> Any:
    model = gpt2()
    model.loss_function = lambda logits, labels, **_: F.cross_entropy(
        logits[:, :-2].flatten(0, 1), labels[:, 2:].flatten()
    )
    return model


def t5_does_not_shift() -> Any:
    model = t5()
    instead(model, "_shift_right", lambda self, own, ids: ids.masked_fill(ids == -100, 0))
    return model


def t5_wide_head() -> Any:
    """The head is drawn with a variance of 1."""
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, tie_word_embeddings=False))
    nn.init.normal_(model.lm_head.weight, std=4.0)
    return model


# ---- the zoo --------------------------------------------------------------------------------------------


def bug(
    name: str, reference: str, build: Callable[[], Any], *checks: str, family: Any = "decoder", level: Any = "quick",
    spec: Spec | None = None,
) -> Bug:  # fmt: skip
    return Bug(
        name=name, reference=reference, family=family, checks=checks, build=lambda: (build(), spec), level=level,
        published=True,
    )  # fmt: skip


BUGS = (
    bug("GPT-2: one layer has no mask", "#1", leaking_gpt2, "causal.prefix_invariance"),
    bug("GPT-2: no mask on the path of training", "#2", leaking_in_training, "causal.prefix_invariance"),
    bug("GPT-2: the last norm is over time", "#9", normed_over_time, "causal.prefix_invariance"),
    bug("Llama: the mask is upside down", "#10", backwards_llama, "causal.prefix_invariance", "influence.map"),
    bug("Llama: experts choose over the sequence", "#12", experts_choose, "causal.prefix_invariance"),
    bug("Gemma 2: the mask of sliding layers is multiplied", "#3", sliding_gemma2, "causal.prefix_invariance"),
    bug("BERT: a decoder with the mask of an encoder", "#1", lambda: reading_both_ways(always=True),
        "causal.prefix_invariance"),
    bug("BERT: the same, where padding is masked", "#5", lambda: reading_both_ways(always=False), "pad.invariance",
        "causal.prefix_invariance"),
    bug("BERT: is_decoder was never set", "#1", lambda: bert("BertLMHeadModel"), "causal.prefix_invariance"),
    bug("Mistral: the window is ignored", "#29", boundless_mistral, "attn.mask", "influence.map"),
    bug("GPT-2: positions of padded texts are ignored", "#17", positions_ignored, "pad.invariance"),
    bug("BERT: the padding mask is ignored", "#21", lambda: padding_seen("Bert"), "pad.invariance", family="encoder"),
    bug("ALBERT: the padding mask is ignored", "#21", lambda: padding_seen("Albert"), "pad.invariance", family="encoder"),
    bug("BERT: the padding mask is upside down", "#10", padding_inverted, "pad.invariance", family="encoder"),
    bug("BERT: the pooler is a mean over padding", "#27", pooled_over_padding, "pad.invariance", family="encoder"),
    bug("GPT-2 after BERT: encoder_attention_mask is lost", "#23", memory_mask_lost, "cross.memory",
        family="encoder_decoder"),
    bug("T5: the mask of the memory is lost", "#23", t5_memory_mask_lost, "cross.memory", family="encoder_decoder"),
    bug("BART: cross-attention reads the decoder", "#24", bart_reads_itself, "cross.source", family="encoder_decoder"),
    bug("Llama: rotation restarts at every step", "#17", rotation_restarts, "kv.parity"),
    bug("Llama: a layer does not store its keys", "#40", cache_forgotten, "kv.parity"),
    bug("BART: positions restart at every step", "#37", bart_positions_restart, "kv.parity", family="encoder_decoder"),
    bug("RoBERTa: positions forget the cache", "#37", roberta_positions_restart, "kv.parity"),
    bug("BART: reordering forgets the memory", "#44", bart, "decode.reorder", family="encoder_decoder",
        spec=Spec(reorder=half_reordered)),
    bug("Llama: no scale", "#60", lambda: scaled(llama(), 1.0), "attn.scale"),
    bug("BERT: the scale is that of the whole width", "#61", lambda: scaled(bert(), 32**-0.5), "attn.scale",
        family="encoder"),
    bug("Llama: two conventions of rotation", "#35", mixed_rotation, "pos.rope"),
    bug("ViT: the softmax is over queries", "#59", softmax_over_queries, "attn.softmax_axis", family="encoder"),
    bug("Llama: eager and SDPA differ", "#15", eager_differs, "backend.parity", level="standard"),
    bug("GPT-2: dropout is always on", "#63", dropout_always, "eval.deterministic"),
    bug("GPT-2: the tie is broken", "#67", untied, "params.sharing"),
    bug("Llama: one layer twice", "#65", one_layer_twice, "params.sharing"),
    bug("Llama: layers are copies", "#66", layers_copied, "params.sharing"),
    bug("Llama: layers in a plain list", "#68", layers_in_a_list, "params.coverage", level="standard"),
    bug("Llama: a norm is made and never called", "#64", norm_never_called, "params.coverage", level="standard"),
    bug("GPT-2: checkpointing draws other dropout", "#57", careless_checkpoints, "backend.parity", level="standard"),
    bug("Llama: labels are shifted by the caller", "#48", llama, "loss.alignment", level="standard",
        spec=Spec(loss=shifted_by_caller)),
    bug("GPT-2: the loss shifts twice", "#46", shifts_twice, "loss.alignment", level="standard"),
    bug("T5: the decoder reads what it is asked", "#49", t5_does_not_shift, "loss.alignment", family="encoder_decoder",
        level="standard"),
    bug("T5: the head is drawn too wide", "#54", t5_wide_head, "loss.init", family="encoder_decoder"),
)  # fmt: skip
