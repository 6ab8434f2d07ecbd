"""Text to vector: the bundled model for real, and an endpoint on a real socket."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from aiohttp import web

from cluster import embedding_client
from cluster.embedding_client import OpenAIEmbedder
from cluster.errors import Unavailable
from storage.embedding import BundledEmbedder, NoEmbedding


def test_similar_texts_are_nearer() -> None:
    """Meaning decides, not shared words alone."""
    vectors = BundledEmbedder().embed(
        ["a small kitten sleeps", "the cat is napping", "interest rates rose in spring"]
    )
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_vectors_are_unit_float32_and_do_not_depend_on_the_batch() -> None:
    """The same text has the same bits alone and among others."""
    embedder = BundledEmbedder()
    texts = [f"text number {number} about {'rain ' * (number % 9)}" for number in range(300)]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (300, embedder.dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (embedder.embed([texts[271]])[0] == vectors[271]).all()


def test_the_space_is_the_same_in_every_process() -> None:
    """It names the model, not the process."""
    code = "from storage.embedding import BundledEmbedder; print(BundledEmbedder().space)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == BundledEmbedder().space


def test_a_text_without_tokens_is_named() -> None:
    """There is no mean of nothing."""
    with pytest.raises(NoEmbedding) as error:
        BundledEmbedder().embed(["something", ""])
    assert error.value.position == 1


@asynccontextmanager
async def endpoint(answer: Callable[[dict], web.Response]) -> AsyncIterator[tuple[str, list]]:
    """An embeddings endpoint; gives its URL and the requests it saw."""
    seen: list = []

    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append((request.headers.get("Authorization"), body))
        return answer(body)

    app = web.Application()
    app.router.add_post("/v1/embeddings", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        await web.SockSite(runner, sock).start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1/embeddings", seen
        finally:
            await runner.cleanup()


def lengths(body: dict) -> web.Response:
    data = [
        {"index": k, "embedding": [float(len(text)), 1.0, 0.0]}
        for k, text in enumerate(body["input"])
    ]
    return web.json_response({"data": data[::-1]})


async def test_an_endpoint_is_asked_in_batches_and_put_in_order() -> None:
    """Answers carry an index; vectors come back at unit length, in the order of the texts."""
    texts = ["x" * (k % 50 + 1) for k in range(150)]
    async with endpoint(lengths) as (url, seen):
        vectors = await OpenAIEmbedder(url, "m", 3, "secret").embed(texts)
    assert [len(body["input"]) for _, body in seen] == [64, 64, 22]
    assert {key for key, _ in seen} == {"Bearer secret"}
    assert np.allclose(vectors[:, 0] / vectors[:, 1], [len(text) for text in texts])


async def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """429 and 5xx are answers for now, not for good."""
    monkeypatch.setattr(embedding_client, "PAUSE_S", 0.001)
    statuses = [429, 503]

    def answer(body: dict) -> web.Response:
        return web.Response(status=statuses.pop()) if statuses else lengths(body)

    async with endpoint(answer) as (url, seen):
        await OpenAIEmbedder(url, "m", 3).embed(["a"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    "data",
    [
        {"data": []},
        {"data": [{"index": 0, "embedding": [1.0, 2.0]}]},
        {"data": [{"index": 0, "embedding": [0.0, 0.0, 0.0]}]},
        {"data": [{"index": 0, "embedding": [1e39, 0.0, 0.0]}]},
        {"data": [{"index": 0, "embedding": ["1", 0.0, 0.0]}]},
        {"wrong": True},
    ],
)
async def test_an_answer_that_is_no_vector_is_not_believed(data: dict) -> None:
    """Wrong count, dimension, type, no length, not finite: unavailable, never stored."""
    async with endpoint(lambda _: web.json_response(data)) as (url, _):
        with pytest.raises(Unavailable):
            await OpenAIEmbedder(url, "m", 3).embed(["a"])


async def test_the_key_is_in_no_error() -> None:
    """A refusal names the status alone."""
    async with endpoint(lambda _: web.Response(status=401)) as (url, _):
        with pytest.raises(Unavailable) as error:
            await OpenAIEmbedder(url, "m", 3, "very-secret").embed(["a"])
    assert "very-secret" not in repr(error.value)
    assert "401" in str(error.value)
