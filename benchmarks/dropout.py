"""How much does dropout cost? PyTorch's against ours, forward and backward, by precision."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from common import interleaved, middle, prepare, write_page

from pellucid.nn.dropout import dropout

ROUNDS = 21


def step(drop: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], object]:
    gradient = torch.ones_like(x)
    return lambda: torch.autograd.grad(drop(x), x, gradient)


def main() -> None:
    prepare()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for width in (128, 768):
            x = torch.randn(4096, width, dtype=dtype, requires_grad=True)
            candidates = {
                "ours": step(lambda y: dropout(y, 0.3, training=True), x),
                "theirs": step(lambda y: F.dropout(y, 0.3), x),
            }
            times = interleaved(candidates, ROUNDS)
            ratio = median(times["theirs"]) / median(times["ours"])
            name = str(dtype).removeprefix("torch.")
            rows.append(
                f"| {name} | 4096 × {width} | {middle(times['ours'])} | {middle(times['theirs'])} | {ratio:.1f} |"
            )
    head = "| precision | shape | ours, ms | `F.dropout`, ms | ratio |\n|---|---|---|---|---|\n"
    note = f"\n\nForward and backward, p = 0.3; medians (ranges) of {ROUNDS} rounds."
    write_page("dropout", "Dropout on a CPU", head + "\n".join(rows) + note)


if __name__ == "__main__":
    main()
