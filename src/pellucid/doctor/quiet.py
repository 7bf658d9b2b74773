"""Other libraries are kept from talking over a report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TALKING = ("transformers",)


@contextmanager
def quiet() -> Iterator[None]:
    """Loggers of libraries that are loaded say errors alone for a while; nothing is loaded for it."""
    loggers = [logging.getLogger(name) for name in TALKING if name in sys.modules]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(max(logger.level, logging.ERROR))
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
