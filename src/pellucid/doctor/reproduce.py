"""The first lines of a script that shows a fault with torch alone: the model, how it is called, what it reads."""

from __future__ import annotations

from pellucid.doctor.subject import Subject


def build_lines(subject: Subject) -> str:
    """Lines that define ``model``, ``call(ids)`` and ``sample(seed)``, for a model of this class."""
    kind = type(subject.model)
    if subject.build:
        made = subject.build
    elif subject.module is not None:
        made = f"from {kind.__module__} import {kind.__qualname__}\n\nmodel = {kind.__qualname__}(...)  # build it as you do"
    else:
        made = "model = ...  # your callable"
    return f"{made}\n\n{_sample(subject)}\n\n{_call(subject)}"


def _sample(subject: Subject) -> str:
    rows, length, spec = 3, subject.length, subject.spec
    if spec.features is not None:
        drawn = f"torch.randn({rows}, {length}, {spec.features}, generator=torch.Generator().manual_seed(seed))"
    else:
        words = spec.vocab_size or 2
        drawn = f"torch.randint({words}, ({rows}, {length}), generator=torch.Generator().manual_seed(seed))"
    lines = [f"def sample(seed):\n    return {drawn}"]
    if spec.kind == "encoder_decoder":
        source = drawn.replace(f"{rows}, {length}", f"{rows}, {subject.batch().source.shape[1]}")  # type: ignore[union-attr]
        lines.append(f"def sample_source(seed):\n    return {source}")
    return "\n\n".join(lines)


def _call(subject: Subject) -> str:
    if subject.spec.kind == "encoder_decoder":
        given = "model(sample_source(9), ids)"
        if hasattr(subject.model, "main_input_name"):
            given = "model(sample_source(9), decoder_input_ids=ids)"
    else:
        given = "model(ids)"
    return (
        f"def call(ids):\n    found = {given}  # or as you call it\n"
        "    return found if torch.is_tensor(found) else getattr(found, 'logits', found[0])"
    )
