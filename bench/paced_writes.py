"""A client that writes single durable points at a steady pace, and how long each of them took."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import orjson


@contextmanager
def paced_writes(port: int, path: str, vectors: np.ndarray, pace_s: float) -> Iterator[list[float]]:
    """Write while the block runs, a point each `pace_s`; gives a list of latencies in seconds.

    A latency counts from the moment at which the write was due, so that one that is slow is not
    spared the writes behind it. Points have the rows' numbers as ids. Raises RuntimeError after
    the block when a write was refused.
    """
    latencies: list[float] = []
    problems: list[str] = []
    over = threading.Event()
    bodies = [
        orjson.dumps({"points": [{"id": row, "vector": vector}]}, option=orjson.OPT_SERIALIZE_NUMPY)
        for row, vector in enumerate(vectors)
    ]

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        began_s = time.perf_counter()
        for number in count():
            due_s = began_s + number * pace_s
            if over.wait(max(0.0, due_s - time.perf_counter())):
                break
            body = bodies[number % len(bodies)]
            connection.request("PUT", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
            latencies.append(time.perf_counter() - due_s)
            if answer.status != 200:
                problems.append(f"{answer.status} {raw[:300]!r}")
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield latencies
    finally:
        over.set()
        thread.join()
    if problems:
        raise RuntimeError(f"{len(problems)} writes were refused: {problems[0]}")
