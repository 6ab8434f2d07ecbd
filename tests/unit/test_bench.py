"""What the benchmarks compute by themselves: data, recall, and the load without wrk."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
from aiohttp import web

from bench import dataset, posting


def test_generated_data_have_their_true_neighbours():
    """Rows are unit vectors, and nobody is nearer than the true neighbours."""
    data = dataset.opened(None, rows=400, queries=20)
    scores = data.queries @ data.vectors.T
    worst = np.take_along_axis(scores, data.truth.astype(int), axis=1).min(axis=1)

    assert np.allclose(np.linalg.norm(data.vectors, axis=1), 1, atol=1e-5)
    assert data.truth.shape == (20, dataset.K)
    assert ((scores > worst[:, None]).sum(axis=1) == dataset.K - 1).all()


def test_recall_is_the_share_of_the_truth():
    """All found is one, half found is a half, in any order."""
    truth = np.arange(20, dtype=np.int32).reshape(2, 10)

    assert dataset.recall([list(range(9, -1, -1)), list(range(10, 20))], truth) == 1.0
    assert dataset.recall([list(range(5)), list(range(10, 15))], truth) == 0.5


def test_a_folder_is_read_in_part(tmp_path):
    """Of the first rows the neighbours are computed; of all they are those of the file."""
    rng = np.random.default_rng(5)
    np.save(tmp_path / "vectors.f16.npy", rng.normal(size=(60, 8)).astype(np.float16))
    np.save(tmp_path / "queries.f16.npy", rng.normal(size=(5, 8)).astype(np.float16))
    known = rng.integers(60, size=(5, 20)).astype(np.int32)
    np.save(tmp_path / "neighbors.i32.npy", known)

    assert (dataset.opened(tmp_path).truth == known[:, : dataset.K]).all()
    part = dataset.opened(tmp_path, rows=30, queries=3)
    assert part.vectors.shape == (30, 8)
    assert part.truth.shape == (3, dataset.K)
    assert part.truth.max() < 30


async def test_a_load_counts_what_is_answered():
    """With wrk or without, each answer is one that the server gave, in so many milliseconds."""
    asked = 0
    lock = threading.Lock()

    async def answer(request):
        nonlocal asked
        assert await request.read() in {b'{"n":1}', b'{"n":2}'}
        with lock:
            asked += 1
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/x", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        for run in (posting.run, posting.by_processes):
            before = asked
            speed = await asyncio.to_thread(run, port, "/x", [b'{"n":1}', b'{"n":2}'], 2, 1)

            assert asked > before
            assert speed.rate > 0
            assert 0 < speed.p50_ms <= speed.p99_ms
    finally:
        await runner.cleanup()
