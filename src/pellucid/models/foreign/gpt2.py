"""GPT-2 (Radford et al. 2019): pre-norm, learned positions, weights stored as (in, out), q, k and v side by side."""

from __future__ import annotations

from pellucid.config.model import Decoder, Language, Model, NormalInit, Tokens
from pellucid.config.parts import FeedForward, LayerNorm, Learned, Stack
from pellucid.models.foreign.layout import Folder, Layout, Written, heads
from pellucid.models.foreign.settings import ACTIVATION_NAMES
from pellucid.models.foreign.table import Table, module


def read(folder: Folder) -> Decoder:
    """The config of a GPT-2 folder."""
    settings = folder.settings
    folder.purpose("LMHeadModel", "Model")
    settings.fixed("scale_attn_weights", True)
    settings.fixed("scale_attn_by_inverse_layer_idx", False)
    settings.unused("reorder_and_upcast_attn", "n_ctx")
    settings.unused(*(name for name in settings.values if name.startswith("summary_")))
    width, number = settings.get("n_embd", 768), settings.get("n_head", 12)
    dropout = settings.get("resid_pdrop", 0.1)
    stack = Stack(
        d_model=width,
        num_layers=settings.layers("n_layer", 12),
        attention=heads(settings, number, number, width, None, dropout=settings.get("attn_pdrop", 0.1)),
        feed_forward=FeedForward(
            d_ff=settings.get("n_inner", 4 * width), activation=settings.activation("activation_function", "gelu_new")
        ),
        positions=Learned(max_length=settings.get("n_positions", 1024)),
        norm=LayerNorm(epsilon=settings.get("layer_norm_epsilon", 1e-5)),
        placement="pre",
        dropout=dropout,
    )
    front = Tokens(vocab_size=settings.get("vocab_size", 50_257), dropout=settings.get("embd_pdrop", 0.1))
    tied = settings.get("tie_word_embeddings", True)
    return Decoder(
        front=front,
        stack=stack,
        head=Language(),
        tie=("target", "output") if tied else (),
        init=NormalInit(scaled_residual=True),
    )


def table(model: Model) -> Table:
    """Which tensor is which parameter."""
    attention, feed_forward = "blocks.*.self_attention", "blocks.*.feed_forward"
    return (
        module("transformer.wte", "embedding.table"),
        module("transformer.wpe", "embedding.positions.table"),
        module("transformer.h.*.ln_1", f"{attention}_residual.before"),
        module(
            "transformer.h.*.attn.c_attn",
            f"{attention}.query",
            f"{attention}.key",
            f"{attention}.value",
            transposed=True,
        ),
        module("transformer.h.*.attn.c_proj", f"{attention}.out", transposed=True),
        module("transformer.h.*.ln_2", f"{feed_forward}_residual.before"),
        module("transformer.h.*.mlp.c_fc", f"{feed_forward}.up", transposed=True),
        module("transformer.h.*.mlp.c_proj", f"{feed_forward}.down", transposed=True),
        module("transformer.ln_f", "final_norm"),
        module("lm_head", "head.project"),
    )


def write(model: Model) -> Written | None:
    """The config.json of a decoder with learned positions."""
    if not isinstance(model, Decoder) or not isinstance(model.stack.positions, Learned):
        return None
    stack = model.stack
    return Written(
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": model.front.vocab_size,
            "n_positions": stack.max_length,
            "n_embd": stack.d_model,
            "n_layer": stack.num_layers,
            "n_head": stack.attention.num_heads,
            "n_inner": stack.feed_forward.d_ff,
            "activation_function": ACTIVATION_NAMES[stack.feed_forward.activation],
            "resid_pdrop": stack.dropout,
            "embd_pdrop": model.front.dropout,
            "attn_pdrop": stack.attention.dropout,
            "layer_norm_epsilon": stack.norm.epsilon,
            "tie_word_embeddings": bool(model.tie),
        }
    )


GPT2 = Layout(
    model_types=("gpt2",),
    read=read,
    table=table,
    write=write,
    prefix="transformer.",
    unread=("*attn.bias", "*attn.masked_bias", "*crossattention.bias", "*crossattention.masked_bias"),
)
