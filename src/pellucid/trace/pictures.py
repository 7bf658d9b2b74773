"""A tensor of a tape as a picture in a file, with the pieces of the text along its sides."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from torch import Tensor

from pellucid.errors import UserError

MOST = 40  # pieces that are written along a side; more could not be read
COLUMNS = 4  # of heads beside each other


def draw(tensor: Tensor, path: Path, *, title: str, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """The first of the batch, each head apart; the suffix of the file decides the format.

    Args:
        tensor: (B, T, D), or (B, H, T, S) with heads.
        rows: the pieces of the positions.
        columns: of the keys, where the last axis is of positions.

    Raises:
        UserError: for a tensor that is no matrix, or a file that cannot be written.
    """
    from matplotlib.figure import Figure

    if tensor.dim() not in (3, 4):
        raise UserError(f'"{title}"', f"shape {list(tensor.shape)}", "a tensor of positions, with heads or without")
    panels = tensor[0] if tensor.dim() == 4 else tensor[:1]
    across = min(COLUMNS, panels.size(0))
    down = ceil(panels.size(0) / across)
    figure = Figure(figsize=(3.6 * across + 1, 3.4 * down + 1), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(down, across, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i >= panels.size(0):
            axes.axis("off")
            continue
        _panel(figure, axes, panels[i], rows, columns)
        if tensor.dim() == 4:
            axes.set_title(f"head {i}", fontsize=9)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise UserError(path, f"cannot be written ({error})", "a file such as weights.png or weights.svg") from None


def _panel(figure, axes, matrix: Tensor, rows: Sequence[str], columns: Sequence[str]) -> None:  # type: ignore[no-untyped-def]
    numbers = matrix.detach().float().cpu()
    finite = numbers[numbers.isfinite()]
    most = finite.abs().max().item() if finite.numel() else 1.0
    signed = bool((finite < 0).any())
    shown = axes.imshow(
        numbers.numpy(),
        cmap="RdBu_r" if signed else "viridis",
        vmin=-most if signed else 0,
        vmax=most,
        aspect="auto",
        interpolation="nearest",
    )
    figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    if len(rows) == matrix.size(0) <= MOST:
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
    if len(columns) == matrix.size(1) <= MOST:
        axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=90)
