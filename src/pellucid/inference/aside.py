"""Work in a thread of its own, so that the next thread finds the cores free."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def aside(work: Callable[[], Result]) -> Result:
    """What ``work`` returns, or raises, in a thread that is gone afterwards.

    Each thread that computes has helpers of its own (OpenMP's), who stay as long as it does and wait for its next
    product in a short loop. Where all threads and helpers are more than the cores, they go to sleep between two
    products instead, and a step of a small model takes a fifth longer. So whoever hands a model over to another thread
    prepares it here.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, name="pellucid-aside", daemon=True)
    thread.start()
    wait([future])  # and no join before: Python takes a thread for ended when Ctrl-C comes while one waits for it
    thread.join()
    return future.result()
