"""A model as an ONNX graph (the ``onnx`` extra), of any batch and length, compared with the model once written.

Shapes: B batch, T positions, S source positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.config.model import Audio, EncoderDecoder, Patches, Tokens
from pellucid.errors import CheckpointError, UserError
from pellucid.models.build import Model
from pellucid.nn.attention import Attention
from pellucid.nn.kernels import explicit

FILE = "model.onnx"
TOLERANCE = 1e-4  # of the scale of the answer: another library adds up in another order


class _Reads(nn.Module):
    """Tokens, and which of them are real."""

    names: tuple[str, ...] = ("input_ids", "attention_mask")

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        return self.model(tokens, keep=keep.bool())

    def example(self, rows: int, length: int) -> tuple[Tensor, ...]:
        """Inputs of these sizes, some of them padding."""
        return tokens(self.model.config.front, rows, length), padding(rows, length)  # type: ignore[union-attr, arg-type]

    def sizes(self) -> tuple[dict[int, Any], ...]:
        """Which axes may be of any size."""
        return ({0: "batch", 1: "length"}, {0: "batch", 1: "length"})


class _ReadsPairs(_Reads):
    """Tokens, which of them are real, and to which text of a pair each belongs."""

    names = ("input_ids", "attention_mask", "token_type_ids")

    def forward(self, tokens: Tensor, keep: Tensor, types: Tensor) -> Tensor:  # type: ignore[override]
        return self.model(tokens, keep=keep.bool(), token_types=types)

    def example(self, rows: int, length: int) -> tuple[Tensor, ...]:
        """Inputs of these sizes, some of them padding; every type comes up."""
        front: Any = self.model.config.front  # type: ignore[union-attr]
        types = torch.arange(length) * front.token_types // length
        return *super().example(rows, length), types.repeat(rows, 1)

    def sizes(self) -> tuple[dict[int, Any], ...]:
        """Which axes may be of any size."""
        return (*super().sizes(), {0: "batch", 1: "length"})


class _Sees(nn.Module):
    """Images."""

    names = ("pixel_values",)

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def example(self, rows: int, length: int) -> tuple[Tensor, ...]:
        front: Any = self.model.config.front  # type: ignore[union-attr]
        return (torch.randn(rows, front.channels, front.image_size, front.image_size),)

    def sizes(self) -> tuple[dict[int, Any], ...]:
        return ({0: "batch"},)


class _ReadsAndWrites(nn.Module):
    """A source, and the target so far."""

    names = ("input_ids", "attention_mask", "decoder_input_ids")

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, source_keep: Tensor, target: Tensor) -> Tensor:
        return self.model(source, target, source_keep=source_keep.bool())

    def example(self, rows: int, length: int) -> tuple[Tensor, ...]:
        model = self.model.config
        source, target = tokens(model.source, rows, length), tokens(model.target, rows, length + 2)  # type: ignore
        return source, padding(rows, length), target

    def sizes(self) -> tuple[dict[int, Any], ...]:
        return ({0: "batch", 1: "source"}, {0: "batch", 1: "source"}, {0: "batch", 1: "target"})


def tokens(front: Tokens, rows: int, length: int) -> Tensor:
    """Some tokens of a vocabulary."""
    return torch.arange(rows * length).view(rows, length) % front.vocab_size


def padding(rows: int, length: int) -> Tensor:
    """The last row is one token shorter than the others, on the right."""
    keep = torch.ones(rows, length, dtype=torch.long)
    keep[-1, -1] = 0
    return keep


def write_onnx(folder: Path, model: Model) -> float:
    """Writes ``model.onnx`` and runs it; returns how far its answers are from the model's, as a part of their scale.

    Raises:
        UserError: when the extra is not installed, or for a model that listens.
        CheckpointError: when the graph does not answer as the model does.
    """
    wrapped = _wrapped(model).eval()
    runtime = _runtime()
    with _explicit(model), torch.no_grad():
        example = wrapped.example(2, 5)
        torch.onnx.export(
            wrapped,
            example,
            folder / FILE,
            dynamo=True,
            dynamic_shapes=wrapped.sizes(),
            input_names=list(wrapped.names),
            output_names=["logits"],
            verbose=False,
            external_data=sum(p.numel() * p.element_size() for p in model.parameters()) > 1 << 30,
        )
        session = runtime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
        errors = []
        for rows, length in ((1, 7), (3, 4)):  # of other sizes than the example's
            inputs = wrapped.example(rows, length)
            expected = wrapped(*inputs)
            named = {name: value.numpy() for name, value in zip(wrapped.names, inputs, strict=True)}
            found = torch.from_numpy(session.run(None, named)[0])
            errors.append((found - expected).abs().max() / expected.abs().max())
    worst = float(torch.stack(errors).max())  # which is NaN where one of them is
    if not worst <= TOLERANCE:
        raise CheckpointError(folder / FILE, f"differs from the model by {worst:.1e} of its scale", f"{TOLERANCE}")
    return worst


def _wrapped(model: Model) -> Any:
    match model.config:
        case EncoderDecoder(source=Audio()):
            raise UserError("convert --to onnx", "a model that listens", "one that reads text or images")
        case EncoderDecoder():
            return _ReadsAndWrites(model)
        case described if isinstance(described.front, Patches):
            return _Sees(model)
        case described if isinstance(described.front, Tokens) and described.front.token_types > 1:
            return _ReadsPairs(model)
        case _:
            return _Reads(model)


@contextmanager
def _explicit(model: nn.Module) -> Iterator[None]:
    """Every attention step by step while the block runs: a graph has no fused kernel that knows a row of padding."""
    kernels = [(module, module.kernel) for module in model.modules() if isinstance(module, Attention)]
    try:
        for attention, _ in kernels:
            attention.kernel = explicit
        yield
    finally:
        for attention, kernel in kernels:
            attention.kernel = kernel


def _runtime() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch writes graphs with
    except ImportError:
        raise UserError("convert --to onnx", "needs the onnx extra", hint="pip install 'pellucid[onnx]'") from None
    return onnxruntime
