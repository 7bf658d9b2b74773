"""Attention that is one operation: PyTorch's fused kernels, its layers in one kernel, flex_attention, others' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.trace.formulas import UnclearError
from pellucid.trace.sites import TOLERANCE, Formula, Replay, Site, compared, divided, for_each_head, new_site, verify

_NAMES = {
    "q": ("query", "q", "queries"),
    "k": ("key", "k", "keys"),
    "v": ("value", "v", "values"),
    "mask": ("attn_mask", "attn_bias", "bias", "mask", "attention_mask"),
    "scale": ("scale", "softmax_scale", "sm_scale"),
    "causal": ("is_causal", "causal"),
    "dropout": ("dropout_p", "dropout"),
}
_FOLDED = ("_flash_attention_forward", "_efficient_attention_forward", "_cudnn_attention_forward")


def site_of(name: str, arguments: Mapping[str, Any], result: Any) -> Site | None:
    """The site of a fused operation; none for an operation that is not attention.

    Raises:
        UnclearError: for one that is, by its name, and cannot be read.
    """
    short = name.split("::")[-1]
    if short.endswith("_backward"):
        return None
    if short == "_native_multi_head_attention":
        return _native(arguments, result[0])
    if short == "_transformer_encoder_layer_fwd":
        return _layer(arguments, result)
    if short == "flex_attention":
        return _flex(arguments, result[0])
    operands = [argument(arguments, which) for which in ("q", "k", "v")]
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if len(tensors) == 3 and ("attention" in short or "attn" in short or not name.startswith("aten::")):
        return _kernel(name, tensors, arguments, result)
    if "attention" in short or "attn" in short:
        raise UnclearError(f"an operation {name}")
    return None


def argument(arguments: Mapping[str, Any], which: str) -> Any:
    """An argument under any of its names: q, k, v, mask, scale, causal, dropout."""
    return next((arguments[name] for name in _NAMES[which] if arguments.get(name) is not None), None)


def _kernel(name: str, operands: list[Tensor], arguments: Mapping[str, Any], result: Any) -> Site:
    context = result if isinstance(result, Tensor) else result[0]
    q, k, v = operands
    short = name.split("::")[-1]
    nested = any(x.is_nested for x in (q, k, v, context))
    if nested or any(x.dim() != 4 for x in (q, k, v, context)) or _is_ragged(arguments):
        raise UnclearError(f"{name} over sequences joined into one")
    scale = argument(arguments, "scale")
    formula = _masked(argument(arguments, "mask"), q.size(-1) ** -0.5 if scale is None else float(scale))
    formula = replace(formula, causal=bool(argument(arguments, "causal") or arguments.get("custom_mask_type") or False))
    dropout = float(argument(arguments, "dropout") or 0.0)
    label = f"aten.{short}" if name.startswith("aten::") else name.replace("::", ".")
    site = new_site(label, (q, k, v, context), formula, dropout=dropout)
    turned = replace(site, **{part: getattr(site, part).transpose(1, 2) for part in ("q", "k", "v", "context")})
    if short in _FOLDED:
        return verify(turned)  # (B, T, H, K)
    if name.startswith("aten::"):
        return verify(site)
    # Others' kernels take either order of axes: the numbers say which.
    found = [verify(one) for one in (site, turned) if _fits(one)]
    if not found:
        raise UnclearError(f"{name} with operands whose axes fit no attention")
    return next((one for one in found if one.verified), found[0])


def _fits(site: Site) -> bool:
    (b, h, t, width), (_, g, s, _) = site.q.shape, site.k.shape
    return (
        site.v.shape[:3] == (b, g, s) and site.context.shape[:3] == (b, h, t) and site.k.size(3) == width and h % g == 0
    )


def _is_ragged(arguments: Mapping[str, Any]) -> bool:
    return any(
        isinstance(value, Tensor) for key, value in arguments.items() if key.startswith(("cu_seq", "cum_seq", "seqlen"))
    )


def _masked(mask: Tensor | None, scale: float) -> Formula:
    """The formula of a mask that is boolean (True: look) or added."""
    if mask is None:
        return Formula(scale)
    mask = mask.detach()
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if mask.dtype == torch.bool:
        return Formula(scale, keep=mask)
    if bool(((mask == 0) | (mask == -torch.inf)).all()):
        return Formula(scale, keep=mask == 0)
    return Formula(scale, bias=mask)


def _native(a: Mapping[str, Any], result: Tensor) -> Site:
    """``nn.MultiheadAttention`` in one kernel: projections, attention and projection."""
    rows = [_padded(a[name])[0].double() for name in ("query", "key", "value")]
    site, out = _projected(rows, a, a["query"])
    found = compared(_real(out, a["query"]), _real(_padded(result)[0], a["query"]))
    return _judged(replace(site, kind="self" if a["query"] is a["value"] else "cross"), found, result.dtype)


def _layer(a: Mapping[str, Any], result: Tensor) -> Site:
    """``nn.TransformerEncoderLayer`` in one kernel: the whole layer, which is compared at its end."""
    x = _padded(a["src"])[0].double()

    def norm(x: Tensor, which: int) -> Tensor:
        weight, bias = a[f"norm_weight_{which}"].double(), a[f"norm_bias_{which}"].double()
        return F.layer_norm(x, x.shape[-1:], weight, bias, a["eps"])

    first = a["norm_first"]
    inside = norm(x, 1) if first else x
    site, out = _projected([inside] * 3, a, a["src"])
    x = x + out if first else norm(x + out, 1)
    hidden = F.linear(norm(x, 2) if first else x, a["ffn_weight_1"].double(), a["ffn_bias_1"].double())
    hidden = F.gelu(hidden) if a["use_gelu"] else F.relu(hidden)
    x = x + F.linear(hidden, a["ffn_weight_2"].double(), a["ffn_bias_2"].double())
    x = x if first else norm(x, 2)
    found = compared(_real(x, a["src"]), _real(_padded(result)[0], a["src"]))
    return _judged(replace(site, kind="self", kernel="aten._transformer_encoder_layer_fwd"), found, result.dtype)


def _projected(rows: list[Tensor], a: Mapping[str, Any], source: Tensor) -> tuple[Site, Tensor]:
    """The site inside, recomputed from the weights of ``nn.MultiheadAttention``, and its output in double precision."""
    heads = a.get("num_head") or a["num_heads"]
    weights, biases = a["qkv_weight"].double().chunk(3), a["qkv_bias"].double().chunk(3)
    q, k, v = (
        divided(F.linear(x, weight, bias), 2, (heads, -1)).transpose(1, 2)
        for x, weight, bias in zip(rows, weights, biases, strict=True)
    )
    formula = _hidden(a["mask"], a["mask_type"], q.size(-1) ** -0.5)
    if (keep := _padded(source)[1]) is not None:
        formula = replace(formula, keep=keep)
    context = formula.context(q, k, v)
    out = F.linear(context.transpose(1, 2).flatten(2), a["proj_weight"].double(), a["proj_bias"].double())
    shown = [x.to(a["qkv_weight"].dtype) for x in (q, k, v, context)]
    return new_site("aten._native_multi_head_attention", shown, formula), out


def _hidden(mask: Tensor | None, kind: int | None, scale: float) -> Formula:
    """Here a boolean mask is True where a key is hidden; ``kind`` says whether it is (T, S), (B, S) or (B, H, T, S)."""
    if mask is None:
        return Formula(scale)
    mask = mask[None, None] if kind == 0 else mask[:, None, None] if kind == 1 else mask
    return _masked(~mask if mask.dtype == torch.bool else mask, scale)


def _padded(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """(B, T, D), and for rows of different lengths which keys there are, (B, 1, 1, T)."""
    if not x.is_nested:
        return x, None
    lengths = x._nested_tensor_size()[:, 0].to(x.device)
    dense = torch.nested.to_padded_tensor(x, 0.0)
    return dense, (torch.arange(dense.size(1), device=x.device) < lengths[:, None])[:, None, None]


def _real(x: Tensor, source: Tensor) -> Tensor:
    """Without the rows that pad."""
    keep = _padded(source)[1]
    return x if keep is None else x[keep[:, 0, 0]]


def _judged(site: Site, found: float, dtype: torch.dtype) -> Site:
    limit = TOLERANCE.get(dtype, 1e-5)
    if found <= limit:
        return replace(site, deviation=found)
    why = f"the output recomputed from q, k and v differs by {found:.2g} of its largest value, above {limit:g}"
    return replace(site, deviation=found, why=why)


def _flex(arguments: Mapping[str, Any], context: Tensor) -> Site:
    """``flex_attention``, whose scores and mask are functions of places."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
    from torch.nn.attention.flex_attention import _vmap_for_bhqkv

    values = [*arguments.values()]
    q, k, v, change, blocks, scale = values[:6]
    buffers = [values[place] if len(values) > place else () for place in (7, 8)]
    shape = (q.size(0), q.size(1), q.size(2), k.size(2))
    places = [torch.arange(size, device=q.device) for size in shape]
    changed = _vmap_for_bhqkv(change, prefix=(0,), suffix=(None,) * len(buffers[0]))
    allowed = _vmap_for_bhqkv(blocks[-1], prefix=(), suffix=(None,) * len(buffers[1]))
    with TransformGetItemToIndex():
        keep = allowed(*places, *buffers[1]).expand(shape)
        nothing = torch.zeros(shape, dtype=torch.float32, device=q.device)
        bias = changed(nothing, *places, *buffers[0])
        products = q.float() @ for_each_head(k, q).float().mT * scale
        scores = changed(products, *places, *buffers[0])
    formula = Formula(scale, bias=bias if bool(bias.any()) else None, keep=None if bool(keep.all()) else keep)
    site = new_site("flex_attention", (q, k, v, context), formula)
    if torch.allclose(scores, products + bias, rtol=1e-4, atol=1e-5):
        return verify(site)
    scores = scores.masked_fill(~keep, -torch.inf)

    def weights() -> Tensor:
        return scores.softmax(-1).masked_fill(~keep.any(-1, keepdim=True), 0.0)

    found = compared(weights().double() @ for_each_head(v, q).double(), context)
    replayed = replace(site, formula=replace(formula, bias=None), replay=Replay(lambda: scores, weights, "score_mod"))
    return _judged(replayed, found, context.dtype)
