"""What moves what: is the picture that of the kind it is meant to be?

Row: the position that moves; column: the token replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("influence.map", "quick", "Does each position depend on those that it should?")


@CHECK
def answer(subject: Subject) -> Finding:
    """Classifies the picture and compares it with the kind and the window."""
    if not subject.per_position or subject.spec.example is not None:
        return CHECK.skipped("there is no output for every position")
    influence = subject.influence
    shape = classified(influence > 0)
    done = f"replaced each of {influence.size(0)} tokens alone and noted which outputs moved"
    rows = [[float(f"{value:.3g}") for value in row] for row in influence.tolist()]
    evidence: dict[str, object] = {"shape": shape, "map": rows}
    if fault := _fault(subject, influence > 0, shape):
        return _failed(done, fault, evidence)
    return CHECK.passed(done, f"the picture is a {shape}", **evidence)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a picture: what is seen in it, the usual cause, and the law that it breaks, as Python."""

    seen: str
    cause: str
    law: str


def _fault(subject: Subject, seen: Tensor, shape: str) -> Fault | None:
    spec, length, first = subject.spec, seen.size(0), subject.spec.prefix or 0
    if shape == "diagonal" and length > 1:
        return Fault(
            "every output depends on its own token alone: positions are never mixed",
            "attention does not reach the residual stream, or weights are those of one key only",
            'assert (moved & ~torch.eye(len(moved), dtype=torch.bool)).any(), "positions are never mixed"',
        )
    if spec.kind == "encoder" and shape in ("lower triangle", "upper triangle", "band, lower"):
        return Fault(
            f"the picture is a {shape}: an encoder that reads one way only",
            "a causal mask is left in an encoder: is_causal=True, or a mask of triu taken over from a decoder",
            'assert moved.triu(1).any() and moved.tril(-1).any(), "every position sees one side alone"',
        )
    if subject.writes and (ahead := _ahead(seen, first)):
        return Fault(
            f"the picture is a {shape}: {ahead}",
            "the mask is missing, or of the wrong polarity: True means keep in scaled_dot_product_attention, and drop "
            "in nn.MultiheadAttention; or something besides attention mixes over time",
            f'assert not moved[:, {first}:].triu(1 - {first}).any(), "positions see the future"',
        )
    if spec.kind in ("decoder", "encoder_decoder") and length > 2 and not bool(seen.tril(-1).any()):
        law = 'assert moved.tril(-1).any(), "no output depends on an earlier token"'
        return Fault("no output depends on an earlier token", "the past is hidden as well", law)
    return _beyond(subject, seen)


def _beyond(subject: Subject, seen: Tensor) -> Fault | None:
    """A token that is seen from farther than all windows reach one after another."""
    spec, layers = subject.spec, _layers(subject)
    if not all(spec.windows) or not layers or _otherwise(subject):
        return None
    reach = sum(spec.windows[layer % len(spec.windows)] - 1 for layer in range(layers))
    far = torch.ones_like(seen).tril(-reach - 1) & seen
    if not bool(far.any()):
        return None
    distance = max(int(i - j) for i, j in far.nonzero())
    return Fault(
        f"a token moves outputs {distance} positions later; {layers} layers of windows of {spec.widest} reach {reach}",
        "the window is not applied on this path, or is wider than declared",
        f'assert not moved.tril({-reach - 1}).any(), "a token is seen from beyond the reach of the windows"',
    )


def _ahead(seen: Tensor, prefix: int) -> str:
    """How much of the future moves outputs, in words; a prefix may be seen from everywhere."""
    ones = torch.ones_like(seen).triu(1)
    ones[:, :prefix] = False
    future = seen & ones
    if not bool(future.any()):
        return ""
    if not bool(seen.tril(-1).any()):
        return "positions see the future alone"
    row, column = future.nonzero()[0].tolist()
    return f"{float(future.sum() / ones.sum()):.0%} of the future is seen, such as token {column} from position {row}"


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


def _otherwise(subject: Subject) -> bool:
    """Whether something else than attention carries tokens on: convolutions, recurrences."""
    return subject.module is not None and any(isinstance(m, nn.Conv1d | nn.RNNBase) for m in subject.module.modules())


def _layers(subject: Subject) -> int:
    """How many times it attends to itself, one after another."""
    found = subject.attention
    return 0 if found is None else sum(site.q.size(2) == site.k.size(2) == subject.length for site in found.sites)


def _failed(done: str, fault: Fault, evidence: dict[str, object]) -> Finding:
    return CHECK.failed(
        done,
        fault.seen,
        cause=fault.cause,
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
{fault.law}
""",
    )
