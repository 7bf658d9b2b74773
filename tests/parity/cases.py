"""Tiny models of every published layout, with weights that leave nothing near its starting value.

Attention far from uniform, norms not at 1, biases not at 0, head counts that do not divide evenly where the layout
allows it, tied and untied.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers


@dataclass(frozen=True)
class Case:
    """A model class of ``transformers`` and a config."""

    name: str
    model: str
    settings: dict[str, Any] = field(hash=False)

    @property
    def kind(self) -> str:
        return self.name.split("/")[0]

    def oracle(self) -> Any:
        """The model, its weights enlarged."""
        cls = getattr(transformers, self.model)
        torch.manual_seed(hash_of(self.name))
        config = cls.config_class(**self.settings)
        config._attn_implementation = "eager"
        model = cls(config).eval()
        enlarge(model)
        return model


def hash_of(name: str) -> int:
    return sum((i + 1) * ord(letter) for i, letter in enumerate(name))


@torch.no_grad()
def enlarge(model: torch.nn.Module) -> None:
    unscaled = type(model).__name__.startswith("T5")  # its scores are not divided by √K
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # Marian's sinusoids
            continue
        noise = torch.randn_like(parameter)
        if parameter.dim() == 1:
            norm = "norm" in name.lower() or ".ln_" in name
            shift = 1.0 if name.endswith("weight") and norm and "gemma" not in type(model).__name__.lower() else 0.0
            parameter.copy_(shift + 0.3 * noise)
        elif any(part in name for part in ("embed", "shared", "wte", "wpe", "relative")):
            parameter.copy_(noise)
        else:
            fan_in = parameter.shape[0] if type(model).__name__.startswith("GPT2") else parameter[0].numel()
            sharp = 2.0 if any(part in name for part in ("query", "key", "q_", "k_", ".q.", ".k.", "c_attn")) else 1.0
            parameter.copy_((0.5 if unscaled else sharp) * noise / fan_in**0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("final_logits_bias"):
            buffer.normal_()


def _gpt2(name: str, **more: Any) -> Case:
    sizes = {"vocab_size": 61, "n_positions": 40, "n_layer": 3, "bos_token_id": 1, "eos_token_id": 2}
    return Case(f"gpt2/{name}", "GPT2LMHeadModel", sizes | more)


def _bert(kind: str, name: str, model: str, **more: Any) -> Case:
    sizes = {"vocab_size": 61, "num_hidden_layers": 3, "intermediate_size": 50, "pad_token_id": 1}
    return Case(f"{kind}/{name}", model, sizes | {"max_position_embeddings": 40} | more)


def _distilbert(name: str, model: str, **more: Any) -> Case:
    sizes = {"vocab_size": 61, "n_layers": 3, "hidden_dim": 50, "pad_token_id": 1, "max_position_embeddings": 40}
    return Case(f"distilbert/{name}", model, sizes | more)


def _t5(name: str, **more: Any) -> Case:
    sizes = {"vocab_size": 61, "num_layers": 3, "d_ff": 50, "relative_attention_max_distance": 20}
    more = {"relative_attention_num_buckets": 8, "decoder_start_token_id": 0} | more
    return Case(f"t5/{name}", "T5ForConditionalGeneration", sizes | more)


def _bart(kind: str, name: str, model: str, **more: Any) -> Case:
    sizes = {"vocab_size": 61, "max_position_embeddings": 40, "pad_token_id": 1, "eos_token_id": 2}
    sizes |= {"encoder_layers": 3, "decoder_layers": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    widths = {"encoder_ffn_dim": 50, "decoder_ffn_dim": 44, "forced_bos_token_id": None}
    return Case(f"{kind}/{name}", model, sizes | widths | more)


def _llama(kind: str, name: str, model: str, **more: Any) -> Case:
    sizes = {"vocab_size": 61, "num_hidden_layers": 3, "intermediate_size": 50, "pad_token_id": 0}
    return Case(f"{kind}/{name}", model, sizes | {"bos_token_id": 1, "eos_token_id": 2} | more)


def _vit(name: str, model: str, **more: Any) -> Case:
    sizes = {"num_hidden_layers": 3, "intermediate_size": 50, "image_size": 12, "patch_size": 4}
    return Case(f"vit/{name}", model, sizes | more)


def _whisper(name: str, **more: Any) -> Case:
    sizes = {"vocab_size": 61, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 50, "decoder_ffn_dim": 44}
    ids = {"pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 2, "decoder_start_token_id": 4}
    lengths = {"max_source_positions": 20, "max_target_positions": 40, "begin_suppress_tokens": None}
    return Case(f"whisper/{name}", "WhisperForConditionalGeneration", sizes | ids | lengths | more)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}

CASES = (
    _gpt2("three-heads", n_embd=48, n_head=3),
    _gpt2("untied", n_embd=40, n_head=5, tie_word_embeddings=False),
    _gpt2("relu", n_embd=24, n_head=1, n_inner=70, activation_function="relu", layer_norm_epsilon=1e-3),
    _bert("bert", "masked", "BertForMaskedLM", hidden_size=48, num_attention_heads=3),
    _bert("bert", "untied", "BertForMaskedLM", hidden_size=40, num_attention_heads=5, tie_word_embeddings=False),
    _bert(
        "bert",
        "relu-labels",
        "BertForSequenceClassification",
        hidden_size=24,
        num_attention_heads=2,
        hidden_act="relu",
        num_labels=5,
        type_vocab_size=3,
    ),
    _bert("bert", "token-labels", "BertForTokenClassification", hidden_size=24, num_attention_heads=2, num_labels=5),
    _bert("bert", "one-label", "BertForSequenceClassification", hidden_size=24, num_attention_heads=2, num_labels=1),
    _bert("bert", "pooler", "BertModel", hidden_size=24, num_attention_heads=4, layer_norm_eps=1e-4),
    _bert("roberta", "masked", "RobertaForMaskedLM", hidden_size=48, num_attention_heads=3),
    _bert(
        "roberta",
        "untied",
        "RobertaForMaskedLM",
        hidden_size=40,
        num_attention_heads=5,
        pad_token_id=3,
        tie_word_embeddings=False,
    ),
    _bert(
        "roberta",
        "labels",
        "RobertaForSequenceClassification",
        hidden_size=24,
        num_attention_heads=2,
        num_labels=4,
        type_vocab_size=1,
    ),
    _bert(
        "roberta", "token-labels", "RobertaForTokenClassification", hidden_size=24, num_attention_heads=2, num_labels=4
    ),
    _distilbert("token-labels", "DistilBertForTokenClassification", dim=24, n_heads=2, num_labels=4),
    _distilbert("masked", "DistilBertForMaskedLM", dim=48, n_heads=3),
    _distilbert("untied", "DistilBertForMaskedLM", dim=40, n_heads=5, tie_word_embeddings=False),
    _distilbert(
        "relu-labels", "DistilBertForSequenceClassification", dim=24, n_heads=2, activation="relu", num_labels=3
    ),
    _t5("tied", d_model=48, num_heads=3, d_kv=10),
    _t5("gated", d_model=40, num_heads=5, d_kv=8, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    _t5("gated-silu", d_model=24, num_heads=2, d_kv=16, feed_forward_proj="gated-silu", num_decoder_layers=2),
    _bart(
        "bart", "gelu", "BartForConditionalGeneration", d_model=48, encoder_attention_heads=3, decoder_attention_heads=4
    ),
    _bart(
        "bart",
        "scaled",
        "BartForConditionalGeneration",
        d_model=40,
        encoder_attention_heads=5,
        decoder_attention_heads=2,
        scale_embedding=True,
    ),
    _bart(
        "bart",
        "relu-untied",
        "BartForConditionalGeneration",
        d_model=24,
        encoder_attention_heads=1,
        decoder_attention_heads=3,
        activation_function="relu",
        tie_word_embeddings=False,
    ),
    _bart(
        "mbart",
        "gelu",
        "MBartForConditionalGeneration",
        d_model=48,
        encoder_attention_heads=3,
        decoder_attention_heads=4,
    ),
    _bart(
        "mbart",
        "scaled",
        "MBartForConditionalGeneration",
        d_model=40,
        encoder_attention_heads=5,
        decoder_attention_heads=2,
        scale_embedding=True,
    ),
    _bart(
        "mbart",
        "relu",
        "MBartForConditionalGeneration",
        d_model=24,
        encoder_attention_heads=1,
        decoder_attention_heads=3,
        activation_function="relu",
    ),
    _bart(
        "marian",
        "swish",
        "MarianMTModel",
        d_model=48,
        encoder_attention_heads=3,
        decoder_attention_heads=4,
        activation_function="swish",
        scale_embedding=True,
    ),
    _bart(
        "marian",
        "two-vocabularies",
        "MarianMTModel",
        d_model=40,
        encoder_attention_heads=5,
        decoder_attention_heads=2,
        decoder_vocab_size=53,
        share_encoder_decoder_embeddings=False,
    ),
    _bart(
        "marian",
        "relu",
        "MarianMTModel",
        d_model=24,
        encoder_attention_heads=1,
        decoder_attention_heads=3,
        activation_function="relu",
    ),
    _bart(
        "pegasus",
        "swish",
        "PegasusForConditionalGeneration",
        d_model=48,
        encoder_attention_heads=3,
        decoder_attention_heads=4,
        activation_function="swish",
        scale_embedding=True,
    ),
    _bart(
        "pegasus",
        "gelu",
        "PegasusForConditionalGeneration",
        d_model=40,
        encoder_attention_heads=5,
        decoder_attention_heads=2,
    ),
    _bart(
        "pegasus",
        "relu",
        "PegasusForConditionalGeneration",
        d_model=24,
        encoder_attention_heads=1,
        decoder_attention_heads=3,
        activation_function="relu",
    ),
    _llama(
        "llama",
        "grouped",
        "LlamaForCausalLM",
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        rope_parameters=LLAMA3,
    ),
    _llama(
        "llama",
        "linear-tied",
        "LlamaForCausalLM",
        hidden_size=40,
        num_attention_heads=5,
        num_key_value_heads=5,
        rope_parameters=LINEAR,
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
    ),
    _llama(
        "llama",
        "biased",
        "LlamaForCausalLM",
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=10,
        attention_bias=True,
        mlp_bias=True,
        hidden_act="gelu",
    ),
    _llama(
        "mistral",
        "window",
        "MistralForCausalLM",
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        sliding_window=4,
    ),
    _llama(
        "mistral",
        "everywhere",
        "MistralForCausalLM",
        hidden_size=40,
        num_attention_heads=5,
        num_key_value_heads=5,
        sliding_window=None,
        tie_word_embeddings=True,
    ),
    _llama(
        "mistral",
        "wide-heads",
        "MistralForCausalLM",
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=16,
        sliding_window=7,
    ),
    _llama("qwen2", "biased", "Qwen2ForCausalLM", hidden_size=48, num_attention_heads=6, num_key_value_heads=2),
    _llama(
        "qwen2",
        "tied",
        "Qwen2ForCausalLM",
        hidden_size=40,
        num_attention_heads=5,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    ),
    _llama(
        "qwen2",
        "windows",
        "Qwen2ForCausalLM",
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    ),
    _llama(
        "qwen3",
        "normed-heads",
        "Qwen3ForCausalLM",
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        rms_norm_eps=1e-3,
    ),
    _llama(
        "qwen3",
        "tied",
        "Qwen3ForCausalLM",
        hidden_size=40,
        num_attention_heads=5,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    ),
    _llama(
        "qwen3",
        "biased-windows",
        "Qwen3ForCausalLM",
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=8,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=2,
    ),
    _llama(
        "gemma2",
        "caps",
        "Gemma2ForCausalLM",
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        query_pre_attn_scalar=7,
        sliding_window=4,
    ),
    _llama(
        "gemma2",
        "untied",
        "Gemma2ForCausalLM",
        hidden_size=40,
        num_attention_heads=5,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=6,
        tie_word_embeddings=False,
        final_logit_softcapping=3.0,
    ),
    _llama(
        "gemma2",
        "no-caps",
        "Gemma2ForCausalLM",
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=8,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        attention_bias=True,
    ),
    _vit("labels", "ViTForImageClassification", hidden_size=48, num_attention_heads=3, num_labels=5),
    _vit("pooler", "ViTModel", hidden_size=40, num_attention_heads=5, num_channels=1, qkv_bias=False),
    _vit(
        "relu",
        "ViTForImageClassification",
        hidden_size=24,
        num_attention_heads=2,
        hidden_act="relu",
        num_labels=3,
        patch_size=6,
    ),
    _whisper("gelu", d_model=48, encoder_attention_heads=3, decoder_attention_heads=4),
    _whisper("relu", d_model=40, encoder_attention_heads=5, decoder_attention_heads=2, activation_function="relu"),
    _whisper("mels", d_model=24, encoder_attention_heads=1, decoder_attention_heads=3, num_mel_bins=30),
)
