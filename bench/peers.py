"""What users would pick instead, where it is installed: Chroma, and pgvector in Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np
import orjson

from bench import load, posting
from bench.dataset import K, Matrix
from bench.posting import Speed
from bench.systems import BATCH, EF_CONSTRUCTION, STORING_CLIENTS, Found, M, OverHttp
from cluster.ports import free_base
from storage.embedded_postgres import EmbeddedPostgres
from storage.postgres_programs import PACKAGE

_CHROMA_EF: Final = 100
_PGVECTOR_EF: Final = 40
"""Beam widths that these use when nobody says."""


def chroma_program() -> str | None:
    """Return the program `chroma`, if it is installed beside this interpreter or elsewhere."""
    return shutil.which("chroma", path=str(Path(sys.executable).parent)) or shutil.which("chroma")


def has_pgvector() -> bool:
    """Return whether the programs of Postgres with pgvector are installed."""
    return find_spec(PACKAGE) is not None


class Chroma(OverHttp):
    """Chroma's server, by its HTTP API; its beam width belongs to the collection."""

    _COLLECTIONS: Final = "/api/v2/tenants/default_tenant/databases/default_database/collections"

    def __init__(self, port: int, pid: int) -> None:
        super().__init__("Chroma", [port], [pid])
        self._path = ""
        self._ef = _CHROMA_EF

    def store(self, vectors: Matrix) -> None:
        """Store batches over several connections."""
        graph = {"space": "cosine", "ef_construction": EF_CONSTRUCTION, "max_neighbors": M}
        body = {"name": "bench", "configuration": {"hnsw": {**graph, "ef_search": self._ef}}}
        made = self.call("POST", self._COLLECTIONS, body)
        self._path = f"{self._COLLECTIONS}/{made['id']}"
        self.send_batches("POST", f"{self._path}/add", _chroma_batches(vectors))

    def is_indexed(self, total: int) -> bool:
        """Return whether everything is counted: Chroma indexes as it stores."""
        return bool(self.call("GET", f"{self._path}/count") == total)

    def find(self, queries: Matrix, ef: int | None) -> Found:
        """Return the ids of the K nearest to each query."""
        self._use(ef)
        path = f"{self._path}/query"
        sent = [load.request("POST", path, body) for body in _chroma_queries(queries)]
        answers = load.run(self.ports[0], sent, STORING_CLIENTS).answers
        return [[int(found) for found in orjson.loads(raw)["ids"][0]] for raw in answers]

    def speed(self, queries: Matrix, ef: int | None, connections: int, seconds: float) -> Speed:
        """Search over HTTP."""
        self._use(ef)
        path = f"{self._path}/query"
        return posting.run(self.ports[0], path, _chroma_queries(queries), connections, seconds)

    def _use(self, ef: int | None) -> None:
        wanted = ef or _CHROMA_EF
        if wanted != self._ef:
            body = {"new_configuration": {"hnsw": {"ef_search": wanted}}}
            self.call("PUT", self._path, body)
            self._ef = wanted


class Pgvector:
    """pgvector's HNSW in a Postgres of this benchmark, by prepared statements of asyncpg."""

    name = "pgvector"
    stores = True

    def __init__(self, url: str) -> None:
        self._url = url

    def store(self, vectors: Matrix) -> None:
        """Insert batches over several connections, then there is an index."""
        asyncio.run(self._store(vectors))

    def is_indexed(self, total: int) -> bool:
        """Return True: rows are in the index when their transaction is."""
        del total
        return True

    def find(self, queries: Matrix, ef: int | None) -> Found:
        """Return the ids of the K nearest to each query."""
        return asyncio.run(self._search(queries, ef, 1, None))[0]

    def speed(self, queries: Matrix, ef: int | None, connections: int, seconds: float) -> Speed:
        """Search over so many connections of one process."""
        _, took_s = asyncio.run(self._search(queries, ef, connections, seconds))
        p50_ms, p99_ms = np.quantile(took_s, (0.5, 0.99)) * 1000
        return Speed(len(took_s) / seconds, float(p50_ms), float(p99_ms))

    def memory_bytes(self) -> int | None:
        """Return None: its pages are shared with the system's cache."""
        return None

    async def _store(self, vectors: Matrix) -> None:
        async with asyncpg.create_pool(self._url, min_size=1, max_size=STORING_CLIENTS) as pool:
            await pool.execute("CREATE EXTENSION IF NOT EXISTS vector")
            await pool.execute(f"CREATE TABLE b (id int, v vector({vectors.shape[1]}))")
            await pool.execute(
                "CREATE INDEX ON b USING hnsw (v vector_cosine_ops) "
                f"WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
            )
            starts = iter(range(0, len(vectors), BATCH))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(STORING_CLIENTS):
                    tasks.create_task(_insert(pool, vectors, starts))

    async def _search(
        self, queries: Matrix, ef: int | None, connections: int, seconds: float | None
    ) -> tuple[Found, list[float]]:
        """Search for `seconds`, or once for each query; return what was found, and how long."""
        texts = [_text(row) for row in queries]
        found: Found = [[] for _ in texts]
        took_s: list[float] = []
        until = None if seconds is None else time.perf_counter() + seconds
        numbers = iter(range(len(texts))) if until is None else _round_and_round(len(texts), until)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(connections):
                work = _select(self._url, texts, ef or _PGVECTOR_EF, numbers, found, took_s)
                tasks.create_task(work)
        return found, took_s


@contextlib.contextmanager
def chroma(program: str) -> Iterator[Chroma]:
    """Run a Chroma server."""
    port = free_base(1, random.Random()) + 1
    with tempfile.TemporaryDirectory(prefix="recollect-chroma-") as folder:
        words = [program, "run", "--path", folder, "--port", str(port)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            server = Chroma(port, process.pid)
            server.until_up("/api/v2/heartbeat", process)
            yield server
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def pgvector() -> Iterator[Pgvector]:
    """Run a Postgres with pgvector."""
    folder = Path(tempfile.mkdtemp(prefix="recollect-pgvector-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "server")
    try:
        server.start()
        yield Pgvector(server.url)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _chroma_batches(vectors: Matrix) -> Iterator[bytes]:
    for first in range(0, len(vectors), BATCH):
        rows = vectors[first : first + BATCH]
        ids = [str(first + at) for at in range(len(rows))]
        body = {"ids": ids, "embeddings": list(rows)}
        yield orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _chroma_queries(queries: Matrix) -> list[bytes]:
    return [
        orjson.dumps(
            {"query_embeddings": [row], "n_results": K, "include": ["distances"]},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        for row in queries
    ]


def _text(row: Any) -> str:
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY).decode()


async def _insert(pool: Any, vectors: Matrix, starts: Iterator[int]) -> None:
    for first in starts:
        rows = [(first + at, _text(row)) for at, row in enumerate(vectors[first : first + BATCH])]
        await pool.executemany("INSERT INTO b VALUES ($1, $2::text::vector)", rows)


def _round_and_round(count: int, until: float) -> Iterator[int]:
    number = 0
    while time.perf_counter() < until:
        yield number % count
        number += 1


async def _select(
    url: str,
    texts: Sequence[str],
    ef: int,
    numbers: Iterator[int],
    found: Found,
    took_s: list[float],
) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"SET hnsw.ef_search = {ef}")
        nearest = await connection.prepare(
            f"SELECT id FROM b ORDER BY v <=> $1::text::vector LIMIT {K}"
        )
        for number in numbers:
            sent = time.perf_counter()
            rows = await nearest.fetch(texts[number])
            took_s.append(time.perf_counter() - sent)
            found[number] = [row[0] for row in rows]
    finally:
        await connection.close()
