"""Llama and its kin: RMSNorm before each sub-layer, rotary positions by halves, gated feed-forward, grouped heads.

Touvron et al. 2023; Mistral adds a sliding window (Jiang et al. 2023), Qwen2 biases on q, k and v (Yang et al. 2024),
Qwen3 norms on the heads (Yang et al. 2025), Gemma 2 norms after each sub-layer, squashed scores and a window in every
second layer (Riviere et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.config.model import Decoder, Language, Model, NormalInit, Tokens
from pellucid.config.parts import FeedForward, Linear, Llama3, RMSNorm, Rotary, Stack
from pellucid.errors import ConfigError
from pellucid.models.foreign.layout import Folder, Layout, Written, heads
from pellucid.models.foreign.settings import ACTIVATION_NAMES, Settings
from pellucid.models.foreign.table import Table, module

LONGEST = 4096  # rotary positions have no limit of their own; the format wants a number, which warns of longer texts


@dataclass(frozen=True)
class Variant:
    """What makes each relative itself.

    Attributes:
        architecture: its name with a language head.
        query_bias: biases on q, k and v, though not on what they gather.
        biases: the settings by which biases can be switched on.
        head_norm: norms over each head of queries and keys.
        head_dim: where a config says none; ``None`` is the width over the heads.
        groups: key and value heads where a config says none; ``None`` is as many as query heads.
        window: how far a layer of the kind ``sliding_attention`` looks where a config says nothing.
        layers: the kinds of the layers, repeated, where a config lists none.
        listed: whether ``layer_types`` counts; elsewhere nobody reads it.
        switched: whether the windows are off unless ``use_sliding_window`` is set, and begin at ``max_window_layers``.
    """

    architecture: str
    query_bias: bool = False
    biases: tuple[str, ...] = ()
    head_norm: bool = False
    head_dim: int | None = None
    groups: int | None = None
    window: int | None = None
    layers: tuple[str, ...] = ("full_attention",)
    listed: bool = False
    switched: bool = False


VARIANTS: Mapping[str, Variant] = {
    "llama": Variant("LlamaForCausalLM", biases=("attention_bias", "mlp_bias")),
    "mistral": Variant("MistralForCausalLM", groups=8, window=4096, layers=("sliding_attention",)),
    "qwen2": Variant("Qwen2ForCausalLM", query_bias=True, window=4096, listed=True, switched=True),
    "qwen3": Variant(
        "Qwen3ForCausalLM",
        biases=("attention_bias",),
        head_norm=True,
        head_dim=128,
        window=4096,
        listed=True,
        switched=True,
    ),
    "gemma2": Variant(
        "Gemma2ForCausalLM",
        biases=("attention_bias",),
        head_dim=256,
        groups=4,
        window=4096,
        layers=("sliding_attention", "full_attention"),
        listed=True,
    ),
}


def read(folder: Folder) -> Decoder:
    """The config of a Llama, Mistral, Qwen2 or Qwen3 folder."""
    settings, variant = _opened(folder)
    settings.fixed("pretraining_tp", 1)
    stack = Stack(
        attention=_heads(settings, variant),
        feed_forward=FeedForward(
            d_ff=settings.get("intermediate_size", 11_008),
            activation=settings.activation("hidden_act", "silu"),
            gated=True,
            bias=_bias(settings, variant, "mlp_bias"),
        ),
        norm=RMSNorm(epsilon=settings.get("rms_norm_eps", 1e-6)),
        placement="pre",
        **_common(settings, variant),
    )
    return _decoder(settings, stack, Language(), scaled=False, tied=False)


def read_gemma2(folder: Folder) -> Decoder:
    """The config of a Gemma 2 folder."""
    settings, variant = _opened(folder)
    settings.fixed("use_bidirectional_attention", None, False)
    settings.unused("hidden_act")
    stack = Stack(
        attention=_heads(
            settings,
            variant,
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
        **_common(settings, variant),
    )
    head = Language(softcap=_cap(settings, "final_logit_softcapping", 30.0))
    return _decoder(settings, stack, head, scaled=True, tied=True)


def _opened(folder: Folder) -> tuple[Settings, Variant]:
    folder.purpose("ForCausalLM", "Model")
    return folder.settings, VARIANTS[folder.settings.values["model_type"]]


def _bias(settings: Settings, variant: Variant, name: str) -> bool:
    """A bias where the variant has a setting for it; elsewhere the setting must be off, since nobody reads it."""
    if name in variant.biases:
        return settings.get(name, False)
    settings.fixed(name, False)
    return False


def _heads(settings: Settings, variant: Variant, **given: Any) -> Any:
    number, width = settings.get("num_attention_heads", 32), settings.get("hidden_size", 4096)
    return heads(
        settings,
        number,
        settings.get("num_key_value_heads", variant.groups or number),
        width,
        settings.get("head_dim", variant.head_dim),
        bias=_bias(settings, variant, "attention_bias") or variant.query_bias,
        out_bias=False if variant.query_bias else None,
        qk_norm=variant.head_norm,
        dropout=settings.get("attention_dropout", 0.0),
        **given,
    )


def _common(settings: Settings, variant: Variant) -> dict[str, Any]:
    settings.unused("max_position_embeddings", "rope_theta", "sliding_window_pattern")
    return {
        "windows": _windows(settings, variant),
        "d_model": settings.get("hidden_size", 4096),
        "num_layers": settings.layers("num_hidden_layers", 32),
        "positions": rotary(settings),
    }


def _decoder(settings: Settings, stack: Stack, head: Language, *, scaled: bool, tied: bool) -> Decoder:
    tie = settings.get("tie_word_embeddings", tied)
    front = Tokens(vocab_size=settings.get("vocab_size", 32_000), scaled=scaled)
    return Decoder(front=front, stack=stack, head=head, tie=("target", "output") if tie else (), init=NormalInit())


def _cap(settings: Settings, name: str, default: float) -> float | None:
    given = name in settings.values and settings.maybe(name) is None
    return None if given else settings.get(name, default)


def _windows(settings: Settings, variant: Variant) -> tuple[int, ...]:
    """How far each layer looks: by ``layer_types`` where they are listed and count, else by the older settings."""
    layers = settings.layers("num_hidden_layers", 32)
    first = settings.get("max_window_layers", 28)  # Qwen's: the layers before this one look everywhere
    told = settings.get("sliding_window", 0) or None
    window = told if "sliding_window" in settings.values and variant.window else variant.window
    usual = [variant.layers[i % len(variant.layers)] for i in range(layers)]
    if variant.switched:
        window = window if settings.get("use_sliding_window", False) else None
        usual = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    else:
        settings.fixed("use_sliding_window", window is not None)
    kinds: list[str] = usual if (listed := settings.maybe("layer_types")) is None else listed
    known = {"sliding_attention": window or 0, "full_attention": 0}
    if len(kinds) != layers or not set(kinds) <= set(known):
        wanted = f"{layers} of " + ", ".join(known)
        raise ConfigError(f"{settings.where}: layer_types", f"found {kinds!r}", wanted)
    windows = tuple(known[kind] for kind in kinds)
    if not variant.listed and windows != tuple(known[kind] for kind in usual):
        found, wanted = f"found {', '.join(sorted(set(kinds)))}", f"{usual[0]} in every layer"
        hint = "take it out of the file: transformers do not read it of this model_type either"
        raise ConfigError(f"{settings.where}: layer_types", found, wanted, hint)
    period = next((n for n in range(1, layers + 1) if windows[n:] == windows[:-n]), 1)
    return windows[:period] or (0,)


def rotary(settings: Settings) -> Rotary:
    """Rotary positions, under the present setting ``rope_parameters`` or the older ``rope_scaling``.

    Raises:
        ConfigError: for a way of scaling that is not supported.
    """
    where = f"{settings.where}: rope_parameters"
    new, old = settings.maybe("rope_parameters") or {}, settings.maybe("rope_scaling") or {}
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        raise ConfigError(where, "found no table", "rope_type and what goes with it")
    nested = [value for value in new.values() if isinstance(value, Mapping)]
    if any(value != nested[0] for value in nested):
        raise ConfigError(where, "found different ones by kind of layer", "one for all layers")
    new = nested[0] if nested else new
    if old and any(name in new and new[name] != value for name, value in old.items()):
        raise ConfigError(where, "found others under rope_scaling", "one of the two, or the same in both")
    given = {**new, **old}
    base = float(given.get("rope_theta") or settings.values.get("rope_theta") or 10_000.0)
    # The relatives all turn the whole head.
    fraction = given.get("partial_rotary_factor") or settings.get("partial_rotary_factor", 1.0)
    if fraction != 1.0:
        raise ConfigError(where, f"found partial_rotary_factor {fraction}", "1.0")
    kind = given.get("rope_type", given.get("type", "default"))
    match kind:
        case "default":
            return Rotary(base=base)
        case "linear":
            return Rotary(base=base, scaling=Linear(factor=float(given["factor"])))
        case "llama3":
            original = given.get("original_max_position_embeddings") or settings.get("max_position_embeddings", 2048)
            scaling = Llama3(
                factor=float(given["factor"]),
                low=float(given["low_freq_factor"]),
                high=float(given["high_freq_factor"]),
                original_length=int(original),
            )
            return Rotary(base=base, scaling=scaling)
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
        kind = "qwen3"
    elif attention.bias and attention.out_bias is False:
        kind = "qwen2"
    else:
        kind = "llama" if everywhere else "mistral"
    kinds = ["sliding_attention" if stack.window(layer) else "full_attention" for layer in range(stack.num_layers)]
    sliding: dict[str, Any] = {"sliding_window": max(stack.windows) or None}
    if kind.startswith("qwen"):
        sliding |= {"use_sliding_window": not everywhere, "layer_types": kinds}
    biases = {"attention_bias": attention.bias, "mlp_bias": stack.feed_forward.bias}
    return Written(
        {
            "model_type": kind,
            "architectures": [VARIANTS[kind].architecture],
            "hidden_act": ACTIVATION_NAMES[stack.feed_forward.activation],
            **{name: biases[name] for name in VARIANTS[kind].biases},
            **({} if kind == "llama" else sliding),
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
        **(_rope(stack.positions) if isinstance(stack.positions, Rotary) else {}),
        "max_position_embeddings": LONGEST,
        "tie_word_embeddings": bool(model.tie),
    }


def _rope(positions: Rotary) -> dict[str, Any]:
    """In the present words and in the older ones, which programs that were written before still read."""
    scaling: dict[str, Any] = {}
    match positions.scaling:
        case Linear(factor=factor):
            scaling = {"rope_type": "linear", "factor": factor}
        case Llama3(factor=factor, low=low, high=high, original_length=length):
            scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
            scaling["original_max_position_embeddings"] = length
    partial = {} if positions.fraction == 1.0 else {"partial_rotary_factor": positions.fraction}
    new = {"rope_theta": positions.base, "rope_type": "default", **scaling, **partial}
    return {"rope_parameters": new, "rope_theta": positions.base, **({"rope_scaling": scaling} if scaling else {})}


LLAMA = Layout(
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    read=read,
    table=table,
    write=write,
    prefix="model.",
    unread=("*.rotary_emb.inv_freq",),
)

GEMMA2 = Layout(model_types=("gemma2",), read=read_gemma2, table=table_gemma2, write=write_gemma2, prefix="model.")
