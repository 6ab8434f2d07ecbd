"""What the log alone can do: three processes, one group, commands of 150 KB.

`python -m bench.commits` starts three nodes with one group, and proposes bytes that are no command:
the shard refuses them, so what is left is the log. Every commit has its CRC, its fdatasync on a
majority, its authenticated frames and a transaction of the state machine. It prints commits per
second and latencies by size and number in flight, and whether the leader changed meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from cluster.config import Config
from cluster.ports import free_base
from cluster.raft.driver import Driver
from cluster.raft.pinned import install_clock
from cluster.raft.tcp import PeerPort
from cluster.replica import Replica
from cluster.shard import ShardMachine

NAMES = ("node1", "node2", "node3")
LOADS = ((150_000, 16), (150_000, 1), (1_000_000, 16), (100, 16))
GROUP = 1


class Unobserved:
    """Nobody wants to know what is applied."""

    def applied(self, replica: Replica) -> None: ...

    def installed(self, replica: Replica) -> None: ...


def serve(name: str, folder: str, ports: Sequence[int], pipe: Connection, seconds: float) -> None:
    """One process: a node; it measures when it leads, and sends what it measured."""
    uvloop.run(_serve(name, Path(folder), ports, pipe, seconds))


async def _serve(
    name: str, folder: Path, ports: Sequence[int], pipe: Connection, seconds: float
) -> None:
    install_clock(time.monotonic)
    nodes = ",".join(f"{each}=127.0.0.1:{port}" for each, port in zip(NAMES, ports, strict=True))
    config = Config.from_env(
        {"NODE_ID": name, "CLUSTER_NODES": nodes, "RECOLLECT_DATA_DIR": str(folder / name)}
    )
    port = PeerPort(
        me=name,
        peers=config.peers(),
        listen=("127.0.0.1", config.peers()[name][1]),
        secret="0" * 32,
        frame_bytes_max=config.frame_bytes_max,
    )
    driver = Driver(config, port, Unobserved())
    driver.open()
    replica = driver.add(
        GROUP, NAMES, ShardMachine(folder / name / "state", request_id_ttl_ms=1000)
    )
    port.on_connected, port.on_disconnected = driver.connected, driver.disconnected
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(port.run(asyncio.Event()))
            tasks.create_task(driver.run())
            tasks.create_task(_measure(replica, pipe, seconds))
    except* (asyncio.CancelledError, EOFError):
        pass


async def _measure(replica: Replica, pipe: Connection, seconds: float) -> None:
    while not (replica.is_leader and 0 < replica.raft.office_index <= replica.applied_index):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    for size, in_flight in LOADS:
        pipe.send(await _load(replica, size, in_flight, seconds))


async def _load(replica: Replica, size: int, in_flight: int, seconds: float) -> Any:
    command, term, latencies = b"x" * size, replica.term, []
    began = time.perf_counter()
    end = began + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            sent = time.perf_counter()
            await replica.propose(command, time.monotonic() + 30)
            latencies.append(time.perf_counter() - sent)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(one())
    elapsed = time.perf_counter() - began
    latencies.sort()
    at = [latencies[min(len(latencies) - 1, int(part * len(latencies)))] for part in (0.5, 0.99)]
    changed = replica.term != term
    return size, in_flight, len(latencies) / elapsed, at[0] * 1000, at[1] * 1000, changed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.commits")
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    table = Table(title="commits through the log alone, three processes")
    for column in ("bytes", "in flight", "commits/s", "p50 ms", "p99 ms", "leader changes"):
        table.add_column(column, justify="right")
    base = free_base(3, random.Random())
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ports = [base + 1, base + 2, base + 3]
        nodes = [
            context.Process(target=serve, args=(name, folder, ports, there, options.seconds))
            for name in NAMES
        ]
        for node in nodes:
            node.start()
        try:
            for _ in LOADS:
                size, in_flight, rate, p50, p99, changed = here.recv()
                figures = f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", "some" if changed else "none"
                table.add_row(f"{size:,}", str(in_flight), *figures)
        finally:
            for node in nodes:
                node.kill()
                node.join()
    Console().print(table)


if __name__ == "__main__":
    main()
