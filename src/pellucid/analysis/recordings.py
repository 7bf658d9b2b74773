"""What a model computes, in the form in which two models are compared: every named tensor, by the model's own kernels.

Shapes: B batch, T positions, S source positions, H heads, K head_dim, D d_model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.errors import PellucidError, UserError
from pellucid.nn.attention import Attention
from pellucid.nn.kernels import explicit
from pellucid.nn.lora import merged_weights
from pellucid.trace import Edit, Tape, Tapped, trace

SHOWN = ("mask", "scores", "weights")  # what no fused kernel computes: watching it would replace the kernel
JITTER = 1e-10
SINGLE = torch.finfo(torch.float32).eps
Edits = dict[str, list[Edit]]
Align = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Recording:
    """The named tensors of one pass.

    Attributes:
        tensors: in the order computed, each as the model computes it when nobody watches its attention.
        tape: the same with the attention step by step: what was computed from what.
    """

    tensors: dict[str, Tensor]
    tape: Tape


def is_ours(model: nn.Module) -> bool:
    """Whether a model names its tensors itself, and so can be edited."""
    return any(isinstance(module, Tapped) for module in model.modules())


def record(model: nn.Module, inputs: Any, edits: Mapping[str, Sequence[Edit]] | None = None) -> Recording:
    """One pass with every tensor, and a second one by the fused kernels where the model has any.

    Raises:
        UserError: for inputs that the model cannot read.
    """
    try:
        if not is_ours(model):
            return _record_other(model, inputs)
        tape = trace(model, inputs, edits=edits)
        tensors = dict(tape.tensors)
        if any(isinstance(module, Attention) and module.kernel is not explicit for module in model.modules()):
            parts = {name.rpartition(".")[2] for name in tensors} - set(SHOWN)
            watch = [*(f"*.{part}" for part in parts), *(name for name in tensors if "." not in name)]
            tensors |= trace(model, inputs, watch=watch, edits=edits).tensors
        return Recording(tensors, tape)
    except PellucidError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        found = f"{type(model).__name__} cannot read these inputs ({said})"
        raise UserError("diff", found, "inputs that both models read") from error


def _record_other(model: nn.Module, inputs: Any) -> Recording:
    """A model of ``transformers`` under our names."""
    from pellucid.models.foreign.names import our_names

    named = our_names(model) if hasattr(getattr(model, "config", None), "to_dict") else {}
    tape = trace(model, _theirs(inputs, model) if named else inputs, names=named)
    return Recording(dict(tape.tensors), tape)


OURS = ("tokens", "inputs", "source")  # what our models call their main input
THEIR_MASKS = {"keep": "attention_mask", "source_keep": "attention_mask", "token_types": "token_type_ids"}


def _theirs(inputs: Any, model: nn.Module) -> dict[str, Any]:
    main = str(getattr(model, "main_input_name", "input_ids"))  # or pixel_values, input_features
    if isinstance(inputs, Tensor):
        return {main: inputs}
    if not isinstance(inputs, Mapping):
        names = (main, "decoder_input_ids") if len(inputs) > 1 else (main,)
        return dict(zip(names, inputs, strict=True))
    masks = dict(THEIR_MASKS)
    if "source" in inputs:
        masks["keep"] = "decoder_attention_mask"
    words = {**dict.fromkeys(OURS, main), "target": "decoder_input_ids", **masks}
    given: Mapping[str, Any] = inputs
    return {words.get(name, name): value for name, value in given.items()}


# ---- double precision --------------------------------------------------------------------------


def exactly(model: nn.Module) -> nn.Module:
    """A copy in double precision: what rounding makes shrinks by nine orders of magnitude in it, a fault stays."""
    return copy.deepcopy(model).to("cpu", torch.float64).eval()


def cast(inputs: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Inputs where the model is, numbers that are no tokens in its precision."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, dtype) if inputs.is_floating_point() else inputs.to(device)
    if isinstance(inputs, Mapping):
        return {name: cast(value, dtype, device) for name, value in inputs.items()}
    return tuple(cast(value, dtype, device) for value in inputs) if isinstance(inputs, list | tuple) else inputs


def as_it_is(model: nn.Module, inputs: Any) -> Recording:
    """The tensors of the model in its own precision, where it is, without dropout."""
    with evaluating(model):
        return record(model, cast(inputs, precision(model), next(model.parameters()).device))


def precision(model: nn.Module) -> torch.dtype:
    """Of the weights: the coarsest there is."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every module is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def jittered(model: nn.Module, inputs: Any, rounded: Sequence[str] = ()) -> Recording:
    """A pass in which every tensor is moved by a little: what rounding of that size would do to the model.

    A model that computes a part in single precision, as rotary positions are, answers in steps of that precision.

    Args:
        rounded: parameters that are moved, too, as storing them in single precision would.
    """
    draw = torch.Generator().manual_seed(0)
    if rounded:
        model = copy.deepcopy(model)
        with torch.no_grad():
            for name in rounded:
                weight = model.get_parameter(name)
                weight.mul_(1 + SINGLE * torch.randn(weight.shape, generator=draw, dtype=weight.dtype))

    def jitter(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        return x * (1 + JITTER * torch.randn(x.shape, generator=draw, dtype=torch.float64)).to(x.dtype)

    return record(model, inputs, {"*": [jitter]})


@torch.no_grad()
def rounded_weights(a: nn.Module, b: nn.Module) -> list[str]:
    """Parameters that differ by no more than storing them in single precision does, low-rank terms added to theirs."""
    ours, theirs = dict(merged_weights(a)), dict(merged_weights(b))
    found = []
    for name, weight in ours.items():
        if (
            name in theirs
            and weight.shape == theirs[name].shape
            and 1e-12 < distance(weight, theirs[name]) <= 2 * SINGLE
        ):
            found.append(name)
    return found


# ---- how far apart -----------------------------------------------------------------------------


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference as a share of the largest finite number; of booleans the share that differs.

    Infinite where the two differ in which numbers are finite.
    """
    if a.dtype == torch.bool or b.dtype == torch.bool:
        return (a.bool().cpu() != b.bool().cpu()).double().mean().item() if a.numel() else 0.0
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(a[finite].abs().max().item(), b[finite].abs().max().item(), 1e-30)
    return (a - b)[finite].abs().max().item() / scale


def paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Both in one shape, groups of heads repeated where only one of the two has them expanded; else ``None``."""
    if a.shape == b.shape:
        return a, b
    if a.dim() != 4 or b.dim() != 4 or a.shape[::2] != b.shape[::2] or a.shape[3] != b.shape[3]:
        return None
    few, many = sorted((a.size(1), b.size(1)))
    if few == 0 or many % few:
        return None
    return tuple(x.repeat_interleave(many // x.size(1), dim=1) for x in (a, b))  # type: ignore[return-value]


def stands_on_source(name: str) -> bool:
    """Whether the positions of a tensor are those of the source of an encoder–decoder."""
    projected = name.rpartition(".")[2] in ("k", "v", "k_new", "v_new", "k_projected")
    return name.startswith("encoder.") or ("cross_attention" in name and projected)


@dataclass(frozen=True)
class Real:
    """Which positions hold a token: what is computed at padding matters to nobody.

    Attributes:
        keep: (B, T), of the tokens, or of the target; ``None`` where all are real.
        source: (B, S), of the source of an encoder–decoder.
    """

    keep: Tensor | None = None
    source: Tensor | None = field(default=None)

    @staticmethod
    def of(inputs: Any) -> Real:
        """As the inputs say."""
        given = inputs if isinstance(inputs, Mapping) else {}
        keep, source = (given.get(name) for name in ("keep", "source_keep"))
        return Real(*(None if real is None else real.cpu().bool() for real in (keep, source)))

    def part(self, name: str, x: Tensor) -> Tensor:
        """The numbers of a tensor that stand at real positions: (N, …) in place of (B, T, …)."""
        keep = self._of(name, x)
        return x if keep is None else self._rows(x)[keep]

    def filled(self, name: str, x: Tensor, other: Tensor) -> Tensor:
        """The tensor with another's numbers at padding."""
        keep = self._of(name, x)
        if keep is None:
            return x
        shape = keep.shape + (1,) * (x.dim() - 2)
        return self._rows(torch.where(keep.view(shape), self._rows(x), self._rows(other)))

    def _of(self, name: str, x: Tensor) -> Tensor | None:
        keep = self.source if stands_on_source(name) else self.keep
        fits = keep is not None and x.dim() >= 3 and self._rows(x).shape[:2] == keep.shape
        return keep.to(x.device) if keep is not None and fits else None

    @staticmethod
    def _rows(x: Tensor) -> Tensor:
        """Positions behind rows; and back."""
        return x.transpose(1, 2) if x.dim() == 4 else x
