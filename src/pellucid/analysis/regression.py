"""A comparison as a test that can be kept: both models loaded again, the same inputs, the tolerance that was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.errors import UserError

MOST = 20_000  # numbers of inputs that a source file may hold
ROOM = 10  # times what was found: another machine rounds otherwise

TEMPLATE = '''"""Two models that have to agree; written by `pellucid diff --save-test`."""

import torch

import pellucid as pl

A = {a!r}
B = {b!r}
INPUTS = {inputs}
TOLERANCE = {tolerance:.1e}  # of each tensor's scale, in the precision the models run in


def test_the_two_agree():
    found = pl.diff(A, B, INPUTS)
    assert found.equal, str(found)
    apart = {{parting.name: parting.rounded for parting in found.profile if parting.rounded > TOLERANCE}}
    assert not apart
'''


def write_test(path: Path, sources: tuple[str, str] | None, inputs: Any, worst: float) -> None:
    """Writes a self-contained file for pytest.

    Args:
        inputs: what both read; ``None`` where that is not all there was to the comparison.
        worst: how far tensors were apart that agree.

    Raises:
        UserError: for models that did not come from a path, inputs that are not those of both or too large for a source
            file, or a file that cannot be written.
    """
    if inputs is None:
        found, hint = "B read other inputs or was aligned", "call diff in a test of your own, with inputs_b or align"
        raise UserError("--save-test", found, "one input for both models, compared as they stand", hint)
    if sources is None:
        hint = "save them first, and give their folders to diff"
        raise UserError("--save-test", "models that were not read from a path", "two paths to load again", hint)
    a, b = (str(Path(source).resolve()) if Path(source).exists() else source for source in sources)
    text = TEMPLATE.format(a=a, b=b, inputs=source_of(inputs), tolerance=max(ROOM * worst, 1e-7))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "a file in a folder that exists") from None


def source_of(inputs: Any) -> str:
    """Python that makes the same inputs again.

    Raises:
        UserError: where they are too large.
    """
    if isinstance(inputs, Tensor):
        if inputs.numel() > MOST:
            raise UserError("--save-test", f"inputs of {inputs.numel():,} numbers", f"at most {MOST:,}", "read less")
        return f"torch.tensor({inputs.tolist()!r}, dtype={inputs.dtype})"
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name!r}: {source_of(value)}" for name, value in inputs.items()) + "}"
    if isinstance(inputs, list | tuple):
        return "(" + "".join(f"{source_of(value)}, " for value in inputs) + ")"
    return repr(inputs)
