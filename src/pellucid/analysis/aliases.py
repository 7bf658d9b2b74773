"""A tape under the names that TransformerLens gives to the same tensors (Nanda & Bloom 2022), in its layout of heads.

Where that library has no such tensor (cross-attention, the encoder of an encoder–decoder) the same grammar goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

HEADS = frozenset({"attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_z"})
"""There (B, T, H, K), here (B, H, T, K)."""

_ATTENTION = {
    "q_projected": "hook_q",
    "k_projected": "hook_k",
    "v_new": "hook_v",
    "q": "hook_rot_q",
    "k_new": "hook_rot_k",
    "scores": "hook_attn_scores",
    "weights": "hook_pattern",
    "context": "hook_z",
}

_BLOCK = {
    "residual_pre": "hook_resid_pre",
    **{f"self_attention.{ours}": f"attn.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"cross_attention.{ours}": f"cross_attn.{theirs}" for ours, theirs in _ATTENTION.items()},
    "self_attention.out": "hook_attn_out",
    "cross_attention.out": "hook_cross_attn_out",
    "residual_mid": "hook_resid_mid",
    "residual_cross": "hook_resid_cross",
    "feed_forward.out": "hook_mlp_out",
    "feed_forward.hidden": "mlp.hook_post",
    "residual_post": "hook_resid_post",
    # A norm stands before its sub-layer or after the sum, under one name.
    "self_attention_residual.before.out": "ln1.hook_out",
    "self_attention_residual.after.out": "ln1.hook_out",
    "cross_attention_residual.before.out": "ln_cross.hook_out",
    "cross_attention_residual.after.out": "ln_cross.hook_out",
    "feed_forward_residual.before.out": "ln2.hook_out",
    "feed_forward_residual.after.out": "ln2.hook_out",
}

_REST = {
    "embedding.tokens": "embed.hook_out",
    "embedding.norm.out": "embed_ln.hook_out",
    "final_norm.out": "ln_final.hook_out",
    "logits": "hook_unembed",
}

_BLOCK_NAME = re.compile(r"(?P<tower>(?:encoder\.|decoder\.)?)(?P<block>blocks\.\d+\.)(?P<rest>[^@]+)(?P<step>@\d+)?")
_OTHER_NAME = re.compile(r"(?P<tower>(?:encoder\.|decoder\.)?)(?P<rest>[^@]+)(?P<step>@\d+)?")


def lens_names(names: Iterable[str]) -> dict[str, str]:
    """Their name for each of ours that has one.

    In a gated feed-forward ``hook_pre`` is the gate and ``hook_pre_linear`` what it lets through.
    """
    ours = list(names)
    gated = {name.removesuffix("gate") for name in ours if name.endswith("feed_forward.gate")}
    pairs = ((name, _theirs(name, gated)) for name in ours)
    return {name: theirs for name, theirs in pairs if theirs is not None}


def _theirs(name: str, gated: set[str]) -> str | None:
    if (found := _BLOCK_NAME.fullmatch(name)) is not None:
        theirs = _BLOCK.get(found["rest"])
        if found["rest"] in ("feed_forward.pre", "feed_forward.gate"):
            through = found["rest"].endswith("pre") and name.removesuffix("pre") in gated
            theirs = "mlp.hook_pre_linear" if through else "mlp.hook_pre"
        return theirs and f"{found['tower']}{found['block']}{theirs}{found['step'] or ''}"
    found = _OTHER_NAME.fullmatch(name)
    theirs = None if found is None else _REST.get(found["rest"])
    return theirs and f"{found['tower']}{theirs}{found['step'] or ''}" if found is not None else None


def lens_cache(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a tape under their names and in their layout: what analyses written for that library take."""
    named = lens_names(tensors)
    return {theirs: _laid_out(theirs, tensors[name]) for name, theirs in named.items()}


def _laid_out(theirs: str, tensor: Tensor) -> Tensor:
    short = theirs.partition("@")[0]
    heads = any(short.endswith(hook.removeprefix("attn")) for hook in HEADS)
    return tensor.transpose(1, 2) if heads and tensor.dim() == 4 else tensor
