"""What the service counts, in the form that Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("pellucid_requests", "Requests answered.", ("path", "status"), registry=own)
        self.seconds = Histogram(
            "pellucid_request_seconds",
            "From a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=own,
        )
        self.first = Histogram(
            "pellucid_first_token_seconds", "From a request to its first token.", buckets=SECONDS, registry=own
        )
        self.tokens = Counter("pellucid_tokens", "Tokens read and written.", ("kind",), registry=own)
        self.jobs = Counter("pellucid_texts", "Texts that came to their end, by why.", ("reason",), registry=own)
        self.text_seconds = Histogram(
            "pellucid_text_seconds", "From a request to its text.", buckets=SECONDS, registry=own
        )
        self.steps = Histogram("pellucid_step_seconds", "One step of the batch.", buckets=STEPS, registry=own)
        self.rows = Gauge("pellucid_rows", "Texts being written.", registry=own)
        self.waiting = Gauge("pellucid_waiting", "Requests that wait for their turn.", registry=own)

    def watch(self, rows: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Asks for the present numbers whenever they are read."""
        self.rows.set_function(rows)
        self.waiting.set_function(waiting)

    def watch_prefixes(self, held: Callable[[], float], reused: Callable[[], float]) -> None:
        """The same of beginnings that are remembered."""
        own = self.registry
        Gauge("pellucid_prefix_tokens", "Tokens that are remembered.", registry=own).set_function(held)
        Gauge(
            "pellucid_prefix_tokens_reused", "Tokens that need not be read again, so far.", registry=own
        ).set_function(reused)

    def stepped(self, seconds: float, written: int) -> None:
        """One step of the batch, and the tokens that it wrote."""
        self.steps.observe(seconds)
        self.tokens.labels("written").inc(written)

    def first_token(self, began: float) -> None:
        """The first token of a request that began then is there."""
        self.first.observe(time.monotonic() - began)

    def ended(self, reason: str, seconds: float) -> None:
        """A text has come to its end."""
        self.jobs.labels(reason).inc()
        self.text_seconds.observe(seconds)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def counted(self, read: int) -> None:
        """Tokens that a request gave to read."""
        self.tokens.labels("read").inc(read)

    def page(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
