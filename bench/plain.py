"""A server that does nothing but search: hnswlib behind aiohttp, orjson and uvloop.

    python -m bench.plain PORT INDEX_FILE DIMENSION

It keeps no payloads, checks nothing, and loses everything when it ends: what it takes for a search
is what HTTP and JSON in Python take on a machine, and how much of in-process hnswlib is left to a
server there. A search is made by one of two threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import hnswlib
import numpy as np
import orjson
import uvloop
from aiohttp import web

from bench import load, posting
from bench.dataset import K, Matrix
from bench.posting import Speed
from bench.systems import STORING_CLIENTS, Found, InProcess, OverHttp
from cluster.ports import free_base

PATH: Final = "/search"
THREADS: Final = 2


class Plain(OverHttp):
    """The server, as the benchmark sees it. It starts with the index of in-process hnswlib."""

    stores = False

    def __init__(self, port: int, pid: int, ef: int) -> None:
        super().__init__("hnswlib behind aiohttp", [port], [pid])
        self._ef = ef

    def store(self, vectors: Matrix) -> None:
        """Do nothing: all of it is there."""

    def is_indexed(self, total: int) -> bool:
        """Return whether all vectors are in the index: they were from the start."""
        return bool(self.call("GET", PATH) == total)

    def find(self, queries: Matrix, ef: int | None) -> Found:
        """Return the ids of the K nearest to each query."""
        sent = [load.request("POST", PATH, body) for body in _bodies(queries, ef or self._ef)]
        answers = load.run(self.ports[0], sent, STORING_CLIENTS).answers
        return [[hit["id"] for hit in orjson.loads(raw)] for raw in answers]

    def speed(self, queries: Matrix, ef: int | None, connections: int, seconds: float) -> Speed:
        """Search over HTTP."""
        return posting.run(
            self.ports[0], PATH, _bodies(queries, ef or self._ef), connections, seconds
        )


@contextlib.contextmanager
def plain(limit: InProcess, ef: int) -> Iterator[Plain]:
    """Run the server with the index that `limit` has built; it searches `ef` wide."""
    port = free_base(1, random.Random()) + 1
    with tempfile.TemporaryDirectory(prefix="recollect-plain-") as folder:
        file = Path(folder, "index")
        limit.save(file)
        words = [sys.executable, "-m", "bench.plain", str(port), str(file), str(limit.dimension)]
        process = subprocess.Popen(words)
        try:
            server = Plain(port, process.pid, ef)
            server.until_up(PATH, process)
            yield server
        finally:
            process.terminate()
            process.wait()


def _bodies(queries: Matrix, ef: int) -> list[bytes]:
    option = orjson.OPT_SERIALIZE_NUMPY
    return [orjson.dumps({"query": row, "ef": ef}, option=option) for row in queries]


async def _serve(port: int, index: hnswlib.Index) -> None:
    pool = ThreadPoolExecutor(THREADS)
    loop = asyncio.get_running_loop()

    def nearest(query: Sequence[float], ef: int) -> Any:
        # To ask for ef rows is to search so wide; `set_ef` would change it for others, too.
        return index.knn_query(np.array(query, dtype=np.float32), k=max(ef, K))

    async def search(request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        found, distances = await loop.run_in_executor(pool, nearest, asked["query"], asked["ef"])
        pairs = zip(found[0, :K].tolist(), distances[0, :K].tolist(), strict=True)
        body = orjson.dumps([{"id": number, "score": 1.0 - each} for number, each in pairs])
        return web.Response(body=body, content_type="application/json")

    async def count(_request: web.Request) -> web.Response:
        return web.json_response(index.get_current_count())

    app = web.Application()
    app.router.add_post(PATH, search)
    app.router.add_get(PATH, count)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main(words: Sequence[str]) -> None:
    """Serve until killed."""
    port, file, dimension = words
    index = hnswlib.Index("ip", int(dimension))
    index.load_index(file)
    index.set_num_threads(1)
    uvloop.run(_serve(int(port), index))


if __name__ == "__main__":
    main(sys.argv[1:])
