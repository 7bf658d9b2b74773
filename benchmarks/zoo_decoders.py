"""Decoders of transformers; see zoo.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zoo import EXPERTS, GROUPED, TEXT, Architecture, attending, bare, layers, text


def _causal(name: str, settings: dict[str, Any], sites: Callable[[Any], int] = layers, **more: Any) -> Architecture:
    return Architecture(f"{name}ForCausalLM", f"{name}Config", settings | more, text, sites)


def decoders() -> Iterator[Architecture]:
    yield Architecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        TEXT | {"n_embd": 32, "n_head": 4, "n_layer": 2, "hidden_size": 32},
        text,
        layers,
    )
    yield _causal("GPTNeo", TEXT, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4)
    for name in ("GPTNeoX", "GPTNeoXJapanese", "BioGpt", "Phi", "GPTJ", "CodeGen"):
        more = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4} if name in ("GPTJ", "CodeGen") else {}
        yield _causal(name, TEXT, **more)
    yield _causal("OPT", TEXT, ffn_dim=48, word_embed_proj_dim=32)
    yield _causal("Bloom", TEXT, n_layer=2, n_head=4)
    yield _causal("Mpt", {}, lambda c: c.n_layers, vocab_size=99, d_model=32, n_heads=4, n_layers=2, max_seq_len=64)
    yield _causal("Falcon", TEXT, new_decoder_architecture=False, multi_query=True, alibi=False)
    yield _causal("GPTBigCode", TEXT, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    yield _causal(
        "XGLM", {}, lambda c: c.num_layers, vocab_size=99, d_model=32, ffn_dim=48, num_layers=2, attention_heads=4
    )
    for name in (
        *(
            "Llama",
            "Mistral",
            "Qwen2",
            "Qwen3",
            "Gemma",
            "Gemma2",
            "Phi3",
            "StableLm",
            "Starcoder2",
            "Olmo",
            "Olmo2",
            "Olmo3",
        ),
        *("Cohere", "Cohere2", "Granite", "Glm", "Glm4", "Nemotron", "Persimmon", "Exaone4", "Helium", "SmolLM3"),
        *("Ernie4_5", "SeedOss", "Arcee", "Apertus", "BitNet", "Ministral", "HunYuanDenseV1", "NanoChat"),
        *("Doge", "Jais2"),
    ):
        yield _causal(
            name,
            GROUPED,
            sliding_window=4,
            q_lora_rank=8,
            kv_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
        )
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
    for name in ("DeepseekV2", "DeepseekV3", "Youtu", "MiniCPM3"):
        groups = {
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
        }
        yield _causal(
            name,
            TEXT | {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_key_value_heads": 4},
            **latent,
            **groups,
        )
    yield Architecture(
        "DiffLlamaForCausalLM", "DiffLlamaConfig", GROUPED, text, lambda c: 2 * c.num_hidden_layers, "two a layer"
    )
    yield Architecture("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED | {"sliding_window": 4}, text, layers)
    for name in (
        "Mixtral",
        "Qwen2Moe",
        "Qwen3Moe",
        "Olmoe",
        "GraniteMoe",
        "GptOss",
        "Phimoe",
        "Ernie4_5_Moe",
        "Dots1",
        "MiniMaxM2",
    ):
        yield _causal(name, EXPERTS, sliding_window=4, n_group=1, topk_group=1, n_routed_experts=4, n_shared_experts=1)
    yield Architecture(
        "CTRLLMHeadModel",
        "CTRLConfig",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48},
        text,
        layers,
    )
    yield Architecture(
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTConfig",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4},
        text,
        layers,
    )
    yield Architecture(
        "XLNetLMHeadModel",
        "XLNetConfig",
        {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
        text,
        lambda c: c.n_layer,
    )
    yield Architecture("ModernBertDecoderForCausalLM", "ModernBertDecoderConfig", TEXT, text, layers)
    yield _causal("Lfm2", GROUPED, attending, layer_types=["conv", "full_attention"])
    yield _causal(
        "Qwen3Next",
        EXPERTS,
        attending,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        shared_expert_intermediate_size=24,
    )
    yield _causal(
        "Jamba",
        EXPERTS,
        lambda c: sum(kind == "attention" for kind in c.layers_block_type),
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    )
    yield _causal(
        "RecurrentGemma",
        GROUPED,
        lambda c: sum(c.block_types[i % len(c.block_types)] == "attention" for i in range(c.num_hidden_layers)),
        num_hidden_layers=3,
        lru_width=32,
        attention_window_size=16,
    )
    yield _causal(
        "FalconH1",
        GROUPED,
        layers,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
    )
    yield _causal(
        "Bamba",
        GROUPED,
        lambda c: len(c.attn_layer_indices),
        attn_layer_indices=[1],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_chunk_size=8,
    )
    yield Architecture("MambaForCausalLM", "MambaConfig", TEXT, bare, lambda c: 0)
    yield Architecture("RwkvForCausalLM", "RwkvConfig", TEXT | {"attention_hidden_size": 32}, bare, lambda c: 0)
