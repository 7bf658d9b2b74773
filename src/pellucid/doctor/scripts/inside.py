"""What a script sees of attention: ``attention``, by standing in for softmax and fused attention during one pass."""

from __future__ import annotations

from pellucid.doctor.scripts.definition import Definition

ATTENTION = Definition(
    """
def attention(ids):  # scores and weights (B, H, T, S) of every place that attends, in the order computed
    seen, kept = [], (torch.softmax, torch.Tensor.softmax, F.scaled_dot_product_attention)

    def softmax(scores, *given, **named):
        weights = kept[1](scores, *given, **named)
        seen.append((scores, weights))
        return weights

    def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **named):
        keys = k.repeat_interleave(q.size(-3) // k.size(-3), -3).transpose(-2, -1)
        scores = q @ keys * (q.size(-1) ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
        seen.append((scores, kept[1](scores, -1)))
        return kept[2](q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **named)

    torch.softmax = torch.Tensor.softmax = softmax
    F.scaled_dot_product_attention = attend
    try:
        call(ids)
    finally:
        torch.softmax, torch.Tensor.softmax, F.scaled_dot_product_attention = kept
    return seen
""".strip(),
    ("import torch.nn.functional as F",),
)
