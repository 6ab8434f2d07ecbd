"""The demo's questions, and what the cluster answers to them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cluster.client import Client
from cluster.demo_load import COLLECTION, POINTS_PATH

BEST: Final = 3
TIMED_LIMIT: Final = 10
LINE_LENGTH_MAX: Final = 90


@dataclass(frozen=True, slots=True)
class Question:
    """What a person would ask, and one payload key by which to narrow it."""

    text: str
    key: str
    value: str

    @property
    def filter(self) -> dict[str, Any]:
        """Return the narrowing as a filter."""
        return {"must": [{"key": self.key, "match": {"value": self.value}}]}


QUESTIONS: Final = (
    Question("create a temporary file that deletes itself", "kind", "class"),
    Question("split a command line the way a shell does", "kind", "function"),
    Question("pick a random element from a list", "package", "random"),
    Question("sort items by priority", "package", "asyncio"),
    Question("compress data into a zip archive", "package", "zipfile"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """One hit, as it is shown."""

    score: float
    name: str
    line: str


def ask(
    client: Client,
    vector: list[float],
    narrowing: dict[str, Any] | None = None,
    *,
    exact: bool = False,
) -> list[Found]:
    """Return the best hits for an embedded question; `narrowing` is a filter."""
    body: dict[str, Any] = {"query": vector, "limit": BEST, "with_payload": True}
    if narrowing:
        body["filter"] = narrowing
    if exact:
        body["params"] = {"exact": True}
    return [_found(hit) for hit in client.post(f"{POINTS_PATH}/query", body)["points"]]


def ask_in_words(client: Client, question: str) -> list[Found]:
    """Return the best hits for a plain text, which the node embeds itself."""
    body = {"query": question, "k": BEST, "collection": COLLECTION}
    return [_found(hit) for hit in client.post("/vectors/search", body)]


def is_indexed(client: Client) -> bool:
    """Return whether every replica has everything in its search graph."""
    return bool(client.get(f"/collections/{COLLECTION}")["status"] == "green")


def median_ms(client: Client, vectors: Iterable[list[float]]) -> float:
    """Return the median time of one search, sent one after another over one connection."""
    times = []
    for vector in vectors:
        started_s = time.perf_counter()
        client.post(f"{POINTS_PATH}/query", {"query": vector, "limit": TIMED_LIMIT})
        times.append((time.perf_counter() - started_s) * 1000)
    return statistics.median(times)


def _found(hit: dict[str, Any]) -> Found:
    payload = hit["payload"]
    line = payload["task"].partition("\n")[0]
    return Found(hit["score"], payload["name"], line[:LINE_LENGTH_MAX])
