"""The config.json of well-known models, with all that stands in them, is read, and gives the published count.

Written down from the files on the hub; where a count is given it is that of the model of ``architectures``.
"""

import time

import pytest

from pellucid.errors import ConfigError
from pellucid.models.build import build_empty
from pellucid.models.foreign.folder import layout_of
from pellucid.models.foreign.layout import Folder
from pellucid.models.foreign.llama import VARIANTS, _windows
from pellucid.models.foreign.settings import Settings

GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
}  # fmt: skip
BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522,
}  # fmt: skip
POOLER = {
    "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
}  # fmt: skip
DISTILBERT = {
    "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768,
    "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512,
    "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522,
}  # fmt: skip
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512, "num_heads": 8,
    "num_layers": 6, "output_past": True, "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "task_specific_params": {}, "vocab_size": 32128,
}  # fmt: skip
BART = {
    "_num_labels": 3, "activation_dropout": 0.0, "activation_function": "gelu", "add_final_layer_norm": False,
    "architectures": ["BartForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": 0,
    "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 1024, "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0, "decoder_layers": 12, "decoder_start_token_id": 2,
    "dropout": 0.1, "early_stopping": True, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.0, "encoder_layers": 12, "eos_token_id": 2, "force_bos_token_to_be_generated": True,
    "forced_bos_token_id": 0, "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "length_penalty": 2.0, "max_length": 142,
    "max_position_embeddings": 1024, "min_length": 56, "model_type": "bart", "no_repeat_ngram_size": 3,
    "normalize_before": False, "normalize_embedding": True, "num_beams": 4, "num_hidden_layers": 12,
    "output_past": True, "pad_token_id": 1, "prefix": " ", "replacing_rate": 0, "scale_embedding": False,
    "static_position_embeddings": False, "student_decoder_layers": None, "student_encoder_layers": None,
    "task_specific_params": {"summarization": {"num_beams": 4}}, "use_cache": True, "vocab_size": 50264,
}  # fmt: skip
MARIAN = {
    "_num_labels": 3, "activation_dropout": 0.0, "activation_function": "swish", "add_bias_logits": False,
    "add_final_layer_norm": False, "architectures": ["MarianMTModel"], "attention_dropout": 0.0,
    "bad_words_ids": [[58100]], "bos_token_id": 0, "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 512,
    "decoder_attention_heads": 8, "decoder_ffn_dim": 2048, "decoder_layerdrop": 0.0, "decoder_layers": 6,
    "decoder_start_token_id": 58100, "decoder_vocab_size": 58101, "dropout": 0.1, "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048, "encoder_layerdrop": 0.0, "encoder_layers": 6, "eos_token_id": 0,
    "extra_pos_embeddings": 58101, "forced_eos_token_id": 0, "init_std": 0.02, "is_encoder_decoder": True,
    "max_length": 512, "max_position_embeddings": 512, "model_type": "marian", "normalize_before": False,
    "normalize_embedding": False, "num_beams": 6, "num_hidden_layers": 6, "pad_token_id": 58100,
    "scale_embedding": True, "share_encoder_decoder_embeddings": True, "static_position_embeddings": True,
    "use_cache": True, "vocab_size": 58101,
}  # fmt: skip
LLAMA3 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
    "vocab_size": 128256,
}  # fmt: skip
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
    "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
    "max_position_embeddings": 131072, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
    "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
    "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000,
}  # fmt: skip
VIT = {
    "architectures": ["ViTForImageClassification"], "attention_probs_dropout_prob": 0.0, "encoder_stride": 16,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768,
    "id2label": {str(i): "crane" if i in (134, 517) else f"class {i}" for i in range(1000)},
    "image_size": 224, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "model_type": "vit", "num_attention_heads": 12, "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16,
    "qkv_bias": True, "transformers_version": "4.13.0.dev0",
}  # fmt: skip
WHISPER = {
    "activation_dropout": 0.0, "activation_function": "gelu", "architectures": ["WhisperForConditionalGeneration"],
    "attention_dropout": 0.0, "begin_suppress_tokens": [220, 50257], "bos_token_id": 50257, "d_model": 384,
    "decoder_attention_heads": 6, "decoder_ffn_dim": 1536, "decoder_layerdrop": 0.0, "decoder_layers": 4,
    "decoder_start_token_id": 50258, "dropout": 0.0, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
    "encoder_layerdrop": 0.0, "encoder_layers": 4, "eos_token_id": 50257,
    "forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]], "init_std": 0.02, "is_encoder_decoder": True,
    "max_length": 448, "max_source_positions": 1500, "max_target_positions": 448, "model_type": "whisper",
    "num_hidden_layers": 4, "num_mel_bins": 80, "pad_token_id": 50257, "scale_embedding": False,
    "suppress_tokens": [1, 2, 7], "use_cache": True, "vocab_size": 51865,
}  # fmt: skip

TYPES, BIAS = "bert.embeddings.token_type_embeddings.weight", "final_logits_bias"
PUBLISHED = {
    "gpt2": (GPT2, (), 124_439_808),
    "gpt2-medium": (
        GPT2 | {"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True},
        (), 354_823_168,
    ),
    "distilgpt2": (GPT2 | {"n_layer": 6, "_num_labels": 1, "id2label": {"0": "LABEL_0"}}, (), 81_912_576),
    "bert-base-uncased": (BERT, (TYPES,), 109_514_298),
    "bert-base-chinese": (BERT | POOLER | {"vocab_size": 21128}, (TYPES,), None),
    "all-MiniLM-L6-v2": (
        BERT | {"architectures": ["BertModel"], "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
        (TYPES, "pooler.dense.weight"), 22_713_216,
    ),
    "TinyBERT_General_4L_312D": (
        BERT | {"cell": {}, "emb_size": 312, "hidden_size": 312, "intermediate_size": 1200, "num_hidden_layers": 4,
                "pre_trained": "", "structure": [], "training": ""},
        (TYPES,), None,
    ),
    "ms-marco-MiniLM-L6-v2": (
        BERT | {"architectures": ["BertForSequenceClassification"], "hidden_size": 384, "id2label": {"0": "LABEL_0"},
                "intermediate_size": 1536, "label2id": {"LABEL_0": 0}, "num_hidden_layers": 6,
                "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        (TYPES,), 22_713_601,
    ),
    "roberta-base": (
        BERT | {"architectures": ["RobertaForMaskedLM"], "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-05,
                "max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1,
                "vocab_size": 50265},
        ("roberta.embeddings.token_type_embeddings.weight",), 124_697_433,
    ),
    "distilbert-base-uncased": (DISTILBERT, (), 66_985_530),
    "distilbert-sst-2": (
        DISTILBERT | {"architectures": ["DistilBertForSequenceClassification"], "finetuning_task": "sst-2",
                      "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}},
        (), 66_955_010,
    ),
    "t5-small": (T5, (), 60_506_624),
    "flan-t5-base": (
        T5 | {"d_model": 768, "num_heads": 12, "num_layers": 12, "num_decoder_layers": 12,
              "feed_forward_proj": "gated-gelu", "is_gated_act": True, "dense_act_fn": "gelu_new",
              "relative_attention_max_distance": 128, "tie_word_embeddings": False, "classifier_dropout": 0.0},
        ("lm_head.weight",), 247_577_856,
    ),
    "bart-large-cnn": (BART, (BIAS,), 406_290_432 + 50_264),
    "distilbart-cnn-12-6": (
        BART | {"decoder_layers": 6, "eos_token_ids": [2], "extra_pos_embeddings": 2}, (BIAS,), None,
    ),
    "mbart-large-50": (
        BART | {"architectures": ["MBartForConditionalGeneration"], "activation_function": "gelu",
                "add_bias_logits": False, "add_final_layer_norm": True, "model_type": "mbart", "vocab_size": 250054,
                "normalize_before": True, "scale_embedding": True, "tokenizer_class": "MBart50Tokenizer",
                "forced_bos_token_id": None},
        (BIAS,), 610_879_488 + 250_054,
    ),
    "opus-mt-en-de": (MARIAN, (BIAS,), None),
    "Llama-3.2-1B": (LLAMA3, (), 1_235_814_400),
    "unsloth/Llama-3.2-1B": (LLAMA3 | {"unsloth_fixed": True, "unsloth_version": "2025.1"}, (), 1_235_814_400),
    "SmolLM2-135M": (
        LLAMA3 | {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
                  "num_hidden_layers": 30, "vocab_size": 49152, "rope_scaling": None, "is_llama_config": True,
                  "rope_interleaved": False, "head_dim": 64, "transformers.js_config": {"kv_cache_dtype": "x"}},
        (), 134_515_008,
    ),
    "Mistral-7B-v0.1": (MISTRAL, (), 7_241_732_096),
    "Qwen2-0.5B": (QWEN2, (), 494_032_768),
    "Qwen3-0.6B": (QWEN3, (), 596_049_920),
    "gemma-2-2b": (GEMMA2, (), 2_614_341_888),
    "gemma-2-9b": (
        GEMMA2 | {"hidden_size": 3584, "intermediate_size": 14336, "num_attention_heads": 16, "num_hidden_layers": 42,
                  "num_key_value_heads": 8, "sliding_window_size": 4096},
        (), 9_241_705_984,
    ),
    "vit-base-patch16-224": (VIT, (), 86_567_656),
    "whisper-tiny": (WHISPER, (), 37_760_640),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_configs(name):
    told, names, count = PUBLISHED[name]
    settings = Settings(told, "config.json")
    layout = layout_of(settings)
    described = layout.read(Folder(settings, names))
    settings.finish()
    if count is not None:
        assert sum(parameter.numel() for parameter in build_empty(described).parameters()) == count


def test_scores_that_are_squashed_are_refused():
    told = PUBLISHED["ms-marco-MiniLM-L6-v2"][0]
    del (told := dict(told))["sbert_ce_default_activation_function"]
    for kind, is_raw in (("torch.nn.modules.linear.Identity", True), ("torch.nn.modules.activation.Sigmoid", False)):
        settings = Settings(told | {"sentence_transformers": {"activation_fn": kind, "version": "5.0"}}, "config.json")
        if is_raw:
            layout_of(settings).read(Folder(settings, ()))
            settings.finish()
        else:
            with pytest.raises(ConfigError, match=r"activation of the scores: found 'torch.*Sigmoid'"):
                layout_of(settings).read(Folder(settings, ()))


def test_two_labels_of_one_name():
    settings = Settings(VIT, "config.json")
    labels = layout_of(settings).read(Folder(settings, ())).head.labels
    assert labels[134] == "crane (134)"
    assert labels[517] == "crane (517)"
    assert labels[0] == "class 0"


def test_the_period_of_thousands_of_windows():
    layers = 10_000
    told = {"num_hidden_layers": layers, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 9_999}
    began = time.perf_counter()
    windows = _windows(Settings(told, "config.json"), VARIANTS["qwen2"])
    assert (len(windows), windows[0], windows[-1]) == (layers, 0, 4)
    assert time.perf_counter() - began < 5
    told["layer_types"] = ["full_attention", "sliding_attention", "sliding_attention"] * 3_333 + ["full_attention"]
    assert _windows(Settings(told, "config.json"), VARIANTS["qwen2"]) == (0, 4, 4)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_windows_that_are_switched_on_without_a_width(kind):
    told = {"num_hidden_layers": 4, "use_sliding_window": True, "max_window_layers": 2}
    for said, windows in (
        ({}, (0, 0, 4096, 4096)),
        ({"sliding_window": 8}, (0, 0, 8, 8)),
        ({"sliding_window": None}, (0,)),
        ({"use_sliding_window": None}, (0,)),
    ):
        assert _windows(Settings(told | said, "config.json"), VARIANTS[kind]) == windows


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        ("mistral", {"layer_types": ["full_attention"] * 4}, "found full_attention; expected sliding_attention"),
        (
            "mistral",
            {"layer_types": ["full_attention", "sliding_attention"] * 2},
            "layer_types: found full_attention, sliding_attention; expected sliding_attention in every layer",
        ),
        ("mistral", {"use_sliding_window": False}, "use_sliding_window: found False; expected True"),
        ("llama", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window: found True; expected False"),
        ("gemma2", {"use_sliding_window": False}, "use_sliding_window: found False; expected True"),
    ],
)
def test_windows_of_which_the_architecture_reads_nothing(kind, said, message):
    with pytest.raises(ConfigError, match=message):
        _windows(Settings({"num_hidden_layers": 4} | said, "config.json"), VARIANTS[kind])


@pytest.mark.parametrize(
    ("kind", "said", "windows"),
    [
        ("mistral", {"layer_types": ["sliding_attention"] * 4, "use_sliding_window": True}, (4096,)),
        ("mistral", {"layer_types": ["full_attention"] * 4, "sliding_window": None, "use_sliding_window": False}, (0,)),
        ("llama", {"layer_types": ["full_attention"] * 4, "sliding_window": 8, "use_sliding_window": False}, (0,)),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"] * 2}, (0, 4096)),
    ],
)
def test_windows_as_the_architecture_has_them_anyway(kind, said, windows):
    assert _windows(Settings({"num_hidden_layers": 4} | said, "config.json"), VARIANTS[kind]) == windows
