"""Do the weights of a query sum to one over the keys?"""

from __future__ import annotations

import torch

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("attn.softmax_axis", "quick", "Do the weights of each query sum to one?")


@CHECK
def answer(subject: Subject) -> Finding:
    """Sums weights over keys, and where that is not one, over queries and heads."""
    if subject.attention is None:
        return CHECK.skipped("a callable shows nothing of its attention", "a module in place of a callable")
    if "not_softmax" in subject.spec.declare or "sinks" in subject.spec.declare:
        return CHECK.skipped("weights are declared not to sum to one")
    sites = [site for site in subject.attention.sites if site.formula.sinks is None]
    if not sites:
        return CHECK.skipped(f"no attention is understood here: {subject.attention.coverage}")
    done, worst = f"summed the weights of every query in {len(sites)} places", 0.0
    for site in sites:
        weights = site.weights().double()
        sums = weights.sum(-1)
        away = float(torch.where(sums == 0, 0.0, (sums - 1).abs()).max())
        worst = max(worst, away)
        if away <= tolerances.ROW_SUM * 10:
            continue
        axis = {1: "heads", 2: "queries", 0: "rows of the batch"}
        over = next((name for dim, name in axis.items() if _ones(weights.sum(dim))), "")
        seen = f"in {site.name} they sum to something else by up to {away:.2g}" + (
            f": the softmax is over {over}" if over else ""
        )
        return CHECK.failed(
            done,
            seen,
            where=f"{site.name} ({site.module})",
            cause="the softmax is taken over another axis than that of the keys"
            if over
            else "weights are changed after the softmax: a mask applied to them, or a second scaling",
            fix="scores.softmax(dim=-1) for scores (B, H, T, S); masks before it",
            references=(
                "labmlai/annotated_deep_learning_paper_implementations#146",
                "lucidrains/memory-compressed-attention#2",
            ),
            evidence={"site": site.name, "away": away, "over": over},
            script="""
model.eval()
for _, _, weights in attention(sample(1)):
    away = (weights.sum(-1) - 1).abs().max()
    assert away < 1e-4, f"the weights of a query sum to something else than one, by up to {away:.3g}"
""",
        )
    return CHECK.passed(done, f"they sum to one within {worst:.1e}", sites=len(sites))


def _ones(sums: torch.Tensor) -> bool:
    return bool(torch.allclose(sums, torch.ones((), dtype=sums.dtype), atol=1e-4))
