"""Models of transformers that see, hear, or do several things; see zoo.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from zoo import (
    EYES,
    GROUPED,
    IMAGE,
    READER,
    SEQ2SEQ,
    SPEECH,
    TEXT,
    Architecture,
    both,
    image,
    layers,
    numbers,
    text,
    tokens,
    towers,
    twice,
    video,
    wave,
)


def seeing() -> Iterator[Architecture]:
    yield Architecture(
        "YolosModel", "YolosConfig", IMAGE | {"image_size": [32, 32], "num_detection_tokens": 3}, image, layers
    )
    for name in ("ViT", "DeiT", "Beit", "Dinov2", "ViTMSN", "ViTMAE", "IJepa", "Data2VecVision", "Dinov2WithRegisters"):
        yield Architecture(f"{name}Model", f"{name}Config", IMAGE, image, layers)
    yield Architecture("DINOv3ViTModel", "DINOv3ViTConfig", IMAGE, image, layers)
    for name in ("Swin", "Swinv2"):
        yield Architecture(
            f"{name}Model",
            f"{name}Config",
            {
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 16,
                "depths": [2, 1],
                "num_heads": [2, 4],
                "window_size": 4,
            },
            image,
            lambda c: sum(c.depths),
            "depths",
        )
    yield Architecture(
        "SegformerModel",
        "SegformerConfig",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 2],
            "sr_ratios": [4, 1],
            "hidden_sizes": [16, 32],
            "num_attention_heads": [2, 4],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
        },
        image,
        lambda c: sum(c.depths),
        "depths",
    )
    yield Architecture(
        "PvtModel",
        "PvtConfig",
        {
            "image_size": 32,
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 16, 32, 32],
            "num_attention_heads": [1, 2, 2, 4],
            "sequence_reduction_ratios": [4, 2, 1, 1],
            "mlp_ratios": [2, 2, 2, 2],
        },
        image,
        lambda c: sum(c.depths),
        "depths",
    )
    yield Architecture(
        "CvtModel",
        "CvtConfig",
        {
            "embed_dim": [16, 32],
            "depth": [1, 2],
            "num_heads": [2, 4],
            "patch_sizes": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "mlp_ratio": [2.0, 2.0],
            "attention_drop_rate": [0.0, 0.0],
            "drop_rate": [0.0, 0.0],
            "drop_path_rate": [0.0, 0.0],
            "qkv_bias": [True, True],
            "cls_token": [False, True],
            "qkv_projection_method": ["dw_bn", "dw_bn"],
            "kernel_qkv": [3, 3],
            "padding_kv": [1, 1],
            "stride_kv": [2, 2],
            "padding_q": [1, 1],
            "stride_q": [1, 1],
        },
        image,
        lambda c: sum(c.depth),
        "depths",
    )
    yield Architecture(
        "LevitModel",
        "LevitConfig",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 2, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "mlp_ratio": [2, 2, 2],
            "attention_ratio": [2, 2, 2],
        },
        lambda: {"pixel_values": numbers(2, 3, 64, 64)},
        lambda c: sum(c.depths) + 2,
        "depths, one between stages",
    )
    yield Architecture(
        "MobileViTModel",
        "MobileViTConfig",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
            "num_attention_heads": 4,
        },
        lambda: {"pixel_values": numbers(2, 3, 64, 64)},
        lambda c: 2 + 4 + 3,
        "2 + 4 + 3, fixed by the paper",
    )
    yield Architecture(
        "HieraModel",
        "HieraConfig",
        {
            "image_size": [32, 32],
            "patch_size": [3, 3],
            "patch_stride": [4, 4],
            "patch_padding": [1, 1],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "query_stride": [2, 2],
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, False],
            "num_query_pool": 1,
        },
        image,
        lambda c: sum(c.depths),
        "depths",
    )
    for name, settings in (
        ("VideoMAE", {"num_frames": 4, "tubelet_size": 2}),
        ("Vivit", {"num_frames": 4, "tubelet_size": [2, 8, 8]}),
    ):
        yield Architecture(f"{name}Model", f"{name}Config", IMAGE | settings, video, layers)
    yield Architecture(
        "TimesformerModel",
        "TimesformerConfig",
        IMAGE | {"num_frames": 4},
        video,
        lambda c: 2 * c.num_hidden_layers,
        "time and space in each layer",
    )
    yield Architecture(
        "PoolFormerModel",
        "PoolFormerConfig",
        {"image_size": 32, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        image,
        lambda c: 0,
    )
    backbone = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    resnet = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage4"],
    }
    for name in ("Detr", "ConditionalDetr"):
        yield Architecture(
            f"{name}Model",
            f"{name}Config",
            SEQ2SEQ | backbone | {"backbone_config": resnet, "num_queries": 5},
            lambda: {"pixel_values": numbers(1, 3, 64, 64)},
            twice,
            "encoder + 2 × decoder layers",
        )


def hearing() -> Iterator[Architecture]:
    for name in (
        "Wav2Vec2",
        "Hubert",
        "WavLM",
        "UniSpeech",
        "UniSpeechSat",
        "Data2VecAudio",
        "Wav2Vec2Conformer",
        "SEW",
    ):
        yield Architecture(f"{name}Model", f"{name}Config", SPEECH | {"squeeze_factor": 2}, wave, layers)
    yield Architecture(
        "WhisperModel",
        "WhisperConfig",
        SEQ2SEQ | {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20},
        lambda: {"input_features": numbers(2, 8, 40), "decoder_input_ids": tokens(5)},
        twice,
        "encoder + 2 × decoder layers",
    )
    yield Architecture(
        "Speech2TextModel",
        "Speech2TextConfig",
        SEQ2SEQ
        | {
            "input_feat_per_channel": 8,
            "input_channels": 1,
            "conv_channels": 16,
            "max_source_positions": 60,
            "max_target_positions": 20,
        },
        lambda: {"input_features": numbers(2, 40, 8), "decoder_input_ids": tokens(5)},
        twice,
        "encoder + 2 × decoder layers",
    )
    yield Architecture(
        "ASTModel",
        "ASTConfig",
        TEXT | {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 8},
        lambda: {"input_values": numbers(2, 16, 8)},
        layers,
    )
    yield Architecture(
        "MoonshineModel",
        "MoonshineConfig",
        TEXT
        | {
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 3,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "decoder_start_token_id": 1,
        },
        lambda: {"input_values": numbers(2, 2000), "decoder_input_ids": tokens(5)},
        lambda c: c.encoder_num_hidden_layers + 2 * c.decoder_num_hidden_layers,
    )


def several() -> Iterator[Architecture]:
    for name in ("CLIP", "Siglip", "ChineseCLIP", "XCLIP", "Blip"):
        if name in ("CLIP", "Siglip", "ChineseCLIP"):
            extra = (lambda c: towers(c) + 1) if name == "Siglip" else towers
            yield Architecture(
                f"{name}Model",
                f"{name}Config",
                {"text_config": READER, "vision_config": EYES, "projection_dim": 16},
                both,
                extra,
                "both towers" + (", one pooling" if name == "Siglip" else ""),
            )
    yield Architecture("ViltModel", "ViltConfig", IMAGE, both, layers)
    yield Architecture(
        "GitModel",
        "GitConfig",
        TEXT | {"vision_config": EYES},
        both,
        lambda c: c.num_hidden_layers + c.vision_config.num_hidden_layers,
        "both towers",
    )
    yield Architecture(
        "LxmertModel",
        "LxmertConfig",
        TEXT | {"l_layers": 2, "x_layers": 2, "r_layers": 1, "visual_feat_dim": 8, "visual_pos_dim": 4},
        lambda: text() | {"visual_feats": numbers(2, 3, 8), "visual_pos": numbers(2, 3, 4)},
        lambda c: c.l_layers + c.r_layers + 4 * c.x_layers,
        "language, vision, and in each cross layer two of each kind",
    )
    yield Architecture(
        "PerceiverModel",
        "PerceiverConfig",
        {
            "num_latents": 6,
            "d_latents": 16,
            "d_model": 16,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
        },
        lambda: {"inputs": numbers(2, 9, 16)},
        lambda c: c.num_blocks * c.num_self_attends_per_block + 1,
        "latents, and one cross",
    )
    llava = {
        "text_config": GROUPED | {"model_type": "llama", "vocab_size": 120},
        "vision_config": EYES | {"model_type": "clip_vision_model"},
        "image_token_index": 110,
        "image_token_id": 110,
    }
    pictured = torch.cat([torch.full((2, 16), 110), tokens()], 1)
    yield Architecture(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        llava,
        lambda: image() | {"input_ids": pictured},
        towers,
        "both towers",
    )
    yield Architecture(
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        {
            "text_config": GROUPED | {"model_type": "gemma", "vocab_size": 120},
            "vision_config": EYES | {"model_type": "siglip_vision_model", "vision_use_head": False},
            "projection_dim": 32,
            "image_token_index": 110,
            "image_token_id": 110,
        },
        lambda: image() | {"input_ids": pictured, "attention_mask": torch.ones_like(pictured)},
        towers,
        "both towers",
    )
    yield Architecture(
        "Blip2QFormerModel",
        "Blip2QFormerConfig",
        TEXT | {"cross_attention_frequency": 2, "encoder_hidden_size": 32},
        lambda: {"query_embeds": numbers(2, 4, 32), "encoder_hidden_states": numbers(2, 7, 32)},
        lambda c: c.num_hidden_layers + c.num_hidden_layers // c.cross_attention_frequency,
        "layers, and a cross in every second",
    )
