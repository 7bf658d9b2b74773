"""Which kernel trains faster on this machine? Forward and backward of one attention: plain, in blocks, fused.

It decides the length up to which ``kernels.auto`` trains in blocks on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from common import interleaved, middle, prepare, write_page

from pellucid.nn.kernels import Kernel, blocked, explicit, sdpa
from pellucid.nn.masks import Mask, Sites

ROUNDS = 11
TOKENS = 4096


def step(kernel: Kernel, length: int, dtype: torch.dtype) -> Callable[[], object]:
    rows = max(1, TOKENS // length)
    shape = (rows, 4, length, 32)
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    sites = Sites.of(rows, length, torch.device("cpu"))
    weight = torch.randn(shape, dtype=dtype)

    def run() -> None:
        mask = Mask(query=sites, key=sites, causal=True)
        out = kernel(
            q, k, v, mask, scale=32**-0.5, softcap=None, dropout=0.0, tap=lambda name, tensor, *operands: tensor
        )
        torch.autograd.grad(out, (q, k, v), weight)

    return run


def main() -> None:
    prepare()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for length in (16, 32, 64, 128, 256, 512, 1024, 2048):
            times = interleaved({k.__name__: step(k, length, dtype) for k in (explicit, blocked, sdpa)}, ROUNDS)
            ratio = median(times["sdpa"]) / median(times["blocked"])
            figures = " | ".join(middle(times[name]) for name in ("explicit", "blocked", "sdpa"))
            rows.append(f"| {str(dtype).removeprefix('torch.')} | {length} | {figures} | {ratio:.2f} |")
    head = (
        "| precision | length | explicit, ms | blocked, ms | sdpa, ms | sdpa / blocked |\n|---|---|---|---|---|---|\n"
    )
    note = f"\n\nForward and backward, causal, 4 heads of 32, {TOKENS} tokens; medians (ranges) of {ROUNDS} rounds."
    write_page("kernels", "Training kernels on a CPU", head + "\n".join(rows) + note)


if __name__ == "__main__":
    main()
