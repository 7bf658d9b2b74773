"""What moves what: is the picture that of the kind it is meant to be?

Row: the position that moves; column: the token replaced.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("influence.map", "quick", "Does each position depend on those that it should?")


@CHECK
def answer(subject: Subject) -> Finding:
    """Classifies the picture and compares it with the kind and the window."""
    spec = subject.spec
    if not subject.per_position or spec.example is not None:
        return CHECK.skipped("there is no output for every position")
    influence = subject.influence
    seen, length = influence > 0, influence.size(0)
    shape = classified(seen)
    done = f"replaced each of {length} tokens alone and noted which outputs moved"
    evidence = {"shape": shape, "map": [[float(f"{value:.3g}") for value in row] for row in influence.tolist()]}
    if shape == "diagonal" and length > 1:
        return _failed(
            done, "every output depends on its own token alone: positions are never mixed", evidence,
            "attention does not reach the residual stream, or weights are those of one key only",
            'assert (moved & ~torch.eye(len(moved), dtype=torch.bool)).any(), "positions are never mixed"',
        )  # fmt: skip
    if spec.kind == "encoder" and shape in ("lower triangle", "upper triangle", "band, lower"):
        return _failed(
            done, f"the picture is a {shape}: an encoder that reads one way only", evidence,
            "a causal mask is left in an encoder: is_causal=True, or a mask of triu taken over from a decoder",
            'assert moved.triu(1).any() and moved.tril(-1).any(), "every position sees one side alone"',
        )  # fmt: skip
    if spec.kind == "decoder" and shape == "upper triangle":
        return _failed(
            done, "the picture is an upper triangle: positions see the future alone", evidence,
            "the mask is of the wrong polarity: True means keep in scaled_dot_product_attention, and drop in "
            "nn.MultiheadAttention", 'assert not moved.triu(1).any(), "positions see the future"',
        )  # fmt: skip
    lower = seen.tril(-1)
    if spec.kind in ("decoder", "encoder_decoder") and length > 2 and not bool(lower.any()):
        law = 'assert moved.tril(-1).any(), "no output depends on an earlier token"'
        return _failed(done, "no output depends on an earlier token", evidence, "the past is hidden as well", law)
    layers = _layers(subject)
    if all(spec.windows) and layers:
        reach = sum(spec.windows[layer % len(spec.windows)] - 1 for layer in range(layers))
        far = torch.ones_like(seen).tril(-reach - 1) & seen
        if bool(far.any()):
            distance = max(int(i - j) for i, j in far.nonzero())
            return _failed(
                done, f"a token moves outputs {distance} positions later; {layers} layers with a window of {spec.widest} "
                f"reach {reach}", evidence, "the window is not applied on this path, or is wider than declared",
                f'assert not moved.tril({-reach - 1}).any(), "a token is seen from beyond the reach of the windows"',
            )  # fmt: skip
    return CHECK.passed(done, f"the picture is a {shape}", **evidence)


def classified(seen: Tensor) -> str:
    """A boolean map (T, T) in words."""
    length = seen.size(0)
    ones = torch.ones_like(seen)
    off = ~torch.eye(length, dtype=torch.bool, device=seen.device)
    if not bool((seen & off).any()):
        return "diagonal"
    ahead, behind = bool((seen & ones.triu(1)).any()), bool((seen & ones.tril(-1)).any())
    if ahead and behind:
        share = float((seen & ones.triu(1)).sum() / ones.triu(1).sum())
        return "full square" if bool(seen.all()) else f"square with {share:.0%} of the future"
    full = seen.tril().sum() >= ones.tril().sum() - length if behind else True
    if ahead:
        return "upper triangle"
    return "lower triangle" if full else "band, lower"


def _layers(subject: Subject) -> int:
    """How many times it attends to itself, one after another."""
    found = subject.attention
    return 0 if found is None else sum(site.q.size(2) == site.k.size(2) == subject.length for site in found.sites)


def _failed(done: str, seen: str, evidence: dict[str, object], cause: str, law: str) -> Finding:
    return CHECK.failed(
        done,
        seen,
        cause=cause,
        fix="draw the mask of every layer for one short text, and compare it with what the kind of model asks for",
        evidence=evidence,
        script=f"""
model.eval()
ids, base, columns = sample(1)[:1], call(sample(1)[:1]), []
for position in range(ids.size(1)):
    other = ids.clone()
    other[:, position] = sample(2)[0, position]
    columns.append((call(other) - base)[0].abs().amax(-1) > 0)
moved = torch.stack(columns, 1)  # row: the position that moves; column: the token replaced
print("\\n".join("".join(".#"[int(each)] for each in row) for row in moved))
{law}
""",
    )
