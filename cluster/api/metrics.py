"""What the HTTP edge measures, in one registry per node that other parts may add to."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """Requests by route and status, and how long they took by route."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        if registry is None:
            ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "recollect_http_requests",
            "HTTP requests by route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "recollect_http_request_seconds",
            "Time from the first byte handled to the answer.",
            ("method", "route"),
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        # Looking a child up by its labels costs more than counting does.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count one answered request. `route` is the table's path, never a user's text; a stream
        has no `seconds`: how long somebody listened says nothing of the node."""
        key = (method, route, status)
        found = self._children.get(key)
        if found is None:
            found = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
            self._children[key] = found
        found[0].inc()
        if seconds is not None:
            found[1].observe(seconds)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
