"""What a script sees of attention: ``attention``, by standing in for products and softmaxes during one pass."""

from __future__ import annotations

from pellucid.doctor.scripts.definition import Definition
from pellucid.doctor.subject import Subject


def attention(subject: Subject) -> Definition:
    """Of a pass over ids; of an encoder–decoder over a source as well, where one is given."""
    if subject.spec.kind != "encoder_decoder":
        return Definition(ATTENTION, IMPORTS)
    text = ATTENTION.replace("def attention(ids):", "def attention(ids, source=None):")
    return Definition(text.replace("call(ids)", "call(ids) if source is None else translated(source, ids)"), IMPORTS)


IMPORTS = ("import torch.nn.functional as F",)
ATTENTION = """
def attention(ids):  # of every place that attends, in order: q @ k.T, scores, weights, each (B, H, T, S)
    names = [(torch.Tensor, "softmax"), (F, "scaled_dot_product_attention"), (torch, "softmax"), (torch, "matmul"),
             (torch.Tensor, "matmul"), (torch.Tensor, "__matmul__"), (torch, "bmm"), (torch, "einsum")]
    kept, seen, last = [getattr(owner, name) for owner, name in names], [], [torch.zeros(())]

    def softmax(scores, *given, **named):
        weights = kept[0](scores, *given, **named)
        seen.append([last[0] if last[0].shape == scores.shape else None, scores, weights])
        return weights

    def product(function):
        def run(*given, **named):
            last[0] = function(*given, **named)
            left = next((x for x in given if torch.is_tensor(x)), last[0])
            if seen and left.shape == seen[-1][1].shape:  # weights @ v, with what was done to the weights before
                seen[-1][2] = left
            return last[0]

        return run

    def fused(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **named):
        products = kept[5](q, k.repeat_interleave(q.size(-3) // k.size(-3), -3).transpose(-2, -1))
        scores = products * (q.size(-1) ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
        seen.append([products, scores, kept[0](scores, -1)])
        return kept[1](q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **named)

    for (owner, name), function in zip(names, kept):
        setattr(owner, name, softmax if name == "softmax" else fused if owner is F else product(function))
    try:
        call(ids)
    finally:
        for (owner, name), function in zip(names, kept):
            setattr(owner, name, function)
    return seen
""".strip()
