"""Lines of a script that hold a batch of the user's own, where it is small enough to be written down."""

from __future__ import annotations

from torch import Tensor

from pellucid.doctor.spec import Batch, Spec

LARGEST = 1024
"""Numbers of one tensor."""


def own_batch(batch: Batch) -> str:
    """``ids``, ``keep`` and ``labels`` of a batch, and its source; lines to fill in where it is too large."""
    read = [x for x in (batch.ids, batch.source) if x is not None]
    names = ["ids", "keep", "labels"] + (["source", "source_keep"] if batch.source is not None else [])
    if any(x.numel() > LARGEST or x.is_floating_point() for x in read):
        what = "a batch as you train on it: keep True where a token is real, labels -100 where nothing is asked"
        values = ", ".join("None" if name.endswith("keep") else "..." for name in names)
        return f"{', '.join(names)} = {values}  # fill in: {what}"
    return "\n".join(f"{name} = {_written(getattr(batch, name))}" for name in names)


def _written(x: Tensor | None) -> str:
    return "None" if x is None else f"torch.tensor({x.tolist()})"


def laws(spec: Spec, source_size: int | None = None) -> str:
    """What must hold of every batch that a model is trained on; of its source as well where its size is given."""
    pad, bos, eos = spec.pad_id, spec.bos_id, spec.eos_id
    lines = ["asked = ids if labels is None else labels[labels != -100]", 'assert asked.numel(), "nothing is asked"']
    if spec.vocab_size is not None:
        lines.append(f"both = torch.cat([ids.flatten(), asked.flatten()])  # of {spec.vocab_size} tokens")
        lines.append(f'assert both.min() >= 0 and both.max() < {spec.vocab_size}, "a token beyond the vocabulary"')
    if pad is not None and pad != eos:
        lines.append(f'assert labels is None or not (asked == {pad}).any(), "padding is asked"')
        after = "[:, 1:]" if spec.kind == "encoder_decoder" else ""  # what is written may begin at the same token
        padded = f"ids{after} == {pad}"
        lines.append(f'assert keep is not None or not ({padded}).any(), "padding, and no mask that says so"')
        lines.append(f'assert keep is None or not (keep{after} & ({padded})).any(), "padding counts as real"')
    lines.append("if keep is not None:")
    lines.append('    assert keep.any(-1).all(), "a row is padding throughout"')
    lines.append('    assert (keep[:, 1:] != keep[:, :-1]).sum(-1).max() <= 1, "real tokens on both sides of padding"')
    if spec.kind != "encoder_decoder":
        width = "[:, 1:]" if spec.labels != "same" else ""
        stray = f"(labels != -100){width} & ~keep{width}"
        lines.append(f'    assert labels is None or not ({stray}).any(), "labels stand in padding"')
    if bos is not None and bos not in (eos, pad):
        lines.append(f'assert not ((ids[:, 1:] == {bos}) & (ids[:, :-1] == {bos})).any(), "a row has the start twice"')
    if eos is not None and spec.kind != "encoder":
        lines.append(f'assert (asked == {eos}).any(), "the end is never asked"')
    return "\n".join(lines + (_of_source(spec, source_size) if source_size is not None else []))


def _of_source(spec: Spec, size: int) -> list[str]:
    lines = ["if source_keep is not None:", '    assert source_keep.any(-1).all(), "a source is padding throughout"']
    if size:
        lines.append(f'assert source.min() >= 0 and source.max() < {size}, "a source token beyond the vocabulary"')
    if spec.pad_id is not None and spec.pad_id != spec.eos_id:
        lines.append("real = torch.ones_like(source, dtype=torch.bool) if source_keep is None else source_keep")
        lines.append(f'assert not (real & (source == {spec.pad_id})).any(), "padding of the source counts as real"')
    return lines
