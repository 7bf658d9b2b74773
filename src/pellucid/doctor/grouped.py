"""The product of groups of rows with a matrix each, in double precision, which PyTorch's kernel for experts lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

GROUPED = {getattr(owner, name) for owner, name in ((F, "grouped_mm"), (torch, "_grouped_mm")) if hasattr(owner, name)}


class _Grouped(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in GROUPED and args[0].dtype == torch.float64 and (args[0].dim(), args[1].dim()) == (2, 3):
            return _product(args[0], args[1], args[2] if len(args) > 2 else kwargs["offs"])
        return func(*args, **(kwargs or {}))


def _product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """(N, M): rows (N, K), of which those up to each end belong to one of the matrices (G, K, M)."""
    starts = [0, *ends.tolist()]
    parts = [rows[a:b] @ matrix for a, b, matrix in zip(starts, starts[1:], matrices, strict=False)]
    rest = rows.new_zeros(rows.size(0) - starts[-1], matrices.size(-1))
    return torch.cat([*parts, rest])


@contextmanager
def grouped_in_double() -> Iterator[None]:
    """Within the block it is computed group by group where it is asked for in float64."""
    with _Grouped():
        yield
