"""Does a text give the same outputs when what follows it is cut off?

It finds what perturbing tokens cannot: a reshape without a transpose mixes positions by their number, a table of
positions indexed by the length, statistics over time.
"""

from __future__ import annotations

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import RANDOM, Subject

CHECK = Check("prefix.length_invariance", "quick", "Do outputs stay when what follows is cut off?")


@CHECK
def answer(subject: Subject) -> Finding:
    """Runs prefixes alone; in double precision what is in doubt."""
    if not subject.writes:
        return CHECK.skipped(f"the outputs of an {subject.spec.kind} depend on all that it reads")
    if not subject.per_position:
        return CHECK.skipped("there is no output for every position", "Spec(call=…) that returns (B, T, V)")
    if subject.random:
        return CHECK.unsure("", RANDOM)
    batch = subject.batch()
    length, first = batch.ids.size(1), subject.spec.prefix or 1
    cuts = sorted({cut for cut in (1, 3, length // 3, length // 2, length - 1) if first <= cut < length})
    done = f"ran the first c of {length} tokens alone, for c = {', '.join(map(str, cuts))}, and compared the outputs"
    worst, gaps = 0.0, {}
    for cut in cuts:
        short = batch.with_(ids=batch.ids[:, :cut])
        agreed, found, double = subject.agree(lambda s=short, c=cut: (subject(s), subject(batch)[:, :c]), exact=False)  # type: ignore[misc]
        gaps[cut] = found.share
        worst = max(worst, found.share)
        if agreed:
            continue
        seen = f"alone, the first {cut} tokens give outputs that differ by {found.share:.2g} of the largest"
        if agreed is None:
            return CHECK.unsure(done, seen, gaps=gaps, in_double=double)
        if "length_dependent" in subject.spec.declare:
            return CHECK.warned(done, f"{seen}; declared to be so", evidence={"gaps": gaps})
        return CHECK.failed(
            done,
            seen,
            cause="heads are split by view or reshape without a transpose, so that positions mix by their number; or "
            "positions, a scale or statistics depend on the length of the input",
            fix="x.view(B, T, H, K).transpose(1, 2) to split heads and .transpose(1, 2).reshape(B, T, H * K) to join "
            "them; positions by torch.arange(T); norms over the last axis",
            references=("jsbaan/transformer-from-scratch#6", "ajhalthor/Transformer-Neural-Network#4"),
            evidence={"gaps": gaps, "in_double": double},
            script=f"""
model.eval()
ids = sample(1)
whole, alone = (call(each).nan_to_num(0, 0, 0)[:, :{cut}] for each in (ids, ids[:, :{cut}]))
gap = (whole - alone).abs().max() / whole.flatten(0, 1).std(0).max()
assert gap < 1e-4, f"the first {cut} tokens alone differ by {{gap:.3g}} of what outputs vary by"
""",
        )
    return CHECK.passed(done, f"the same within {worst:.1e} of the largest output", gaps=gaps)
