"""Can every query see what it should, and nothing else, in every layer?

White box: the scores and weights of each place that attends, found in the model's own arithmetic. The outputs cannot
tell all of it: a mask of -1e4 hides until scores grow below it, and an encoder spreads what a causal mask of the memory
cuts off.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.scripts.sampled import sampled
from pellucid.doctor.step_faults import ADDED, zero_and_one
from pellucid.doctor.subject import Subject
from pellucid.trace.sites import Site

CHECK = Check("attn.mask", "quick", "Can every query see what it should, and nothing else?")
CAUSE_SEES = (
    "the mask is missing in this layer, built for another shape, of the wrong polarity, or applied after the softmax"
)
CAUSE_BLIND = "the mask hides too much: a causal mask where all may be seen, that of another sequence, or off by one"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares each site with the rule of its place: causal, windowed, or all of a sequence."""
    if subject.attention is None:
        return CHECK.skipped("a callable shows nothing of its attention", "a module in place of a callable")
    subject = subject.past_window
    assert subject.attention is not None
    sites = expectations(subject, subject.attention.sites)
    done = f"looked at scores and weights in {len(sites)} of the {len(subject.attention.sites)} places that attend"
    if not sites:
        return CHECK.skipped(f"no attention is understood here: {subject.attention.coverage}")
    pattern, margin = "", float("inf")
    for site, rule in sites:
        scores, weights = site.scores().float(), site.weights().float()
        leaked = float((weights * ~rule).abs().max())
        if leaked > 0 and "sinks" not in subject.spec.declare:
            many = sum(bool((one.weights() * ~its).any()) for one, its in sites)
            seen = f"{site.name} gives up to {leaked:.2g} of its weight to keys it may not see; {counted(many, sites)}"
            cause = ADDED if zero_and_one(site) else CAUSE_SEES
            law = _rule_lines(subject, site) + LEAKED
            return _failed(subject, site, done, seen, cause, rule, law, ahead=_farthest(weights, rule))
        margin = min(margin, _margin(scores, rule) if not bool(rule.all()) else margin)
        hidden = hidden_in(site, scores, weights) & rule
        if not bool(hidden.any()):
            continue
        if blind := _blind(subject, site, hidden):
            return _failed(subject, site, done, blind[0], CAUSE_BLIND, rule, blind[1])
        pattern = site.name
    if margin < tolerances.FILL_MARGIN:
        return _shallow(subject, done, margin)
    if pattern and not (subject.spec.widest and subject.spec.kind == "encoder_decoder"):
        return CHECK.warned(
            done,
            f"{pattern} hides some of what a {subject.spec.kind} may see: a window or a pattern that nobody declared",
            fix="say it if it is meant so: Spec(window=…)",
            evidence={"margin": margin},
        )
    return CHECK.passed(
        done,
        f"in one pass, without a cache, every query sees what it should, and nothing else{subject.short}",
        margin=margin,
        sites=len(sites),
    )


def counted(many: int, sites: Sequence[object]) -> str:
    """How many of the places that attend are at fault."""
    return f"so in {many} of {len(sites)} attentions"


def hidden_in(site: Site, scores: Tensor, weights: Tensor) -> Tensor:
    """(B, H, T, S): what a mask hides; by what is done to the scores where that is known, else by how low they are."""
    if site.replay is not None:
        return (scores <= tolerances.MASKED) & (weights == 0)
    formula, hidden = site.formula, torch.zeros_like(scores, dtype=torch.bool)
    if formula.keep is not None:
        hidden = hidden | ~formula.keep
    if formula.bias is not None:
        hidden = hidden | (formula.bias <= tolerances.MASKED)
    if formula.causal:
        hidden = hidden | torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return hidden


LEAKED = (
    "leaked = (weights * ~allowed).max()\n"
    'assert leaked == 0, f"up to {leaked:.2g} of the weight on keys that may not be seen"'
)


def _farthest(weights: Tensor, rule: Tensor) -> int:
    """How many positions ahead of its query the last key stands that has weight and may not be seen."""
    queries, keys = ((weights != 0) & ~rule).nonzero()[:, -2:].T
    return int((keys - queries).max())


def _blind(subject: Subject, site: Site, hidden: Tensor) -> tuple[str, str] | None:
    """What is hidden and surely should not be, and the law that it breaks; ``None`` for what may be a pattern."""
    spec, (queries, keys) = subject.spec, hidden.shape[-2:]
    if bool(hidden.all(-1).any()):
        law = 'assert (scores > -1e3).any(-1).all(), "some query sees no key at all"'
        return f"in {site.name} some query sees no key at all", law
    if site.kind == "cross" or queries != keys:
        if "one_way" in spec.declare:
            return None
        law = 'assert (scores > -1e3).all(), "some of the source is hidden"'
        return f"{site.name} hides {int(hidden.sum())} places of the source", law
    if _is_triangle(hidden):
        law = 'assert (scores > -1e3).triu(1).any(), "a causal mask where all may be seen"'
        return f"{site.name} is causal, and the model is an {spec.kind}", law
    if bool(hidden.diagonal(dim1=-2, dim2=-1).any()) and "sinks" not in spec.declare:
        law = 'assert (scores > -1e3).diagonal(dim1=-2, dim2=-1).all(), "a position cannot see itself"'
        return f"in {site.name} a position cannot see itself", law
    reach = _reach(hidden)
    if spec.widest and spec.kind == "decoder" and reach is not None:
        law = (
            f"assert (scores > -1e3).diagonal(-{reach}, dim1=-2, dim2=-1).all(), 'the window is narrower than declared'"
        )
        return f"{site.name} sees {reach} keys back, itself included, and {spec.widest} are declared", law
    if spec.widest and spec.kind == "decoder":
        query, key = _nearest(hidden)
        law = f'assert (scores > -1e3)[..., {query}, {key}].all(), "query {query} does not see key {key}"'
        return f"{site.name} hides key {key} from query {query}, though nothing that is declared hides it", law
    return None


def all_causal(subject: Subject) -> bool:
    """Whether every place in which it attends within what it reads hides the future, and nothing else."""
    length = subject.batch().ids.size(1)
    sites = [] if subject.attention is None else subject.attention.sites
    within = [site for site in sites if site.q.size(2) == site.k.size(2) == length]
    hidden = (hidden_in(site, site.scores().float(), site.weights().float()) for site in within)
    return bool(within) and all(_is_triangle(each) for each in hidden)


def _reach(hidden: Tensor) -> int | None:
    """How many keys a query sees where it is a band that hides all beyond them; ``None`` for other patterns."""
    size = hidden.size(-1)
    seen = int((~hidden[..., -1, :]).sum(-1).min())
    band = torch.ones(size, size, dtype=torch.bool, device=hidden.device).tril(-seen)
    past = torch.ones_like(band).tril()
    return seen if bool(((hidden & past) == band).all()) else None


def _nearest(hidden: Tensor) -> tuple[int, int]:
    """Query and key of what is hidden, the two that stand nearest to each other."""
    places = hidden.any(0).any(0).nonzero()
    query, key = places[(places[:, 0] - places[:, 1]).argmin()].tolist()
    return query, key


def _shallow(subject: Subject, done: str, margin: float) -> Finding:
    length = subject.batch().ids.shape[1]
    return CHECK.failed(
        done,
        f"hidden scores lie only {margin:.1f} below the lowest that may be seen",
        cause="the fill of the mask is a small number: scores can grow below it, and hidden keys are then seen",
        fix="masked_fill(hidden, -torch.inf), or torch.finfo(scores.dtype).min",
        references=("karpathy/minGPT#75",),
        evidence={"margin": margin},
        script=_script(
            subject,
            length,
            length,
            "seen = torch.ones_like(scores, dtype=torch.bool).tril()\n"
            "lowest = scores.masked_fill(~seen, torch.inf).amin(-1)[..., :-1]\n"
            "filled = scores.masked_fill(seen, -torch.inf).amax(-1)[..., :-1]\n"
            "margin = (lowest - filled).min()\n"
            f"assert margin > {tolerances.FILL_MARGIN}, "
            'f"hidden scores lie only {margin:.1f} below the lowest that may be seen"',
        ),
    )


def expectations(subject: Subject, sites: Sequence[Site]) -> list[tuple[Site, Tensor]]:
    """Each place with its rule; those of other shapes than whole sequences are left out."""
    found, layer, written = [], 0, subject.batch().ids.shape[1]
    for site in sites:
        rule = expected(subject, site, layer)
        if rule is not None:
            found.append((site, rule))
        layer += site.q.size(2) == site.k.size(2) == written
    return found


def expected(subject: Subject, site: Site, layer: int) -> Tensor | None:
    """(T, S): True where a query may look; ``None`` for a place of other shapes than those of whole sequences."""
    windows = subject.spec.windows
    window = windows[layer % len(windows)]
    batch = subject.batch()
    written, queries, keys = batch.ids.shape[1], site.q.size(2), site.k.size(2)
    ones = torch.ones(queries, keys, dtype=torch.bool, device=site.q.device)
    if batch.source is not None:
        read = batch.source.size(1)
        if (queries, keys) in ((read, read), (written, read)):
            return ones
    pieces = subject.spec.example is not None and subject.spec.kind == "encoder" and queries == keys  # of an image
    if (queries, keys) != (written, written) and not pieces:
        return None
    if subject.spec.kind == "encoder":
        return _near(ones, window)
    rule = ones.tril()
    if subject.spec.kind == "prefix":
        rule[:, : subject.spec.prefix] = True
    return rule & ~ones.tril(-window) if window else rule


def _near(ones: Tensor, window: int) -> Tensor:
    return ones if not window else ones.tril(window - 1) & ones.triu(1 - window)


def _margin(scores: Tensor, rule: Tensor) -> float:
    """The least distance, over all queries, between the lowest score that may be seen and the highest that may not."""
    seen = scores.masked_fill(~rule | (scores <= tolerances.MASKED), torch.inf).amin(-1)
    hidden = scores.masked_fill(rule, -torch.inf).amax(-1)
    return float((seen - hidden).min())


def _is_triangle(hidden: Tensor) -> bool:
    size = hidden.size(-1)
    return bool((hidden == torch.ones(size, size, dtype=torch.bool, device=hidden.device).triu(1)).all())


def _rule_lines(subject: Subject, site: Site) -> str:
    """Lines that say what may be seen, where every layer has the same window."""
    spec, queries, keys = subject.spec, site.q.size(2), site.k.size(2)
    lines = f"allowed = torch.ones({queries}, {keys}, dtype=torch.bool)"
    if spec.kind == "encoder" or queries != keys:
        near = f".tril({spec.widest - 1}).triu({1 - spec.widest})" if spec.widest and all(spec.windows) else ""
        return f"{lines}{near}\n"
    near = f".triu({1 - spec.widest})" if spec.widest and all(spec.windows) else ""
    prefix = f"allowed[:, :{spec.prefix}] = True\n" if spec.kind == "prefix" else ""
    return f"{lines}.tril(){near}\n{prefix}"


def _script(subject: Subject, queries: int, keys: int, law: str) -> str:
    inside = textwrap.indent(law, "    ")
    return f"""
model.eval()
for _, scores, weights in attention({sampled(subject)}):
    if scores.shape[-2:] != ({queries}, {keys}):
        continue
{inside}
"""


def _failed(
    subject: Subject, site: Site, done: str, seen: str, cause: str, rule: Tensor, law: str, ahead: int | None = None
) -> Finding:
    return CHECK.failed(
        done,
        seen,
        where=f"{site.name} ({site.module})",
        cause=cause,
        fix="scores.masked_fill(~allowed, -torch.inf) before the softmax, with allowed of shape (T, S) or (B, 1, T, S)",
        references=("rasbt/LLMs-from-scratch#1061", "zhouhaoyi/Informer2020#38", "facebookresearch/xformers#103"),
        evidence={
            "site": site.name,
            "kernel": site.kernel,
            "visible": int((site.weights() > 0).sum()),
            "allowed": int(rule.sum()),
            "added": cause == ADDED,
            "ahead": ahead,
        },
        script=_script(subject, site.q.size(2), site.k.size(2), law),
    )
