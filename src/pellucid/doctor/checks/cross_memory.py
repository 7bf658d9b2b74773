"""Is padding of the source hidden from the decoder?

The encoder's states at padded places are replaced, not only the tokens there: an encoder that masks well hides a decoder
that does not.
"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.checks.pad_invariance import padded
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.subject import Subject

CHECK = Check("cross.memory", "quick", "Is padding of the source hidden from the decoder?")
DONE = "replaced the tokens in padded places of the source, with sources of three lengths, and compared all outputs"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares bit for bit; the control is the same without a mask."""
    if subject.spec.kind != "encoder_decoder":
        return CHECK.skipped("there is no source")
    if not subject.spec.masked:
        return CHECK.skipped("no padding mask is given to the model", "Spec(call=… batch.source_keep …)")
    if subject.spec.example is not None:
        return CHECK.skipped("what it reads has no padding")
    batch, keep = padded(subject, "right")
    assert batch.source is not None
    source = batch.source.where(
        keep.view(*keep.shape, *[1] * (batch.source.dim() - 2)), subject.other(batch.source, 10)
    )
    changed = batch.with_(source=source)
    share = gap(subject(changed), subject(batch)).share
    bare = batch.with_(source_keep=None)
    control = gap(subject(bare), subject(batch)).share
    if share > tolerances.EXACT_NOISE:
        return CHECK.failed(
            DONE,
            f"outputs moved by {share:.2g} of the largest",
            cause="the mask of the source does not reach cross-attention, or it is that of the target",
            fix="give cross-attention the padding of the source: (B, 1, 1, S), of the memory's length",
            references=("huggingface/transformers#47946", "keras-team/keras-io#1046", "NVIDIA/FasterTransformer#270"),
            evidence={"moved": share, "control": control},
            script="""
model.eval()
ids, source = sample(1), sample_source(2)
keep = torch.ones_like(source, dtype=torch.bool)
keep[1, -4:] = False
other = torch.where(keep, source, sample_source(3))
one, two = masked(source, ids, keep), masked(other, ids, keep)  # as you pass the mask of the source
assert (one - two).abs().max() == 0, "the decoder sees padding of the source"
""",
        )
    if control <= tolerances.CONTROL:
        return CHECK.unsure(DONE, "but without the mask padding did not matter either", moved=share, control=control)
    return CHECK.passed(DONE, "every output kept its bits", moved=share, control=control)
