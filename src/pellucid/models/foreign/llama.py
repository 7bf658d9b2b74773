"""Llama and its kin: RMSNorm before each sub-layer, rotary positions by halves, gated feed-forward, grouped heads.

Touvron et al. 2023; Mistral adds a sliding window (Jiang et al. 2023), Qwen2 biases on q, k and v (Yang et al. 2024),
Qwen3 norms on the heads (Yang et al. 2025), Gemma 2 norms after each sub-layer, squashed scores and a window in every
second layer (Riviere et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.config.model import Decoder, Language, Model, NormalInit, Tokens
from pellucid.config.parts import FeedForward, Linear, Llama3, RMSNorm, Rotary, Stack
from pellucid.errors import ConfigError
from pellucid.models.foreign.layout import Folder, Layout, Written, heads
from pellucid.models.foreign.settings import ACTIVATION_NAMES, Settings
from pellucid.models.foreign.table import Table, module

LONGEST = 4096  # rotary positions have no limit of their own; the format wants a number, which warns of longer texts


def read(folder: Folder) -> Decoder:
    """The config of a Llama, Mistral, Qwen2 or Qwen3 folder."""
    settings = folder.settings
    folder.purpose("ForCausalLM", "Model")
    kind = settings.values.get("model_type")
    settings.fixed("pretraining_tp", 1)
    biased = settings.get("attention_bias", False)
    stack = Stack(
        attention=_heads(
            settings,
            bias=kind == "qwen2" or biased,
            out_bias=False if kind == "qwen2" else None,
            qk_norm=kind == "qwen3",
            head_dim=128 if kind == "qwen3" else None,
        ),
        feed_forward=FeedForward(
            d_ff=settings.get("intermediate_size", 11_008),
            activation=settings.activation("hidden_act", "silu"),
            gated=True,
            bias=settings.get("mlp_bias", False),
        ),
        norm=RMSNorm(epsilon=settings.get("rms_norm_eps", 1e-6)),
        placement="pre",
        windows=_windows(settings, "sliding_attention" if kind == "mistral" else "full_attention"),
        **_common(settings),
    )
    return _decoder(settings, stack, Language(), scaled=False, tied=False)


def read_gemma2(folder: Folder) -> Decoder:
    """The config of a Gemma 2 folder."""
    settings = folder.settings
    folder.purpose("ForCausalLM", "Model")
    settings.fixed("use_bidirectional_attention", None, False)
    settings.unused("hidden_act", "cache_implementation")
    stack = Stack(
        attention=_heads(
            settings,
            bias=settings.get("attention_bias", False),
            head_dim=256,
            scale=settings.get("query_pre_attn_scalar", 256) ** -0.5,
            softcap=_cap(settings, "attn_logit_softcapping", 50.0),
        ),
        feed_forward=FeedForward(
            d_ff=settings.get("intermediate_size", 9216),
            activation=settings.activation("hidden_activation", "gelu_pytorch_tanh"),
            gated=True,
            bias=False,
        ),
        norm=RMSNorm(epsilon=settings.get("rms_norm_eps", 1e-6), plus_one=True),
        placement="both",
        windows=_windows(settings, "sliding_attention", "full_attention"),
        **_common(settings),
    )
    head = Language(softcap=_cap(settings, "final_logit_softcapping", 30.0))
    return _decoder(settings, stack, head, scaled=True, tied=True)


def _heads(settings: Settings, *, head_dim: int | None, **given: Any) -> Any:
    number, width = settings.get("num_attention_heads", 32), settings.get("hidden_size", 4096)
    groups = settings.get("num_key_value_heads", number)
    head_dim = settings.get("head_dim", head_dim)
    return heads(settings, number, groups, width, head_dim, dropout=settings.get("attention_dropout", 0.0), **given)


def _common(settings: Settings) -> dict[str, Any]:
    settings.unused("max_position_embeddings", "rope_theta", "sliding_window_pattern")
    return {
        "d_model": settings.get("hidden_size", 4096),
        "num_layers": settings.get("num_hidden_layers", 32),
        "positions": rotary(settings),
    }


def _decoder(settings: Settings, stack: Stack, head: Language, *, scaled: bool, tied: bool) -> Decoder:
    tie = settings.get("tie_word_embeddings", tied)
    front = Tokens(vocab_size=settings.get("vocab_size", 32_000), scaled=scaled)
    return Decoder(front=front, stack=stack, head=head, tie=("target", "output") if tie else (), init=NormalInit())


def _cap(settings: Settings, name: str, default: float) -> float | None:
    given = name in settings.values and settings.maybe(name) is None
    return None if given else settings.get(name, default)


def _windows(settings: Settings, *default: str) -> tuple[int, ...]:
    """How far each layer looks: by ``layer_types`` where they are listed, else by the older settings."""
    layers = settings.get("num_hidden_layers", 32)
    window: int | None = settings.maybe("sliding_window")
    if not settings.get("use_sliding_window", settings.values.get("model_type") not in ("qwen2", "qwen3")):
        window = None
    first = settings.get("max_window_layers", 28)  # Qwen's: the layers before this one look everywhere
    kinds: list[str] | None = settings.maybe("layer_types")
    if kinds is None:
        kinds = [default[i % len(default)] for i in range(layers)]
        if settings.values.get("use_sliding_window"):
            kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    known = {"sliding_attention": window or 0, "full_attention": 0}
    if unknown := sorted(set(kinds) - set(known)):
        raise ConfigError(f"{settings.where}: layer_types", f"found {', '.join(unknown)}", "one of " + ", ".join(known))
    windows = tuple(known[kind] for kind in kinds)
    period = next(n for n in range(1, layers + 1) if windows == (windows[:n] * layers)[:layers])
    return windows[:period]


def rotary(settings: Settings) -> Rotary:
    """Rotary positions, under the present setting ``rope_parameters`` or the older ``rope_scaling``.

    Raises:
        ConfigError: for a way of scaling that is not supported.
    """
    given: Mapping[str, Any] = settings.maybe("rope_parameters") or settings.maybe("rope_scaling") or {}
    settings.unused("rope_scaling")
    where = f"{settings.where}: rope_parameters"
    nested = [value for value in given.values() if isinstance(value, Mapping)]
    if nested:
        if any(value != nested[0] for value in nested):
            raise ConfigError(where, "found different ones by kind of layer", "one for all layers")
        given = nested[0]
    base = float(given.get("rope_theta", settings.values.get("rope_theta") or 10_000.0))
    fraction = float(given.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1.0)))
    kind = given.get("rope_type", given.get("type", "default"))
    match kind:
        case "default":
            return Rotary(base=base, fraction=fraction)
        case "linear":
            return Rotary(base=base, fraction=fraction, scaling=Linear(factor=float(given["factor"])))
        case "llama3":
            original = given.get("original_max_position_embeddings") or settings.get("max_position_embeddings", 2048)
            scaling = Llama3(
                factor=float(given["factor"]),
                low=float(given["low_freq_factor"]),
                high=float(given["high_freq_factor"]),
                original_length=int(original),
            )
            return Rotary(base=base, fraction=fraction, scaling=scaling)
        case _:
            raise ConfigError(where, f"found rope_type {kind!r}", "default, linear or llama3")


def table(model: Model) -> Table:
    """Which tensor is which parameter."""
    norms: tuple[str, ...] = ("self_attention_residual.before", "feed_forward_residual.before")
    return _table({"input_layernorm": norms[0], "post_attention_layernorm": norms[1]})


def table_gemma2(model: Model) -> Table:
    """The same, with a norm on each side of each sub-layer."""
    return _table(
        {
            "input_layernorm": "self_attention_residual.before",
            "post_attention_layernorm": "self_attention_residual.output",
            "pre_feedforward_layernorm": "feed_forward_residual.before",
            "post_feedforward_layernorm": "feed_forward_residual.output",
        }
    )


def _table(norms: Mapping[str, str]) -> Table:
    block, attention, feed_forward = "model.layers.*", "blocks.*.self_attention", "blocks.*.feed_forward"
    return (
        module("model.embed_tokens", "embedding.table"),
        module(f"{block}.self_attn.q_proj", f"{attention}.query"),
        module(f"{block}.self_attn.k_proj", f"{attention}.key"),
        module(f"{block}.self_attn.v_proj", f"{attention}.value"),
        module(f"{block}.self_attn.o_proj", f"{attention}.out"),
        module(f"{block}.self_attn.q_norm", f"{attention}.query_norm"),
        module(f"{block}.self_attn.k_norm", f"{attention}.key_norm"),
        module(f"{block}.mlp.gate_proj", f"{feed_forward}.gate"),
        module(f"{block}.mlp.up_proj", f"{feed_forward}.up"),
        module(f"{block}.mlp.down_proj", f"{feed_forward}.down"),
        *(module(f"{block}.{theirs}", f"blocks.*.{ours}") for theirs, ours in norms.items()),
        module("model.norm", "final_norm"),
        module("lm_head", "head.project"),
    )


def write(model: Model) -> Written | None:
    """The config.json of a decoder with rotary positions, under the name of the relative that has its parts."""
    if not isinstance(model, Decoder) or not isinstance(model.stack.positions, Rotary):
        return None
    stack, attention = model.stack, model.stack.attention
    everywhere = set(stack.windows) == {0}
    if attention.qk_norm:
        kind, name = "qwen3", "Qwen3ForCausalLM"
    elif attention.bias and attention.out_bias is False:
        kind, name = "qwen2", "Qwen2ForCausalLM"
    else:
        kind, name = ("llama", "LlamaForCausalLM") if everywhere else ("mistral", "MistralForCausalLM")
    kinds = ["sliding_attention" if stack.window(layer) else "full_attention" for layer in range(stack.num_layers)]
    sliding: dict[str, Any] = {"sliding_window": max(stack.windows) or None}
    if kind.startswith("qwen"):
        sliding |= {"use_sliding_window": not everywhere, "layer_types": kinds}
    biases = {} if kind == "qwen2" else {"attention_bias": attention.bias}
    return Written(
        {
            "model_type": kind,
            "architectures": [name],
            "hidden_act": ACTIVATION_NAMES[stack.feed_forward.activation],
            "mlp_bias": stack.feed_forward.bias,
            **({} if kind == "llama" else sliding),
            **biases,
            **_written(model),
        }
    )


def write_gemma2(model: Model) -> Written | None:
    """The config.json of a decoder with norms on both sides."""
    if not isinstance(model, Decoder) or model.stack.placement != "both":
        return None
    stack, attention = model.stack, model.stack.attention
    kinds = ["sliding_attention" if stack.window(layer) else "full_attention" for layer in range(stack.num_layers)]
    scale = stack.head_dim**-0.5 if attention.scale is None else attention.scale
    return Written(
        {
            "model_type": "gemma2",
            "architectures": ["Gemma2ForCausalLM"],
            "hidden_activation": ACTIVATION_NAMES[stack.feed_forward.activation],
            "attention_bias": attention.bias,
            "query_pre_attn_scalar": round(scale**-2),
            "attn_logit_softcapping": attention.softcap,
            "final_logit_softcapping": model.head.softcap,
            "sliding_window": max(stack.windows) or None,
            "layer_types": kinds,
            **_written(model),
        }
    )


def _written(model: Decoder) -> dict[str, Any]:
    """What all of them say in the same words."""
    stack = model.stack
    return {
        "vocab_size": model.front.vocab_size,
        "hidden_size": stack.d_model,
        "intermediate_size": stack.feed_forward.d_ff,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.attention.num_heads,
        "num_key_value_heads": stack.num_kv_heads,
        "head_dim": stack.head_dim,
        "rms_norm_eps": stack.norm.epsilon,
        "attention_dropout": stack.attention.dropout,
        "rope_parameters": _rope(stack.positions) if isinstance(stack.positions, Rotary) else None,
        "max_position_embeddings": LONGEST,
        "tie_word_embeddings": bool(model.tie),
    }


def _rope(positions: Rotary) -> dict[str, Any]:
    base = {"rope_theta": positions.base, "rope_type": "default"}
    base |= {"partial_rotary_factor": positions.fraction} if positions.fraction != 1.0 else {}
    match positions.scaling:
        case None:
            return base
        case Linear(factor=factor):
            return base | {"rope_type": "linear", "factor": factor}
        case Llama3(factor=factor, low=low, high=high, original_length=length):
            frequencies = {"low_freq_factor": low, "high_freq_factor": high}
            original = {"original_max_position_embeddings": length}
            return base | {"rope_type": "llama3", "factor": factor, **frequencies, **original}


LLAMA = Layout(
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    read=read,
    table=table,
    write=write,
    prefix="model.",
    unread=("*.rotary_emb.inv_freq",),
)

GEMMA2 = Layout(model_types=("gemma2",), read=read_gemma2, table=table_gemma2, write=write_gemma2, prefix="model.")
