"""Encoders and encoder–decoders of transformers; see zoo.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zoo import SEQ2SEQ, T5, TEXT, Architecture, layers, pair, t5, text, tokens, twice


def _encoder(
    name: str, settings: dict[str, Any] = TEXT, sites: Callable[[Any], int] = layers, **more: Any
) -> Architecture:
    return Architecture(f"{name}Model", f"{name}Config", settings | more, text, sites)


def encoders() -> Iterator[Architecture]:
    for name in (
        *(
            "Bert",
            "Roberta",
            "Electra",
            "MPNet",
            "Camembert",
            "XLMRoberta",
            "RemBert",
            "RoFormer",
            "MegatronBert",
            "IBert",
        ),
        *(
            "Splinter",
            "LayoutLM",
            "Esm",
            "Ernie",
            "Data2VecText",
            "ModernBert",
            "NomicBert",
            "SqueezeBert",
            "XLMRobertaXL",
        ),
        *("Luke", "RoCBert", "EuroBert", "RobertaPreLayerNorm", "Xmod", "ConvBert", "VisualBert", "BertGeneration"),
    ):
        encoder = "BertGenerationEncoder" if name == "BertGeneration" else f"{name}Model"
        more = (
            {
                "q_groups": 1,
                "k_groups": 1,
                "v_groups": 1,
                "post_attention_groups": 1,
                "intermediate_groups": 1,
                "output_groups": 1,
            }
            if name == "SqueezeBert"
            else {}
        )
        more |= {
            "embedding_size": 32,
            "mask_token_id": 4,
            "num_key_value_heads": 4,
            "languages": ["en_XX"],
            "default_language": "en_XX",
            "entity_vocab_size": 10,
            "entity_emb_size": 8,
            "visual_embedding_dim": 8,
        }
        more |= (
            {
                "input_embedding_size": 32,
                "output_embedding_size": 32,
                "pronunciation_embed_dim": 8,
                "shape_embed_dim": 8,
                "pronunciation_vocab_size": 99,
                "shape_vocab_size": 99,
            }
            if name in ("RemBert", "RoCBert")
            else {}
        )
        yield Architecture(encoder, f"{name}Config", TEXT | more, text, layers)
    yield _encoder("Albert", embedding_size=16)
    yield _encoder(
        "DistilBert",
        {},
        lambda c: c.n_layers,
        vocab_size=99,
        dim=32,
        n_heads=4,
        n_layers=2,
        hidden_dim=48,
        max_position_embeddings=64,
    )
    yield _encoder("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0)
    yield _encoder("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0)
    yield _encoder(
        "MobileBert", embedding_size=16, intra_bottleneck_size=32, true_hidden_size=32, num_feedforward_networks=1
    )
    yield _encoder(
        "XLM",
        {},
        lambda c: c.n_layers,
        vocab_size=99,
        emb_dim=32,
        n_layers=2,
        n_heads=4,
        n_langs=1,
        max_position_embeddings=64,
    )
    yield _encoder(
        "Flaubert",
        {},
        lambda c: c.n_layers,
        vocab_size=99,
        emb_dim=32,
        n_layers=2,
        n_heads=4,
        n_langs=1,
        max_position_embeddings=64,
    )
    yield _encoder(
        "Funnel",
        {},
        lambda c: sum(c.block_sizes) + c.num_decoder_layers,
        vocab_size=99,
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=48,
        block_sizes=[1, 1],
        num_decoder_layers=1,
    )
    yield _encoder("BigBird", attention_type="original_full")
    yield _encoder("Nystromformer", num_landmarks=64, segment_means_seq_len=64, conv_kernel_size=3)
    yield Architecture(
        "CanineModel",
        "CanineConfig",
        TEXT | {"downsampling_rate": 2, "local_transformer_stride": 4, "num_hash_buckets": 64},
        lambda: {"input_ids": tokens(16)},
        lambda c: c.num_hidden_layers + 1 + 16 // c.local_transformer_stride,
        "layers, one after, before them one for each stretch of 16 characters",
    )
    yield _encoder("Longformer", attention_window=[4, 4])
    yield _encoder("FNet", sites=lambda c: 0)


def encoder_decoders() -> Iterator[Architecture]:
    for name in (
        "Bart",
        "MBart",
        "Pegasus",
        "Marian",
        "Blenderbot",
        "BlenderbotSmall",
        "M2M100",
        "PLBart",
        "Mvp",
        "NllbMoe",
    ):
        yield Architecture(
            f"{name}Model",
            f"{name}Config",
            SEQ2SEQ | {"num_experts": 4, "expert_capacity": 16, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
            pair,
            twice,
            "encoder + 2 × decoder layers",
        )
    yield Architecture(
        "FSMTModel",
        "FSMTConfig",
        SEQ2SEQ | {"langs": ["en", "de"], "src_vocab_size": 99, "tgt_vocab_size": 99},
        pair,
        twice,
        "encoder + 2 × decoder layers",
    )
    for name in ("T5", "MT5", "UMT5", "LongT5"):
        yield Architecture(f"{name}Model", f"{name}Config", T5, pair, t5, "encoder + 2 × decoder layers")
    yield Architecture(
        "SwitchTransformersModel",
        "SwitchTransformersConfig",
        T5 | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        pair,
        t5,
        "encoder + 2 × decoder layers",
    )
    yield Architecture(
        "ProphetNetModel",
        "ProphetNetConfig",
        {
            "vocab_size": 99,
            "hidden_size": 32,
            "decoder_start_token_id": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_encoder_layers": 2,
            "num_decoder_layers": 3,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "ngram": 2,
        },
        lambda: pair() | {"use_cache": False},
        lambda c: c.num_encoder_layers + 3 * c.num_decoder_layers,
        "decoder: main stream, all n-grams at once, cross",
    )
    yield Architecture(
        "PegasusXModel",
        "PegasusXConfig",
        SEQ2SEQ | {"block_size": 16, "num_global_tokens": 4},
        pair,
        twice,
        "encoder + 2 × decoder layers",
    )
    yield Architecture(
        "LEDModel", "LEDConfig", SEQ2SEQ | {"attention_window": [4, 4]}, pair, twice, "encoder + 2 × decoder layers"
    )
