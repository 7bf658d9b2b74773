"""Is padding of the source hidden from the decoder?

What stands in padded places of the source is replaced, and each row is run without its padding. An encoder that attends
to padding moves the outputs as well: where the attention of the decoder to the source is found and gives padding no
weight, the decoder is not to blame, and :mod:`~pellucid.doctor.checks.pad_invariance` says who is.
"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.padding import Padded, masks_by_id, most_apart, padded, seers
from pellucid.doctor.scripts.padding import pad_script
from pellucid.doctor.subject import Subject

CHECK = Check("cross.memory", "quick", "Is padding of the source hidden from the decoder?")
DONE = "replaced the tokens in padded places of the source, with sources of three lengths, and ran each without padding"


@CHECK
def answer(subject: Subject) -> Finding:
    """Content bit for bit, amount within rounding; the control is the same without a mask."""
    spec = subject.spec
    if spec.kind != "encoder_decoder":
        return CHECK.skipped("there is no source")
    if not spec.masked and spec.pad_id is None:
        return CHECK.skipped("no padding mask is given to the model", "Spec(call=…), or Spec(pad_id=…)")
    if spec.example is not None or (spec.features is not None and not spec.masked):
        return CHECK.skipped("what it reads has no padding")
    given = padded(subject, "right", told=bool(spec.masked))
    base = subject(given.batch)
    content = gap(subject(given.replaced(subject)), base).share if given.told else 0.0
    amount = 0.0 if "batch_coupled" in spec.declare else most_apart(subject, given, base)
    control = gap(subject(given.with_keep(None)), base).share if given.told else 1.0
    evidence = {"moved": content, "amount": amount, "control": control}
    share = max(content, amount)
    if share > tolerances.EXACT_NOISE:
        return _judged(subject, given, content, amount, evidence)
    if control <= tolerances.CONTROL:
        return CHECK.unsure(DONE, "but without the mask padding did not matter either", **evidence)
    return CHECK.passed(DONE, "every output kept its bits, and no amount of padding matters", **evidence)


def _judged(subject: Subject, given: Padded, content: float, amount: float, evidence: dict[str, float]) -> Finding:
    length = subject.batch().ids.size(1)
    seeing, could = seers(subject, given)
    across = [site for site in seeing if site.kind == "cross" or site.q.size(2) == length]
    if could and not across:
        names = ", ".join(site.name for site in seeing[:2]) or "something other than attention"
        return CHECK.passed(DONE, f"the decoder gives padding no weight; {names} lets it in", **evidence)
    seen = f"replacing them moved outputs by {content:.2g} of the largest" if content > amount else (
        f"a row without its padding differs by {amount:.2g} of the largest output"
    )  # fmt: skip
    if not given.told and not masks_by_id(subject, given):
        return CHECK.warned(DONE, f"{seen}; no mask says what is padding, in a model that is given none")
    return CHECK.failed(
        DONE,
        seen,
        where=f"{across[0].name} ({across[0].module})" if across else "",
        cause="the mask of the source does not reach cross-attention, or it is that of the target",
        fix="give cross-attention the padding of the source: (B, 1, 1, S), of the memory's length; "
        "memory_key_padding_mask of nn.Transformer",
        references=("huggingface/transformers#47946", "keras-team/keras-io#1046", "NVIDIA/FasterTransformer#270"),
        evidence=evidence,
        script=pad_script(subject, given, "content" if content > amount else "amount"),
    )
