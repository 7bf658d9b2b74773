"""Signs of a cause in the findings of several checks: each a question, answered by the sentence that says why, or not.

Names of checks stand here once, as the patterns of :mod:`~pellucid.doctor.causes` use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pellucid.doctor.diagnose import Found
from pellucid.doctor.spec import Spec

Sign = Callable[[Found, Spec], str]

CAUSAL, PREFIX, CACHE = "causal.prefix_invariance", "prefix.length_invariance", "kv.parity"
PADDING, MASK, MAP, ROWS = "pad.invariance", "attn.mask", "influence.map", "batch.independence"
SOURCE, MEMORY, ENCODER = "cross.source", "cross.memory", "cross.encoder_alone"
ALIGNMENT, COVERAGE, SHARING = "loss.alignment", "params.coverage", "params.sharing"


def always(why: str) -> Sign:
    """The failure of a check alone is the sign."""
    return lambda found, spec: why


def seen(check: str) -> Sign:
    """What a check saw says it."""
    return lambda found, spec: found.seen(check)


def holds(check: str, key: str, value: object, why: str) -> Sign:
    """A figure of a check has this value."""
    return lambda found, spec: why if found.evidence(check, key) == value else ""


def has(check: str, key: str) -> Sign:
    """A check has such a figure: then what it saw says it."""
    return lambda found, spec: found.seen(check) if found.evidence(check, key) else ""


def holds_any(check: str, key: str, why: str) -> Sign:
    """A check has such a figure."""
    return lambda found, spec: why if found.evidence(check, key) else ""


def stateful(found: Found, spec: Spec) -> str:
    """A pass changes the next; rows that see one another only seem to do so."""
    if found.failed(ROWS) and "another order" in found.seen("forward.stateless"):
        return ""
    return f"{found.seen('forward.stateless')}: so do all comparisons of two passes"


# ---- what sees the future ---------------------------------------------------------------------------


def norm_over_batch(found: Found, spec: Spec) -> str:
    """Rows, or positions, move one another in a BatchNorm."""
    place = found.where(ROWS) or found.where(CAUSAL)
    return f"rows or positions move one another in {place}" if re.search(r"Batch_?Norm", place) else ""


def encoder_told(found: Found, spec: Spec) -> str:
    """Something before the decoder moves with the target."""
    return f"replacing the target moved {found.where(ENCODER) or 'the encoder'}"


def told_by_target(found: Found, spec: Spec) -> str:
    """The future is seen, and the source is not."""
    whole = found.failed(SOURCE) and not found.evidence(SOURCE, "silent")
    return "the future leaks, and the source moves nothing: the target is encoded in its place" if whole else ""


def heads_by_length(found: Found, spec: Spec) -> str:
    """A leak across some cuts, that depends on the length, under masks that are right."""
    if not found.failed(PREFIX) or not found.evidence(CAUSAL, "missed") or not found.passed(MASK):
        return ""
    norm = re.search(r"norm", found.where(CAUSAL), re.IGNORECASE)
    return "" if norm else "masks are right, and outputs depend on the length: positions are mixed by their number"


def norm_over_time(found: Found, spec: Spec) -> str:
    """The future first shows in a norm."""
    place = found.where(CAUSAL)
    named = re.search(r"norm|ln_", place.split(",")[0], re.IGNORECASE)
    return f"the first module in which the future shows is {place}" if named else ""


def experts(found: Found, spec: Spec) -> str:
    """The future first shows in what chooses experts."""
    place = found.where(CAUSAL)
    named = re.search(r"expert|rout|moe|gate", place, re.IGNORECASE)
    return f"the first module in which the future shows is {place}" if named else ""


def beyond_window(found: Found, spec: Spec) -> str:
    """Cuts within the first window do not leak."""
    missed, cuts = found.evidence(CAUSAL, "missed") or (), found.evidence(CAUSAL, "cuts") or ()
    near = [cut for cut in cuts if cut < spec.widest]
    beyond = near and all(cut in missed for cut in near)
    return f"the future leaks only beyond {spec.widest} positions, which is the window" if beyond else ""


def no_mask(found: Found, spec: Spec) -> str:
    """A place that attends gives weight to what may not be seen."""
    place = found.where(MASK) if found.failed(MASK) else ""
    return f"the future moves outputs, and keys that may not be seen have weight in {place}" if place else ""


def mixed(found: Found, spec: Spec) -> str:
    """The future is seen by something else, which can only be said when the masks were looked at."""
    if not found.asked(MASK):
        return ""
    place = f"; it first shows in {found.where(CAUSAL)}" if found.where(CAUSAL) else ""
    return ("masks are right, and " if found.passed(MASK) else "") + "outputs move with the future" + place


# ---- what hides too much or too little ----------------------------------------------------------------


def cross_hidden(found: Found, spec: Spec) -> str:
    """A mask on the attention to the source that hides some of it."""
    return found.seen(MASK) if "of the source" in found.seen(MASK) else ""


def causal_encoder(found: Found, spec: Spec) -> str:
    """An encoder, alone or beside a decoder, that reads one way."""
    lower = str(found.evidence(MAP, "shape")).startswith(("lower", "band, lower")) and spec.kind == "encoder"
    return "an encoder reads one way only" if lower or "is causal" in found.seen(MASK) else ""


def no_window(found: Found, spec: Spec) -> str:
    """A window is declared, the future is hidden, and what is far back is seen."""
    if not spec.widest or found.failed(CAUSAL) or not (found.failed(MASK) or found.failed(MAP)):
        return ""
    return f"the future is hidden, and what is further back than {spec.widest} is seen"


def source_cut(found: Found, spec: Spec) -> str:
    """Some of the source is read, as much as the target is long."""
    silent = found.evidence(SOURCE, "silent")
    return "source positions beyond the length of the target move nothing" if silent and found.failed(PREFIX) else ""


def source_unread(found: Found, spec: Spec) -> str:
    """None of the source is read."""
    return "" if found.evidence(SOURCE, "silent") else "replacing the whole source moves nothing"


def encoder_padding(found: Found, spec: Spec) -> str:
    """The decoder hides padding of the source, and it matters all the same."""
    attended = found.evidence(PADDING, "read") == "source" and found.evidence(PADDING, "cause") == "content"
    right = attended and found.passed(MEMORY)
    return "padding of the source matters, and the decoder gives it no weight" if right else ""


def mask_replaced(found: Found, spec: Spec) -> str:
    """The future is seen with a padding mask alone."""
    given = found.evidence(PADDING, "cause") == "given" and found.passed(CAUSAL)
    return "the future is hidden without a padding mask, and seen with one" if given else ""


def from_the_left(found: Found, spec: Spec) -> str:
    """Padding on the left is hidden, and moves positions."""
    moved = found.evidence(PADDING, "kind") == "amount" and found.evidence(PADDING, "cause") == "left"
    return "the same text gives something else behind padding, which nothing attends to" if moved else ""


# ---- caches, losses -------------------------------------------------------------------------------------


def step_masked(found: Found, spec: Spec) -> str:
    """Keys and values are right, and the mask is not."""
    if found.evidence(CACHE, "why") != "masked":
        return ""
    how = found.evidence(CACHE, "mask") or ""
    return "keys and values agree with those of one pass, so it is who may see whom that differs" + (how and f": {how}")


def shared_cache(found: Found, spec: Spec) -> str:
    """Layers share parameters, and the cache disagrees."""
    both = found.failed(SHARING, CACHE)
    return "layers are one, or copies, and share their place in the cache as well" if both else ""


def cache(found: Found, spec: Spec) -> str:
    """Any other disagreement of the cache."""
    return f"one pass is right, and steps differ from it: {found.evidence(CACHE, 'way') or 'from the first on'}"


def twice_softmax(found: Found, spec: Spec) -> str:
    """Outputs are positive and sum to 1."""
    return "outputs are probabilities" if "sums to 1" in found.seen("loss.init") else ""
