"""The outboxes' figures for Prometheus: what Postgres said last, whoever consumes them.

While Postgres is not reached there are no figures but that one: an old lag would be a lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.outbox import Outbox, described

_GAUGES: Final = {
    "lag_ms": "Age of the oldest change that waits.",
    "coherency_with_truth": "1 when the collection reflects its table, 0 when it may not.",
    "pending": "Changes that wait, counted up to a limit.",
    "dead_letters": "Changes that could not be applied.",
}
_COUNTERS: Final = {
    "applied": "Changes that were applied.",
    "repeated": "Changes that were applied after more than one attempt.",
}
_CIRCUITS: Final = ("closed", "half_open", "open")


class OutboxCollector(Collector):
    """Reads a node's part in outboxes when somebody asks for `/metrics`."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def collect(self) -> Iterator[Metric]:  # type: ignore[explicit-override]
        """Yield the figures of all sources."""
        outbox = self._outbox
        yield GaugeMetricFamily(
            "recollect_outbox_reachable",
            "1 while the Postgres of the outbox answers.",
            value=float(outbox.reachable),
        )
        shown = [described(each, outbox.dead_letters_max) for each in outbox.seen]
        rows = shown if outbox.reachable else []
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"recollect_outbox_{name}", text, labels=["collection"])
            for row in rows:
                gauge.add_metric([row["collection"]], float(row[name]))
            yield gauge
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"recollect_outbox_{name}", text, labels=["collection"])
            for row in rows:
                counter.add_metric([row["collection"]], float(row[name]))
            yield counter
        circuit = GaugeMetricFamily(
            "recollect_outbox_circuit",
            "1 for the state that the circuit breaker is in.",
            labels=["collection", "state"],
        )
        for row in rows:
            for state in _CIRCUITS:
                circuit.add_metric([row["collection"], state], float(row["circuit"] == state))
        yield circuit
