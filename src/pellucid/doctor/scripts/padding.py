"""A script that shows that padding matters: to what is real, by what stands in it, by how much there is, by NaN."""

from __future__ import annotations

from pellucid.doctor.padding import Padded
from pellucid.doctor.subject import Subject

LAWS = {
    "content": """
other = torch.where({wide}, text, {sample}(3))  # something else in every padded place
one, two = {run}, {changed}
moved = (one - two){real}.abs().max() / one{real}.abs().max()
assert moved < 1e-6, f"what stands in the padding moves outputs by {{moved:.3g}} of the largest"
""",
    "amount": """
for row in (1, 2):
    whole, alone = {run}[row : row + 1]{places}, {bare}
    gap = (whole - alone).abs().max() / alone.abs().max()
    assert gap < 1e-4, f"without its padding row {{row}} differs by {{gap:.3g}} of the largest output"
""",
    "nan": """
with torch.no_grad():
    one = {run}
assert one{real}.isfinite().all(), "NaN in outputs of real tokens"
{run}{real}.float().square().mean().backward()
bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
assert not bad, f"NaN in the gradients of {{bad}}"
keep[2] = False  # a row that is padding throughout
with torch.no_grad():
    two = {run}
assert two[:2].isfinite().all() or not one.isfinite().all(), "its NaN reaches other rows"
""",
    "shape": """
keep[:, {columns}] = False  # columns of padding alone
assert {run}.shape[:2] == keep.shape, "columns of padding are dropped"
""",
}


def pad_script(subject: Subject, given: Padded, kind: str) -> str:
    """Rows of three lengths.

    Args:
        kind: of the fault: ``content``, ``amount``, ``nan``, ``shape``.
    """
    both, source = subject.spec.kind == "encoder_decoder", given.read == "source"
    vectors = given.text.dim() > 2
    fill = 0 if vectors else int(given.text[~given.keep].flatten()[0])
    wide = "keep[..., None]" if vectors else "keep"
    right = given.side == "right"
    per_position = subject.per_position and not source
    names = {
        "wide": wide,
        "sample": "sample_source" if source else "sample",
        "run": _run(both, source, given.told, "text"),
        "changed": _run(both, source, given.told, "other"),
        "bare": _bare(both, source, "text[row : row + 1, keep[row]]"),
        "real": "[keep]" if per_position else "",
        "places": "[:, keep[row]]" if per_position else "",
        "columns": "-2:" if right else ":2",
    }
    lines = ["model.eval()", f"text = {names['sample']}(1)"]
    if both:
        lines.append("ids = sample(1)" if source else "source = sample_source(1)")
    lines.append("keep = torch.ones(text.shape[:2], dtype=torch.bool)")
    short = given.text.size(1) // 4
    cuts = (f"-{short}:", f"-{2 * short}:") if right else (f":{short}", f":{2 * short}")
    lines.append(f"keep[1, {cuts[0]}] = keep[2, {cuts[1]}] = False  # padding of the {given.read} on the {given.side}")
    lines.append(f"text = text.where({wide}, torch.full_like(text, {fill}))")
    return "\n".join(lines) + LAWS[kind].format(**names)


def _run(both: bool, source: bool, told: bool, text: str) -> str:
    """The padded pass: the mask is given, or the padding is known by its id."""
    if not both:
        return f"masked({text}, keep)" if told else f"call({text})"
    if source:
        return f"masked({text}, ids, keep)" if told else f"translated({text}, ids)"
    return f"masked_target(source, {text}, keep)" if told else f"translated(source, {text})"


def _bare(both: bool, source: bool, row: str) -> str:
    """The same row without its padding."""
    if not both:
        return f"call({row})"
    return f"translated({row}, ids[row : row + 1])" if source else f"translated(source[row : row + 1], {row})"
