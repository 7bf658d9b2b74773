"""Small, randomly initialised models of many architectures, and how often each attends, by its config.

The number is stated from the published structure (layers × attentions in a layer), not from what any finder sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SEQ2SEQ = TEXT | {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": 2,
}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
IMAGE = TEXT | {"image_size": 32, "patch_size": 8, "num_channels": 3}
SPEECH = TEXT | {
    "conv_dim": (16, 16),
    "conv_kernel": (8, 4),
    "conv_stride": (4, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
    "mask_time_prob": 0.0,
}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
EYES = TOWER | {"image_size": 32, "patch_size": 8}
READER = TOWER | {
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Architecture:
    """A model of transformers: names of its classes, settings of its config, inputs, attentions by its config."""

    model: str
    config: str
    settings: dict[str, Any]
    inputs: Callable[[], dict[str, Any]]
    sites: Callable[[Any], int]
    rule: str = "layers"

    @property
    def name(self) -> str:
        """As the folder of transformers has it."""
        return getattr(hf, self.config).model_type

    def build(self, implementation: str) -> nn.Module:
        """The model with random weights."""
        torch.manual_seed(0)
        config = getattr(hf, self.config)(**self.settings)
        kind = getattr(hf, self.model)
        return kind._from_config(config, attn_implementation=implementation).eval()

    def expected(self) -> int:
        """How often it attends, by its config."""
        return self.sites(getattr(hf, self.config)(**self.settings))


def tokens(length: int = 9) -> Tensor:
    return torch.randint(5, 90, (2, length), generator=torch.Generator().manual_seed(1))


def padded() -> Tensor:
    keep = torch.ones(2, 9, dtype=torch.long)
    keep[1, 6:] = 0
    return keep


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def text() -> dict[str, Any]:
    return {"input_ids": tokens(), "attention_mask": padded()}


def bare() -> dict[str, Any]:
    return {"input_ids": tokens()}


def pair() -> dict[str, Any]:
    return text() | {"decoder_input_ids": tokens(5)}


def image() -> dict[str, Any]:
    return {"pixel_values": numbers(2, 3, 32, 32)}


def video() -> dict[str, Any]:
    return {"pixel_values": numbers(1, 4, 3, 32, 32)}


def wave() -> dict[str, Any]:
    return {"input_values": numbers(2, 400)}


def both() -> dict[str, Any]:
    return text() | image()


def layers(config: Any) -> int:
    return config.num_hidden_layers


def twice(config: Any) -> int:
    """Encoder layers attend once, decoder layers twice."""
    return config.encoder_layers + 2 * config.decoder_layers


def t5(config: Any) -> int:
    return config.num_layers + 2 * config.num_decoder_layers


def towers(config: Any) -> int:
    return config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers


def attending(config: Any) -> int:
    """Hybrids say of each layer what it is."""
    kinds = getattr(config, "layer_types", None) or config.layers_block_type
    return sum(("attention" in kind and "linear" not in kind) or kind == "hybrid" for kind in kinds)
