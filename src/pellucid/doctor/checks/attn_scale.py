"""Are scores divided by the root of the width of a head?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject
from pellucid.trace.sites import Site, for_each_head

CHECK = Check("attn.scale", "quick", "Are scores scaled by 1/√head_dim?")
PAPER = "Vaswani et al. 2017, eq. 1"


@CHECK
def answer(subject: Subject) -> Finding:
    """Reads the scale of each place that attends; what is not the paper's must be declared, or be a known choice."""
    if subject.attention is None:
        return CHECK.skipped("a callable shows nothing of its attention", "a module in place of a callable")
    scales = {site.name: (site, scale) for site in subject.attention.sites if (scale := scale_of(site)) is not None}
    if not scales:
        return CHECK.skipped(f"no scale is understood here: {subject.attention.coverage}")
    done = f"read what the products of queries and keys are multiplied by, in {len(scales)} places"
    odd, wrong = [], []
    for site, scale in scales.values():
        name, harmful = _named(subject, site, scale)
        if harmful:
            wrong.append((site, scale, name))
        elif name:
            odd.append(f"{site.name}: {name}")
    if wrong:
        return _failed(subject, done, *wrong[0], f"in {len(wrong)} of {len(scales)} attentions, first ")
    spread = max(_spread(site) for site, _ in scales.values())
    evidence = {"sites": len(scales), "score_std": spread}
    if odd:
        return CHECK.warned(
            done, odd[0], fix="say it if it is meant so: Spec(scale=…)", evidence=evidence,
        )  # fmt: skip
    return CHECK.passed(done, f"all of them as they should be; scores deviate by up to {spread:.2g}", **evidence)


def scale_of(site: Site) -> float | Tensor | None:
    """What products are multiplied by; ``None`` where something else is done to them than scaling and masking."""
    if site.q.size(-1) == 0:
        return None
    if site.replay is None:
        return site.scale
    scores = site.scores().double()
    if scores.dim() != 4 or scores.shape[-2:] != (site.q.size(2), site.k.size(2)):
        return None  # scores of other keys as well
    products = (site.q.double() @ for_each_head(site.k, site.q).double().mT).expand_as(scores)
    seen = (scores > tolerances.MASKED) & (site.weights() > 0)
    a, b = products[seen], scores[seen]
    if a.numel() < 8 or not bool(a.any()):
        return None
    factor = float((a * b).sum() / a.square().sum())
    rest = float((b - factor * a).abs().max() / b.abs().max().clamp_min(1e-30))
    return factor if rest <= tolerances.SCALE else None


def _named(subject: Subject, site: Site, scale: float | Tensor) -> tuple[str, bool]:
    """What a scale that is not expected is, and whether it surely harms."""
    declared, width = subject.spec.scale, site.q.size(-1)
    if isinstance(scale, Tensor) or declared == "learned":
        return "", False  # learned, or one for each head
    if declared is not None:
        if _near(scale, float(declared)):
            return "", False
        return f"declared is {declared:g}", True
    if _near(scale, width**-0.5) or _of_unit_length(site):
        return "", False
    if scale <= 0 or not math.isfinite(scale):
        return "scores of the wrong sign, or none", True
    if wrong := next((name for name, number in _mistakes(site).items() if _near(scale, number)), ""):
        return (f"{wrong}, of queries and keys that are normed", False) if _normed(subject, site) else (wrong, True)
    if _near(scale, 1.0 / width):
        if _near(site.before, width**-0.5):
            return f"1/√{width} twice, before the product and after it", True
        return f"1/{width}, not its root (μP has it so)", False
    if scale > 1 or scale < 0.1 / width:
        return f"{scale * width**0.5:.3g} times what it should be", not _normed(subject, site)
    return f"{scale * width**0.5:.3g} times 1/√{width}", False


def _mistakes(site: Site) -> dict[str, float]:
    """Scales that are somebody's mistake, by what they are."""
    heads, width, keys = site.q.size(1), site.q.size(-1), site.k.size(2)
    found = {"no scale at all": 1.0, f"√{width}, multiplied in place of divided": width**0.5}
    if heads > 1:
        found[f"1/√{width * heads}, of all heads together"] = (width * heads) ** -0.5
        found[f"1/√{heads}, of the number of heads"] = heads**-0.5
    found[f"1/√{keys}, of the length of the text"] = keys**-0.5
    found[f"1/{width}^1.5: divided by the width and by its root"] = width**-1.5
    return found


def _of_unit_length(site: Site) -> bool:
    """Queries and keys of length 1, as in cosine attention: their products are no sums of many terms."""
    return all(torch.allclose(x.float().norm(dim=-1), torch.ones(()), atol=1e-2) for x in (site.q, site.k))


def _normed(subject: Subject, site: Site) -> bool:
    """Whether queries and keys have norms of their own, which set how far scores spread: any scale may then be meant.

    They have one size throughout, or, once the norms are trained, come from a module that holds two of a head's width.
    With one head, those may be of the whole layer.
    """
    if all(_one_size(x) for x in (site.q, site.k)):
        return True
    path = site.name.partition("#")[0]
    parts = {} if subject.module is None else dict(subject.module.named_modules(remove_duplicate=False))
    within = parts[path].children() if path in parts and site.q.size(1) > 1 else ()
    sizes = [{p.numel() for p in each.parameters()} for each in within if type(each).__name__.endswith("Norm")]
    return sizes.count({site.q.size(-1)}) >= 2


def _one_size(x: Tensor) -> bool:
    """Whether all tokens have one length in each head of (B, H, T, K)."""
    sizes = x.float().norm(dim=-1)
    low, high = sizes.amin((0, 2)), sizes.amax((0, 2))
    return bool((high - low < 0.01 * high).all())


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= tolerances.SCALE * abs(b)


def _number(scale: float | Tensor) -> float:
    return float(scale.float().mean()) if isinstance(scale, Tensor) else scale


def _spread(site: Site) -> float:
    scores = site.scores().float()
    seen = scores[(site.weights() > 0) & (scores > tolerances.MASKED)]
    return float(seen.std()) if seen.numel() > 1 else 0.0


def _expected(subject: Subject, width: int) -> float:
    declared = subject.spec.scale
    return float(declared) if isinstance(declared, int | float) else width**-0.5


def _failed(subject: Subject, done: str, site: Site, scale: float | Tensor, name: str, many: str) -> Finding:
    width = site.q.size(-1)
    return CHECK.failed(
        done,
        f"{many}{site.name} multiplies by {_number(scale):.4g}: {name}; 1/√{width} is {width**-0.5:.4g}",
        where=f"{site.name} ({site.module})",
        cause="the division by √head_dim is missing, done twice, or takes the width of the model or another one",
        fix="scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)), q of one head; if another scale is meant, "
        "declare it: Spec(scale=…)",
        references=(PAPER, "mlc-ai/mlc-llm#3426", "omihub777/ViT-CIFAR#12", "huggingface/transformers#45676"),
        evidence={"site": site.name, "scale": _number(scale), "expected": width**-0.5, "what": name},
        script=f"""
model.eval()
for products, scores, _ in attention(sample(1)):
    if products is not None:
        scale = (scores / products)[scores > -1e3].median()
        assert abs(scale / {_expected(subject, width):.6g} - 1) < 0.01, f"q @ k.T is multiplied by {{scale:.4g}}"
""",
    )
