"""A lean HTTP client for measuring: requests are bytes made beforehand, answers are kept raw.

The client shares the machine with what it measures, so it must cost little: one process, a few
keep-alive connections, no parsing while the clock runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import uvloop

TRIES: Final = 30
PAUSE_S: Final = 0.5


@dataclass(frozen=True)
class Load:
    """What a run gave: answers in the order of the requests, seconds each, seconds in all."""

    answers: list[bytes]
    latencies_s: list[float]
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.answers) / self.elapsed_s

    def latency_ms(self, quantile: float) -> float:
        """Latency at a quantile, in milliseconds."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] * 1000


def request(method: str, path: str, body: bytes, media_type: str = "application/json") -> bytes:
    """Return a request's bytes; `media_type` is that of the body and of the answer."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {media_type}\r\n"
        f"Accept: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(port: int, requests: Sequence[bytes], connections: int, *, patient: bool = False) -> Load:
    """Send all requests over `connections` connections; raises on any status but a success.

    `patient`: what is answered 503 is sent again, as a client would; its time goes on.
    """
    return uvloop.run(_run(port, requests, connections, TRIES if patient else 1))


async def _run(port: int, requests: Sequence[bytes], connections: int, tries: int) -> Load:
    answers = [b""] * len(requests)
    latencies = [0.0] * len(requests)
    numbers = iter(range(len(requests)))
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(_one(port, requests, numbers, answers, latencies, tries))
    return Load(answers, latencies, time.perf_counter() - began)


async def _one(
    port: int,
    requests: Sequence[bytes],
    numbers: Iterator[int],
    answers: list[bytes],
    latencies: list[float],
    tries: int,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    for number in numbers:
        sent, head = time.perf_counter(), b""
        for _ in range(tries):
            writer.write(requests[number])
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            at = lower.index(b"content-length:") + 15
            length = int(lower[at : lower.index(b"\r\n", at)])
            answers[number] = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 503"):
                break
            await asyncio.sleep(PAUSE_S)
        latencies[number] = time.perf_counter() - sent
        if not head.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"{head[:40]!r} {answers[number][:300]!r}")
    writer.close()
