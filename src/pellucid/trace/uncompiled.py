"""Compiled modules run their own Python while somebody watches: a compiled graph calls no tap and no hook.

``torch.compiler.set_stance`` is one switch for the whole process and puts back what it found, so that two traces which
overlap, as in two threads of a server, would leave it eager for ever. Here the first one in turns it and the last one
out turns it back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

_lock = threading.Lock()
_inside = 0
_stance: AbstractContextManager[object] | None = None


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within the block ``torch.compile`` compiles nothing and what it compiled runs eagerly."""
    global _inside, _stance
    with _lock:
        _inside += 1
        if _inside == 1:
            _stance = torch.compiler.set_stance("force_eager")
            _stance.__enter__()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _stance is not None:
                _stance.__exit__(None, None, None)
                _stance = None
