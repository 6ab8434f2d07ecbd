"""What a node measures of itself, read when somebody asks for `/metrics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.process_collector import ProcessCollector

from cluster.outbox_metrics import OutboxCollector

if TYPE_CHECKING:
    from cluster.node import Node


def node_metrics(node: Node) -> CollectorRegistry:
    """Return a registry with the process's figures and the node's."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    memory, disk = node.driver.host.memory, node.disk
    for name, text, read in (
        ("log_memory_bytes", "Memory held by the logs of all groups.", lambda: memory.used),
        ("log_memory_peak_bytes", "The most that was held since the start.", lambda: memory.peak),
        ("disk_free_bytes", "Free space on the data folder's disk.", lambda: disk.free_bytes),
        ("disk_full", "1 while writes are refused for want of disk space.", lambda: disk.full),
        ("memory_full", "1 while writes are refused for want of memory.", lambda: node.memory.full),
        ("checkpoint_failed", "1 while checkpoints have a problem.", lambda: bool(_problem(node))),
        ("loop_lag_seconds", "How late the event loop is.", lambda: node.driver.loop_lag_s),
        ("search_workers", "Processes that share the searches.", lambda: node.search_workers),
        ("search_workers_connections", "Connections they serve.", lambda: node.lent_connections),
    ):
        _gauge(registry, name, text, read)
    if node.router.outbox is not None:
        registry.register(OutboxCollector(node.router.outbox))
    return registry


def _problem(node: Node) -> str:
    checkpoints = node.router.checkpoints
    return "" if checkpoints is None else checkpoints.problem


def _gauge(registry: CollectorRegistry, name: str, text: str, read: Callable[[], float]) -> None:
    Gauge(f"recollect_{name}", text, registry=registry).set_function(lambda: float(read()))
