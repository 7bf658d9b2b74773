"""A module that attends as it is told to, and how it is looked at."""

import torch
import torch.nn.functional as F
from torch import nn

from pellucid.trace.finder import find_attention


class Head(nn.Module):
    """A module that attends as the function given does, and keeps its weights for comparison."""

    def __init__(self, attend, heads=4, groups=4):
        super().__init__()
        self.attend, self.heads, self.groups = attend, heads, groups
        self.q, self.k, self.v = nn.Linear(32, heads * 8), nn.Linear(32, groups * 8), nn.Linear(32, groups * 8)
        self.out = nn.Linear(heads * 8, 32)

    def forward(self, x, source=None):
        source = x if source is None else source
        q, k, v = (
            layer(y).unflatten(-1, (-1, 8)).transpose(1, 2)
            for layer, y in ((self.q, x), (self.k, source), (self.v, source))
        )
        context, self.weights = self.attend(q, k, v)
        return x + self.out(context.transpose(1, 2).flatten(2))


def plain(q, k, v):
    hidden = torch.ones(q.size(2), k.size(2), dtype=torch.bool).triu(1)
    w = (q @ k.transpose(-2, -1) * 8**-0.5).masked_fill(hidden, float("-inf")).softmax(-1)
    return w @ v, w


def fused(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options), None


def look(model, *args, grad=False, **kwargs):
    """What is found; the result must be that of an untraced run, bit for bit, and so must the random state after it."""
    torch.manual_seed(3)
    with torch.set_grad_enabled(grad):
        expected = model(*args, **kwargs)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    with torch.set_grad_enabled(grad):
        found = find_attention(model, *args, **kwargs)
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(tensors(found.output), tensors(expected), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad
    return found


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for item in items for tensor in tensors(item)]
