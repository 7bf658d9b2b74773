"""Keeping freed memory for the next step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3), from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed, instead of giving it back and getting zeroed pages for the next step.

    A change of the whole process, so commands call it and the library does not. Resident memory rises by what a step
    frees. Returns whether this machine has such a switch.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all((mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 256 << 20)))
