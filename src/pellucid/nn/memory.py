"""What this process does with memory: what is freed is kept for the next step, and weights may stand in large pages.

Both change the whole process, so commands ask for them and the library does not. Both are glibc's and Linux's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3), from glibc's malloc.h
_HUGE = 14  # MADV_HUGEPAGE of madvise(2), from Linux's mman.h
_PAGE = 2 << 20
_PROMISES = Path("/proc/sys/vm/overcommit_memory")


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed, instead of giving it back and getting zeroed pages for the next step.

    Resident memory rises by what a step frees. Returns whether this machine has such a switch.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is None:
        return False
    return all((mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 256 << 20)))


def huge_pages() -> bool:
    """Lets what is allocated from now on stand in pages of 2 MB, as far as Linux has them for who asks.

    A step of one text reads all weights once, and each page has its address looked up: with large ones GPT-2 in int8
    takes a twelfth less. Half of the machine's memory is taken, told to be of large pages, and freed: the main thread's
    heap keeps the place, of which nothing exists before it is written to. What is freed later is kept for good.

    Returns:
        whether there is such a place. There is none, and nothing is changed, where a process has a bound of its own, of
        which nothing would be left, or where Linux counts what was promised.
    """
    if _is_bound() or not keep_freed_memory():
        return False
    libc = _libc()
    assert libc is not None  # it has mallopt
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never: what was given back would come again in small pages
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.madvise.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], [ctypes.c_void_p]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    place = libc.malloc(size)
    if not place:
        return False
    first, end = -(-place // _PAGE) * _PAGE, (place + size) // _PAGE * _PAGE
    is_told: bool = libc.madvise(first, end - first, _HUGE) == 0
    libc.free(place)
    return is_told


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def _is_bound() -> bool:
    """Whether this process may not take more than it uses."""
    if not sys.platform.startswith("linux"):
        return False
    import resource

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    counted = _PROMISES.exists() and _PROMISES.read_text().strip() == "2"
    return counted or any(limit != resource.RLIM_INFINITY for limit in limits)
