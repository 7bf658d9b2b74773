"""One thread that owns the model, and what the event loop sees of its work.

The loop hands requests over and hears what became of them, once a step for all together. Nothing else is shared. The
two take turns: while the loop passes on what a step has written the model waits, as both are Python, of which one runs
at a time, and a thread that is asked for the lock between two of its products loses more than the other gains.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pellucid.errors import PellucidError, UserError
from pellucid.inference.batching import Event, Finished, Job, ReadError, Request, Scheduler, Wrote
from pellucid.inference.decode import Reason
from pellucid.serve.errors import ServiceError, fault, of_user
from pellucid.serve.limits import Limits
from pellucid.serve.metrics import Metrics
from pellucid.serve.together import Asked, answer, next_of

Result = TypeVar("Result")
log = logging.getLogger("pellucid.serve")

LONGEST_WAIT = 60  # seconds that a client is told to stay away, at most
USUAL_SECONDS = 1.0  # of a request, while none has ended
WRITES = 640  # a second, to all streams together: each of 64 every tenth of one; the rest of the machine is the model's
SLOWEST = 0.5  # seconds between two writes to a stream, at most
TURN = 0.1  # seconds that the model waits for the loop at most
ASIDE = 0.1  # seconds of other work between two steps, after which what is being written goes on
AGAIN = 5.0  # seconds after which a model that could not be run is tried once more
LEFT = 5.0  # seconds that the work in hand may still take when the service has ended


class Ticket:
    """A request on its way, as whoever waits for it sees it.

    Attributes:
        news: what was written since it was last taken.
        reason: why it ended; ``None`` while it has not.
        error: why there will be nothing more, where that is so.
        changed: set when what is new is to be passed on; several tickets may share one.
        is_begun: whether anything was.
    """

    def __init__(self, request: Request, changed: asyncio.Event, *, each: bool) -> None:
        self.request, self.changed, self.each = request, changed, each
        self.job: Job | None = None
        self.news: list[Wrote] = []
        self.reason: Reason | None = None
        self.error: ServiceError | None = None
        self.began = time.monotonic()
        self.is_cancelled, self.is_begun = False, False
        self.timer: asyncio.TimerHandle | None = None

    def take(self) -> list[Wrote]:
        """The news, which are then none any more."""
        news, self.news = self.news, []
        return news

    @property
    def is_over(self) -> bool:
        """Whether there will be nothing more."""
        return self.reason is not None or self.error is not None


class Worker:
    """Steps a scheduler, and does other work of the model between steps.

    Args:
        scheduler: ``None`` for a model that writes nothing.
    """

    def __init__(self, scheduler: Scheduler | None, limits: Limits, metrics: Metrics) -> None:
        self.scheduler, self.limits, self.metrics = scheduler, limits, metrics
        self.open: set[Ticket] = set()  # of the loop
        self.is_ready = False
        self.failure: str | None = None  # why it never will be
        self.rows = 0  # that the model remembers
        self._tickets: dict[Job, Ticket] = {}  # of the thread
        self._orders: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._asked: dict[str, deque[Asked]] = {}  # by kind of work; filled by the loop, emptied by the thread
        self._usual = USUAL_SECONDS
        self._ending = False
        self._due = 0.0  # when streams are written to again
        self._warm: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="pellucid-model", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- on the loop ---------------------------------------------------------------------------

    def start(self, warm: Callable[[], object]) -> None:
        """Begins; ready when ``warm`` has been done."""
        self._loop = asyncio.get_running_loop()

        self._warm = warm
        self._orders.put(self._begin)
        self._thread.start()

    async def stop(self) -> None:
        """Gives up what is left, and ends the thread; one that is still at work then ends with the program."""
        self.is_ready, self._ending = False, True
        self._orders.put(lambda: None)
        await asyncio.to_thread(self._thread.join, LEFT)

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return self._orders.qsize() + (len(self.scheduler.waiting) if self.scheduler else 0)

    def check_room(self, count: int = 1) -> None:
        """Raises :class:`ServiceError` when the line is full, or would be too short for so many at any time.

        Also when nothing can be answered at all.
        """
        if self.failure is not None:
            raise ServiceError(503, self.failure, code="not_ready")
        waiting, most = self.waiting, self.limits.waiting + self.limits.rows
        if count > most:
            raise ServiceError(400, f"{count} texts; at most {most} may be on their way here", param="n")
        if waiting + count > self.limits.waiting + max(0, self.limits.rows - self.rows):
            again = self._usual * (1 + waiting / self.limits.rows)
            seconds = max(1, min(LONGEST_WAIT, round(again)))
            message = f"{waiting} requests are waiting already, which is as many as may; try again in {seconds} s"
            raise ServiceError(429, message, code="queue_full", retry_after=seconds)

    def submit(self, request: Request, changed: asyncio.Event, *, each: bool) -> Ticket:
        """Puts a request in line; ``each``: its tokens are told as they come, else all at the end."""
        assert self._loop is not None
        ticket = Ticket(request, changed, each=each)
        self.open.add(ticket)
        ticket.timer = self._loop.call_later(self.limits.seconds, self._expire, ticket)
        self._orders.put(lambda: self._add(ticket))
        return ticket

    def cancel(self, ticket: Ticket, *, why: str = "cancelled") -> None:
        """Whoever asked has left, or knows enough: its row leaves the batch. Nothing for one that is over."""
        self._close(ticket)
        if not ticket.is_over and not ticket.is_cancelled:
            ticket.is_cancelled = True
            self.metrics.ended(why, time.monotonic() - ticket.began)
            self._orders.put(lambda: self._drop(ticket))

    async def do(self, work: Callable[[], Result]) -> Result:
        """What other work of the model returns; it is never begun when the waiting is cancelled before."""
        self.check_room()
        assert self._loop is not None
        future: asyncio.Future[Result] = self._loop.create_future()

        def told(result: Any, error: Exception | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        def order() -> None:
            if future.cancelled():
                return
            try:
                result = work()
            except Exception as error:
                self._tell(told, None, error)
                if not isinstance(error, PellucidError):  # later: what has failed still holds its memory
                    self._orders.put(self._check_alive)
            else:
                self._tell(told, result, None)

        self._orders.put(order)
        try:
            return await asyncio.wait_for(future, self.limits.seconds)
        except TimeoutError:
            raise _late(self.limits.seconds) from None

    async def together(
        self, kind: str, work: Callable[[list[Any]], Sequence[Result]], items: Sequence[Any]
    ) -> Sequence[Result]:
        """What ``work`` returns for these items; what others ask of the same kind meanwhile is done with them.

        Args:
            work: the same function, for all of one kind: a list of items in, as many results out.
        """
        self.check_room()  # before it stands in a line that only an order empties
        asked = Asked(list(items))
        line = self._asked.setdefault(kind, deque())
        line.append(asked)

        def order() -> Sequence[Any]:
            while not asked.is_done and not asked.has_left:
                answer(next_of(line, self.limits.texts), work)
            return asked.taken() if asked.is_done else ()

        try:
            return await self.do(order)
        finally:
            asked.has_left = True

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.is_over:
            self._close(ticket)
            self._orders.put(lambda: self._drop(ticket))
            self._fail(ticket, _late(self.limits.seconds), "timeout")

    def _close(self, ticket: Ticket) -> None:
        self.open.discard(ticket)
        if ticket.timer is not None:
            ticket.timer.cancel()

    def _fail(self, ticket: Ticket, error: ServiceError, why: str) -> None:
        if ticket.is_over or ticket.is_cancelled:
            return
        self._close(ticket)
        self.metrics.ended(why, time.monotonic() - ticket.began)
        ticket.error = error
        ticket.changed.set()

    def _hear(self, news: list[tuple[Ticket, Event]], heard: threading.Event) -> None:
        """What one step has done. Whoever waits for its first token or has its last is told at once, others when due.

        Sets ``heard`` when all of them have had a turn of the loop.
        """
        assert self._loop is not None
        for ticket, event in news:
            if ticket.is_cancelled or ticket.is_over:
                continue
            if isinstance(event, Wrote):
                ticket.news.append(event)
                if not ticket.is_begun:
                    ticket.is_begun = True
                    self.metrics.first_token(ticket.began)
                    if ticket.each:
                        ticket.changed.set()
                continue
            seconds = time.monotonic() - ticket.began
            self._usual += 0.1 * (seconds - self._usual)
            self._close(ticket)
            self.metrics.ended(event.reason, seconds)
            ticket.reason = event.reason
            ticket.changed.set()
        if (now := self._loop.time()) >= self._due:
            self._due = now + min(SLOWEST, len(self.open) / WRITES)
            for ticket in self.open:
                if ticket.each and ticket.news:
                    ticket.changed.set()
        # Who waits for an event is woken in the next turn, and runs in the one after that.
        self._loop.call_soon(self._loop.call_soon, heard.set)

    # ---- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._obey()
            if self._ending:
                break
            if self.failure is not None:
                self._begin()
            if self.scheduler is not None and self.scheduler.has_work:
                self._step(self.scheduler)
        if self.scheduler is not None:
            self._give_up(ServiceError(503, "the service is ending", code="ending", retry_after=5), "ending")

    def _begin(self) -> None:
        """Runs the model once: requests are answered where it can be run."""
        try:
            self._warm()
        except Exception as error:
            if self.failure is None:
                log.exception("the model cannot be run; nothing is answered until it can")
            self.is_ready, self.failure = False, f"the model could not be run: {error}"
            if self.scheduler is not None:
                self.scheduler.clear()
        else:
            self.is_ready, self.failure = not self._ending, None

    def _check_alive(self) -> None:
        """Runs the model once more after a fault: where it cannot be run at all, whoever keeps services is to know.

        Where texts are being written, the next step will show it.
        """
        if self.is_ready and not self._is_writing():
            self._begin()

    def _obey(self) -> None:
        """Does what was ordered; waits for an order where there is nothing else to do, and not to try again.

        Where texts are being written other work has its share and no more: who answers one question is asked the next.
        """
        try:
            busy, until = self._is_writing(), math.inf
            while time.monotonic() < until:
                order = self._orders.get(block=not busy, timeout=None if self.failure is None else AGAIN)
                if self._is_writing():
                    until = min(until, time.monotonic() + ASIDE)
                try:
                    order()
                except Exception:
                    log.exception("an order failed")
                busy = True
        except queue.Empty:
            return

    def _is_writing(self) -> bool:
        return self.scheduler is not None and self.scheduler.has_work

    def _step(self, scheduler: Scheduler) -> None:
        began = time.perf_counter()
        try:
            events = scheduler.step()
        except ReadError as error:
            log.exception("what was to be read is lost")
            self._lose([ticket for job in error.jobs if (ticket := self._tickets.pop(job, None))], fault(), "fault")
            self._orders.put(self._check_alive)  # later: what has failed still holds its memory
            return
        except Exception:
            log.exception("a step failed; what was being written is lost")
            self._give_up(fault(), "fault")
            self._orders.put(self._check_alive)
            return
        self.rows = scheduler.rows
        self.metrics.stepped(time.perf_counter() - began, sum(isinstance(event, Wrote) for event in events))
        news = [(ticket, event) for event in events if (ticket := self._tickets.get(event.job)) is not None]
        for event in events:
            if isinstance(event, Finished):
                self._tickets.pop(event.job, None)
        heard = threading.Event()
        if self._tell(self._hear, news, heard):
            heard.wait(TURN)

    def _add(self, ticket: Ticket) -> None:
        if ticket.is_cancelled or ticket.is_over:
            return
        assert self.scheduler is not None
        try:
            ticket.job = self.scheduler.add(ticket.request)
        except UserError as error:
            self._tell(self._fail, ticket, of_user(error), "refused")
            return
        self._tickets[ticket.job] = ticket

    def _drop(self, ticket: Ticket) -> None:
        if ticket.job is not None and self.scheduler is not None:
            self._tickets.pop(ticket.job, None)
            self.scheduler.cancel(ticket.job)

    def _give_up(self, error: ServiceError, why: str) -> None:
        assert self.scheduler is not None
        self.scheduler.clear()
        self.rows = 0
        lost, self._tickets = list(self._tickets.values()), {}
        self._lose(lost, error, why)

    def _lose(self, tickets: Iterable[Ticket], error: ServiceError, why: str) -> None:
        for ticket in tickets:
            self._tell(self._fail, ticket, error, why)

    def _tell(self, hear: Callable[..., object], *told: Any) -> bool:
        """Whether there is still a loop that will hear it."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(hear, *told)
        except RuntimeError:  # it has ended, and with it everybody who waited
            return False
        return True


def _late(seconds: float) -> ServiceError:
    message = f"not done within {seconds:g} s, the limit of this service; ask for less"
    return ServiceError(408, message, code="timeout", in_vain=True)
