"""Are heads pieces of the channels?

A reshape of (B, T, H·K) to (B, H, T, K) without a transpose runs as well, and every head then holds a piece of the
text. An encoder does not show it in its outputs.
"""

from __future__ import annotations

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.heads import reshaped
from pellucid.doctor.subject import Subject

CHECK = Check("attn.heads", "quick", "Are heads pieces of the channels, and not of the text?")
DONE = "looked for the values of every head in what projections returned, and for contexts in what they were given"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares numbers: those of a head must be neighbouring channels of each token."""
    if subject.attention is None:
        return CHECK.skipped("a callable shows nothing of its attention", "a module in place of a callable")
    if not subject.attention.sites:
        return CHECK.skipped(f"no attention is understood here: {subject.attention.coverage}")
    found = reshaped(subject)
    if found is None:
        return CHECK.passed(DONE, "none is a reshape without a transpose", sites=len(subject.attention.sites))
    site, how = found
    heads, width = site.context.size(1), site.context.size(3)
    return CHECK.failed(
        DONE,
        f"in {site.name} heads are {how} by a reshape alone: what should be one token is pieces of several",
        where=f"{site.name} ({site.module})",
        cause="view or reshape between (B, T, H·K) and (B, H, T, K), without the transpose of the two axes",
        fix=f"x.view(B, T, {heads}, {width}).transpose(1, 2) to split heads; x.transpose(1, 2).reshape(B, T, "
        f"{heads * width}) to join them",
        references=("jsbaan/transformer-from-scratch#6", "ajhalthor/Transformer-Neural-Network#4"),
        evidence={"site": site.name, "how": how},
        script=SCRIPT,
    )


SCRIPT = """
model.eval()
heads, flat = [], []


def watched(function):
    def run(*given, **named):
        found = function(*given, **named)
        heads.extend(x for x in (*given, found) if torch.is_tensor(x) and x.dim() == 4)
        return found

    return run


owners = [(torch, "matmul"), (torch.Tensor, "__matmul__"), (torch.nn.functional, "scaled_dot_product_attention")]
for owner, name in owners:
    setattr(owner, name, watched(getattr(owner, name)))
for part in model.modules():
    part.register_forward_hook(lambda part, given, found: flat.extend([*given, found]))
call(sample(1))
for x in heads:
    B, H, T, K = x.shape
    for y in (y for y in flat if torch.is_tensor(y) and y.shape[:2] == (B, T) and y.dim() == 3):
        parts = [piece for piece in y.split(H * K, -1) if H > 1 and piece.size(-1) == H * K]
        assert not any(torch.equal(piece.reshape(x.shape), x) for piece in parts), "a reshape without a transpose"
"""
