"""How much may be recorded before the machine would swap."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from pellucid.errors import UserError

SHARE = 0.5  # of the memory that is free


def check_room(name: str, tensor: Tensor, recorded: int, limit: int | None, keep: str) -> int:
    """The bytes recorded so far and those of the tensor.

    Raises:
        UserError: when they are more than the limit.
    """
    total = recorded + tensor.nbytes
    # What is free is asked for rarely: for every tensor it would cost more than recording it.
    if limit is None and total // STRIDE == recorded // STRIDE and tensor.nbytes < STRIDE:
        return total
    most = recorded + int(SHARE * free(tensor.device if keep == "device" else torch.device("cpu")))
    allowed = most if limit is None else limit
    if total > allowed:
        raise UserError(
            f'recording "{name}"',
            f"{_megabytes(tensor.nbytes)} more than the {_megabytes(recorded)} recorded so far",
            f"at most {_megabytes(allowed)}" + (", half of the memory that is free" if limit is None else ""),
            'watch less, such as watch="*.residual_post"; record less text; or give a higher limit',
        )
    return total


STRIDE = 1 << 26


def free(device: torch.device) -> int:
    """Bytes of memory that could still be taken."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = Path("/proc/meminfo")
    if told.exists():
        lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 62  # nothing here says


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
