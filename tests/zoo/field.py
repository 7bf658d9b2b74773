"""Architectures of ``transformers`` in small, from their configs, with random weights: the doctor's field.

A config gets whichever of the usual settings it knows; what one architecture needs besides stands beside its name.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

VOCAB = 99
SMALL: dict[str, Any] = {
    # ids
    "vocab_size": VOCAB,
    "src_vocab_size": VOCAB,
    "tgt_vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "mask_token_id": 3,
    "type_vocab_size": 2,
    # widths
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "embed_dim", "word_embed_proj_dim",
                     "attention_hidden_size", "lru_width", "emb_dim"), 32),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "v_head_dim", "attention_head_dim", "dim_head"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "dff", "n_inner",
                     "hidden_dim", "d_inner", "dim_ff"), 64),
    # depths
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
                     "num_encoder_layers", "num_decoder_layers"), 2),
    # heads
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
                     "decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    "rotary_dim": 4,
    # lengths
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "context_length",
                     "max_encoder_position_embeddings", "max_decoder_position_embeddings", "max_target_positions"), 128),
    "sliding_window": 8,
    "window_size": 8,
    "attention_window_size": 8,
    "local_attention": 16,
    # experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_selected_experts", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 24),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    # low ranks
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    # states
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    # senses
    "image_size": 32,
    "patch_size": 8,
    "num_mel_bins": 8,
    "max_source_positions": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A class of ``transformers`` and what its config needs besides the usual.

    Attributes:
        name: of the class.
        kind: as the doctor must find it.
        changes: settings over the usual; ``None`` leaves the config's own.
    """

    name: str
    kind: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> bool:
        """Whether the installed version has it."""
        return hasattr(transformers, self.name)


def tiny(architecture: Architecture) -> nn.Module:
    """The model in small, with random weights, in evaluation mode."""
    kind = getattr(transformers, architecture.name)
    config = kind.config_class
    names = getattr(config, "__dataclass_fields__", None) or inspect.signature(config.__init__).parameters
    settings = {name: value for name, value in SMALL.items() if name in names} | architecture.changes
    settings = {name: value for name, value in settings.items() if value is not KEEP}
    torch.manual_seed(0)
    return kind(config(**settings)).eval()


KEEP = object()
"""Leaves a setting to the config."""


def causal(names: str, **changes: Any) -> list[Architecture]:
    """Decoders by the beginnings of their names."""
    ends = ("LMHeadModel", "ForCausalLM")
    full = (name if name.endswith(ends) else f"{name}ForCausalLM" for name in names.split())
    return [Architecture(name, "decoder", changes) for name in full]


def reading(names: str, end: str = "ForMaskedLM", **changes: Any) -> list[Architecture]:
    """Encoders."""
    return [Architecture(f"{name}{end}", "encoder", changes) for name in names.split()]


def both(names: str, end: str = "ForConditionalGeneration", **changes: Any) -> list[Architecture]:
    """Encoder–decoders."""
    return [Architecture(f"{name}{end}", "encoder_decoder", changes) for name in names.split()]


MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16}
CAUSAL = [
    Architecture("CLIPTextModel", "decoder"),
    *causal("GPT2LMHeadModel GPTNeoX GPTNeoXJapanese GPTJ CodeGen GPTBigCode OpenAIGPTLMHeadModel CTRLLMHeadModel"),
    *causal("OPT Bloom Falcon Mpt BioGpt XGLM CpmAnt Rwkv Persimmon"),
    *causal("Llama Mistral Ministral Ministral3 Mixtral Cwm Llama4 Qwen2 Qwen2Moe Qwen3 Qwen3Moe Gemma Gemma2 Gemma3"),
    *causal("VaultGemma Phi Phi3 Phimoe StableLm Starcoder2 Cohere Cohere2 Olmo Olmo2 Olmo3 Olmoe FlexOlmo Granite"),
    *causal("GraniteMoe GraniteMoeShared Nemotron Exaone4 ExaoneMoe Ernie4_5 Ernie4_5_Moe Glm Glm4 Glm4Moe Helium"),
    *causal("HunYuanDenseV1 HunYuanMoEV1 Lfm2 MiniMax MiniMaxM2 Arcee SmolLM3 SeedOss GptOss Mamba FalconMamba"),
    *causal("FalconH1 DiffLlama Doge Dots1 Apertus BitNet Jais2 NanoChat ModernBertDecoder HyperCLOVAX Afmoe"),
    *causal("AriaText SolarOpen MiMoV2Flash"),
    *causal("xLSTM", hidden_size=128),
    *causal("DeepseekV2 DeepseekV3 Youtu", num_key_value_heads=4),
    *causal("MiniCPM3", num_key_value_heads=4, dim_model_base=32, scale_emb=1),
    *causal("GPTNeo", attention_types=[[["global", "local"], 1]]),
    *causal("JetMoe", kv_channels=8),
    *causal("Lfm2Moe", layer_types=["conv", "full_attention"], num_dense_layers=1),
    *causal("Dbrx", ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
            attn_config={"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4}),
    *causal("Mamba2", num_heads=8, n_groups=2),
    *causal("Bamba", attn_layer_indices=[1], **MAMBA2),
    *causal("GraniteMoeHybrid", layer_types=["mamba", "attention"], shared_intermediate_size=24, **MAMBA2),
    *causal("Jamba", attn_layer_period=2, attn_layer_offset=1, mamba_dt_rank=4, use_mamba_kernels=False),
    *causal("Zamba", num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], mamba_dt_rank=4,
            num_key_value_heads=4, use_mamba_kernels=False, attention_hidden_size=64, attention_head_dim=16),
    *causal("Zamba2", num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], n_mamba_heads=4,
            num_key_value_heads=4, adapter_rank=4),
    *causal("RecurrentGemma", num_hidden_layers=3),
    *causal("NemotronH", layers_block_type=["mamba", "attention", "mlp"], n_groups=2, mamba_num_heads=4,
            mamba_head_dim=16),
    *causal("Qwen3Next", layer_types=["linear_attention", "full_attention"], linear_num_value_heads=4,
            linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8),
    *causal("KimiLinear", layer_types=["linear_attention", "full_attention"], linear_head_dim=8, linear_num_heads=4,
            num_key_value_heads=4),
    *causal("LongcatFlash", head_dim=4, zero_expert_num=2, ffn_hidden_size=64, num_key_value_heads=4),
    *causal("BertLMHeadModel Roberta Electra RoFormer RemBert MegatronBert Camembert XLMRoberta", is_decoder=True),
    *causal("BigBird", is_decoder=True, attention_type="original_full"),
    *causal("XLMRobertaXL RobertaPreLayerNorm Data2VecText Ernie", is_decoder=True),
    *causal("Xmod", is_decoder=True, languages=["en_XX"], default_language="en_XX"),
    *causal("Bart MBart Pegasus Blenderbot BlenderbotSmall Marian TrOCR PLBart Mvp", is_decoder=True,
            is_encoder_decoder=False),
]  # fmt: skip

READING = [
    *reading("Bert Roberta DistilBert Albert Electra MPNet XLMRoberta Camembert ConvBert FNet ModernBert NomicBert"),
    *reading("RoFormer MegatronBert RemBert IBert EuroBert Data2VecText RobertaPreLayerNorm XLMRobertaXL Gte"),
    *reading("LayoutLM Esm Ernie Yoso Mra"),
    *reading("Deberta DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0),
    *reading("Funnel", block_sizes=[1, 1], num_decoder_layers=1),
    *reading("Longformer", attention_window=[4, 4]),
    *reading("BigBird", attention_type="original_full"),
    *reading("MobileBert", embedding_size=16, intra_bottleneck_size=32, true_hidden_size=32, num_feedforward_networks=1),
    *reading("SqueezeBert", q_groups=1, k_groups=1, v_groups=1, post_attention_groups=1, intermediate_groups=1,
             output_groups=1),
    *reading("Nystromformer", num_landmarks=64, segment_means_seq_len=64, conv_kernel_size=3),
    *reading("Xmod", languages=["en_XX"], default_language="en_XX"),
    *reading("Luke", entity_vocab_size=10, entity_emb_size=8),
    *reading("Bert Electra", "Model"),
    *reading("T5", "EncoderModel"),
    *reading("XLNetLMHead XLMWithLMHead FlaubertWithLMHead", "Model"),
    *reading("Bert DistilBert", "ForSequenceClassification"),
    *reading("Roberta", "ForTokenClassification"),
    *reading("ViT DeiT", "ForImageClassification"),
    *reading("Beit", "ForImageClassification"),
    *reading("Dinov2", "Model"),
]  # fmt: skip

BOTH = [
    *both("T5 MT5 UMT5 LongT5", num_decoder_layers=3, decoder_start_token_id=0),
    *both("SwitchTransformers", decoder_start_token_id=0, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
    *both("Bart MBart Pegasus Blenderbot BlenderbotSmall M2M100 PLBart Mvp"),
    *both("Marian", "MTModel"),
    *both("FSMT", langs=["en", "de"]),
    *both("LED", attention_window=[4, 4]),
    *both("ProphetNet", ngram=2),
    *both("NllbMoe", expert_capacity=64, encoder_sparse_step=2, decoder_sparse_step=2),
    *both("BigBirdPegasus", attention_type="original_full"),
    *both("PegasusX", block_size=16, num_global_tokens=4),
    *both("Whisper"),
    *both("Speech2Text", input_feat_per_channel=8, conv_channels=16),
    *both("Moonshine", encoder_num_hidden_layers=2, decoder_num_hidden_layers=2, encoder_num_attention_heads=4,
          decoder_num_attention_heads=4, encoder_num_key_value_heads=4, decoder_num_key_value_heads=4),
]  # fmt: skip

FIELD = (*CAUSAL, *READING, *BOTH)
