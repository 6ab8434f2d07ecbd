"""Puts the demo's texts into the cluster, over several connections and through every node.

A batch carries its own ids, so sending it again after a refusal or a lost answer changes
nothing: that is what makes the short retry here safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Final

from cluster.client import Client
from cluster.demo_corpus import Docstring
from cluster.errors import CommandFailed

COLLECTION: Final = "docs"
POINTS_PATH: Final = f"/collections/{COLLECTION}/points"
BATCH_POINTS: Final = 200
CONNECTIONS: Final = 4
RETRY_S: Final = 0.1
GIVE_UP_S: Final = 30.0

Payload = dict[str, Any]
ClientOf = Callable[[int], Client]
"""Makes the client of the n-th connection; connections are spread over the nodes."""


@dataclass(frozen=True, slots=True)
class Load:
    """What loading gave: the acknowledged payloads by id, and the time that it took."""

    acknowledged: dict[int, Payload]
    seconds: float

    @property
    def writes_per_s(self) -> float:
        """Return acknowledged points a second."""
        return len(self.acknowledged) / self.seconds


def payload_of(text: Docstring) -> Payload:
    """Return a text as it is stored: as a pattern's task, with what can be filtered by."""
    return {
        "task": text.text,
        "module": text.module,
        "package": text.module.partition(".")[0],
        "name": text.title,
        "kind": text.kind,
    }


def create_collection(client: Client, size: int) -> None:
    """Create the demo's collection: `size`-dimensional vectors of the nodes' own embedding.

    The cluster is new, so a collection that exists is one that an earlier attempt has made.
    """
    body = {"vectors": {"size": size, "distance": "Cosine"}, "embedding_space": "default"}
    try:
        client.put(f"/collections/{COLLECTION}", body)
    except CommandFailed as failure:
        if failure.code != "collection_exists":
            raise


def store_all(
    client_of: ClientOf,
    texts: Sequence[Docstring],
    vectors: Sequence[Any],
    advance: Callable[[int], None],
) -> Load:
    """Upsert all texts, ids 1..n; `vectors` are rows as numpy gives them.

    Raises:
        CommandFailed: a batch was refused, or not accepted within the time for retries.
    """
    acknowledged: dict[int, Payload] = {}
    clients = _ClientsOfThreads(client_of)
    started_s = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            sent = {
                pool.submit(_store, clients, batch): batch for batch in _batches(texts, vectors)
            }
            for future in as_completed(sent):
                _take(future, sent.pop(future), acknowledged, advance)
        finally:
            pool.shutdown(cancel_futures=True)
            clients.close()
    return Load(acknowledged, time.perf_counter() - started_s)


def patiently(action: Callable[[], Any], give_up_s: float = GIVE_UP_S) -> Any:
    """Return what `action` returns, tried again while the cluster says that a retry may help."""
    deadline_s = time.monotonic() + give_up_s
    while True:
        try:
            return action()
        except CommandFailed as failure:
            if not failure.retryable or time.monotonic() >= deadline_s:
                raise
        time.sleep(RETRY_S)


class _ClientsOfThreads:
    """One client for each thread of the pool, all closed together."""

    def __init__(self, client_of: ClientOf) -> None:
        self._client_of = client_of
        self._own = threading.local()
        self._all: list[Client] = []
        self._lock = threading.Lock()

    def mine(self) -> Client:
        if not hasattr(self._own, "client"):
            with self._lock:
                self._own.client = self._client_of(len(self._all))
                self._all.append(self._own.client)
        client: Client = self._own.client
        return client

    def close(self) -> None:
        for client in self._all:
            client.close()


def _batches(texts: Sequence[Docstring], vectors: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(texts), BATCH_POINTS):
        yield [
            {
                "id": position + 1,
                "vector": vectors[position].tolist(),
                "payload": payload_of(texts[position]),
            }
            for position in range(start, min(start + BATCH_POINTS, len(texts)))
        ]


def _store(clients: _ClientsOfThreads, batch: list[dict[str, Any]]) -> None:
    client = clients.mine()
    patiently(lambda: client.put(f"{POINTS_PATH}?wait=true", {"points": batch}))


def _take(
    future: Future[None],
    batch: list[dict[str, Any]],
    acknowledged: dict[int, Payload],
    advance: Callable[[int], None],
) -> None:
    future.result()
    acknowledged.update((point["id"], point["payload"]) for point in batch)
    advance(len(batch))
