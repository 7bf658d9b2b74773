"""Do the weights of a query sum to one over the keys?"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.softmaxes import softmaxes
from pellucid.doctor.subject import Subject
from pellucid.trace.sites import Site

CHECK = Check("attn.softmax_axis", "quick", "Do the weights of each query sum to one?")
REFERENCES = ("labmlai/annotated_deep_learning_paper_implementations#146", "lucidrains/memory-compressed-attention#2")
SCRIPT = """
model.eval()
found = attention(sample(1))
assert found, "no softmax is taken of scores"
for _, scores, weights in found:
    away = (weights.sum(-1) - 1).abs().max()
    assert away < 1e-4, f"the weights of a query sum to something else than one, by up to {away:.3g}"
    assert (scores < 0).any() or (scores > 1).any(), "a softmax is taken of what is one already"
"""
AXES = {1: "heads", 2: "queries", 0: "rows of the batch"}


@CHECK
def answer(subject: Subject) -> Finding:
    """Sums weights over keys, and where that is not one, over queries and heads."""
    if subject.attention is None:
        return CHECK.skipped("a callable shows nothing of its attention", "a module in place of a callable")
    if "not_softmax" in subject.spec.declare or "sinks" in subject.spec.declare:
        return CHECK.skipped("weights are declared not to sum to one")
    bare, twice = softmaxes(subject)
    if twice:
        return _plainly(f"in {twice} a softmax is taken of what is one already", twice, TWICE)
    if bare and not subject.attention.sites:
        return _plainly(f"in {bare} scores meet the values without a softmax", bare, "the softmax was forgotten")
    sites = [site for site in subject.attention.sites if site.formula.sinks is None]
    if not sites:
        return CHECK.skipped(f"no attention is understood here: {subject.attention.coverage}")
    done, worst, gated = f"summed the weights of every query in {len(sites)} places", 0.0, ""
    for site in sites:
        weights = site.weights().double()
        sums = weights.sum(-1)
        away = float(torch.where(sums == 0, 0.0, (sums - 1).abs()).max())
        if not away <= tolerances.ROW_SUM * 10:  # NaN, as of a softmax over what is -inf throughout, is no sum of one
            over = next((name for dim, name in AXES.items() if _ones(weights.sum(dim))), "")
            if not over and not site.verified and site.replay is not None and site.replay.step == "cat":
                continue  # one softmax over these keys and others, as of a few global ones and a block
            seen = f"in {site.name} they sum to something else by up to {away:.2g}"
            if not over and _are_differences(site, weights, sums):
                gated = gated or f"{seen}, as differences of two softmaxes do"
                continue
            return _failed(site, done, seen + (f": the softmax is over {over}" if over else ""), away, over)
        worst = max(worst, away)
        changed, known = _changed(site, weights)
        if changed and not known:
            return _failed(site, done, f"in {site.name} they are multiplied by {changed} after the softmax", 0.0, "")
        gated = gated or (f"in {site.name} they are multiplied by {changed} after the softmax" if changed else "")
    if gated:
        return CHECK.warned(done, gated, fix='declare it if it is meant so: declare={"not_softmax"}')
    return CHECK.passed(done, f"they sum to one within {worst:.1e}", sites=len(sites))


TWICE = "what the first softmax hid gets weight from the second, and all keys get nearly the same"


def _plainly(seen: str, where: str, cause: str) -> Finding:
    return CHECK.failed(
        "followed the products of every query with every key to the values",
        seen,
        where=where,
        cause=cause,
        fix='weights = scores.softmax(dim=-1), once; if it is meant so, declare it: declare={"not_softmax"}',
        references=REFERENCES,
        evidence={"module": where},
        script=SCRIPT,
    )


def _changed(site: Site, weights: Tensor) -> tuple[str, bool]:
    """What weights are multiplied by, in words, and whether that may be a gate: one number for all keys of a query.

    A mask that is applied again after the softmax, against NaN, changes nothing.
    """
    if site.formula.factor is None:
        return "", False
    factor = site.formula.factor.double()
    if bool((weights * factor == weights).all()):
        return "", False
    if factor.size(-1) > 1 and bool((factor != factor[..., :1]).any()):
        hidden = bool(((factor == 0) | (factor == factor.max())).all())
        return ("a mask" if hidden else "numbers that differ from key to key"), False
    same = bool((factor == factor.flatten()[0]).all())
    return (f"{float(factor.flatten()[0]):.3g}", False) if same else ("a gate", True)


def _are_differences(site: Site, weights: Tensor, sums: Tensor) -> bool:
    """Whether those of every query have one sum between 0 and 1, and are put together or below zero here and there."""
    together = site.replay is not None and site.replay.step == "cat"
    same = float((sums - sums[..., :1]).abs().max()) <= 1e-4
    return (together or bool((weights < 0).any())) and same and bool(((sums > 0) & (sums < 1)).all())


def _ones(sums: Tensor) -> bool:
    return bool(torch.allclose(sums.nan_to_num(1.0), torch.ones((), dtype=sums.dtype), atol=1e-4))


def _failed(site: Site, done: str, seen: str, away: float, over: str) -> Finding:
    cause = (
        "the softmax is taken over another axis than that of the keys"
        if over
        else "weights are changed after the softmax: a mask applied to them, or a second scaling"
    )
    return CHECK.failed(
        done,
        seen,
        where=f"{site.name} ({site.module})",
        cause=cause,
        fix="scores.softmax(dim=-1) for scores (B, H, T, S), once; masks before it",
        references=REFERENCES,
        evidence={"site": site.name, "away": away, "over": over},
        script=SCRIPT,
    )
