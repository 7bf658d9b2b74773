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


IMPORTS = ("import math", "import torch.nn.functional as F")
ATTENTION = """
def attention(ids):  # of every place that attends, in order: q @ k.T, scores, weights, each (B, H, T, S)
    T, seen, last, factors = torch.Tensor, [], [torch.zeros(())], {}
    names = {"scale": [(T, "__mul__"), (T, "__rmul__"), (T, "__imul__"), (T, "mul"), (torch, "mul")],
             "divide": [(T, "__truediv__"), (T, "__itruediv__"), (T, "div"), (torch, "div")],
             "product": [(T, "__matmul__"), (T, "matmul"), (torch, "matmul"), (torch, "bmm"), (torch, "einsum")],
             "softmax": [(T, "softmax"), (torch, "softmax")], "fused": [(F, "scaled_dot_product_attention")]}

    def factor(x):  # what a tensor was multiplied by, the last thing before it was used
        return factors[id(x)][1] if id(x) in factors else 1.0

    def scaling(function, inverse):
        def run(x, other, **named):
            before, found = factor(x), function(x, other, **named)
            if torch.is_tensor(found) and not (torch.is_tensor(other) and other.dim()):
                factors[id(found)] = found, before * float(1 / other if inverse else other)
            return found
        return run

    def product(function):
        def run(*given, **named):
            found, operands = function(*given, **named), [x for x in given if torch.is_tensor(x)]
            if seen and operands and operands[0].shape == seen[-1][1].shape:  # weights @ v
                seen[-1][2] = operands[0]
            last[0] = found / math.prod(map(factor, operands))
            return found
        return run

    def softmax(function):
        def run(scores, *given, **named):
            weights = function(scores, *given, **named)
            seen.append([last[0] if last[0].shape == scores.shape else None, scores, weights])
            return weights
        return run

    def fused(function):
        def run(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **named):
            keys = k.repeat_interleave(q.size(-3) // k.size(-3), -3).transpose(-2, -1)
            products = matmul(q, keys)
            scores = products * (q.size(-1) ** -0.5 if scale is None else scale)
            if is_causal:
                scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
            if attn_mask is not None:
                boolean = attn_mask.dtype == torch.bool
                scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
            weights = torch.dropout(plain(scores, -1), dropout_p, dropout_p > 0)
            seen.append([products / factor(q) / factor(k), scores, weights])
            return function(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **named)
        return run

    kept = {(owner, name): getattr(owner, name) for group in names.values() for owner, name in group}
    matmul, plain = kept[torch, "matmul"], kept[T, "softmax"]
    stands = {"scale": lambda f: scaling(f, False), "divide": lambda f: scaling(f, True), "product": product,
              "softmax": softmax, "fused": fused}
    for group, places in names.items():
        for owner, name in places:
            setattr(owner, name, stands[group](kept[owner, name]))
    try:
        call(ids)
    finally:
        for (owner, name), function in kept.items():
            setattr(owner, name, function)
    return seen
""".strip()
