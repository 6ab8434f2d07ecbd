"""Embeddings from an OpenAI-style endpoint, and the choice between it and the bundled model.

The endpoint is somebody else's: it is given bounded batches and time, asked again with growing
pauses when it is busy (429, 5xx, no connection), and what it answers is checked before it is
believed. Its key travels in one header and appears in no message.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np

from cluster.config import Config
from cluster.errors import Unavailable
from storage.embedding import BundledEmbedder, Embedder, Matrix

BATCH: Final = 64
TIMEOUT_S: Final = 10.0
TRIES: Final = 3
PAUSE_S: Final = 0.2
ANSWER_BYTES_MAX: Final = 64 << 20
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


class OpenAIEmbedder:
    """Asks `url` for embeddings; `url` is the whole address, ending in /v1/embeddings."""

    def __init__(self, url: str, model: str, dimension: int, api_key: str = "") -> None:
        if dimension <= 0:
            raise ValueError("embedding_dimension must be set for an embedding endpoint")
        self._url, self._model, self._api_key = url, model, api_key
        self.dimension = dimension
        identity = f"openai-style\0{url}\0{model}\0{dimension}\0unit length"
        self.space = hashlib.sha256(identity.encode()).hexdigest()

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return the unit vectors of texts, float32 (n, dimension); raises Unavailable."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            parts = [
                await self._batch(session, list(texts[start : start + BATCH]))
                for start in range(0, len(texts), BATCH)
            ]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    async def _batch(self, session: aiohttp.ClientSession, texts: list[str]) -> Matrix:
        for attempt in range(1, TRIES + 1):
            raw = await self._ask(session, texts)
            if raw is not None:
                return self._checked(raw, len(texts))
            if attempt < TRIES:
                await asyncio.sleep(PAUSE_S * 2**attempt)
        raise Unavailable("the embedding endpoint does not answer")

    async def _ask(self, session: aiohttp.ClientSession, texts: list[str]) -> bytes | None:
        """Return the answer's bytes, or None when another try may help."""
        body: dict[str, Any] = {"model": self._model, "input": texts, "encoding_format": "float"}
        try:
            async with session.post(self._url, json=body, allow_redirects=False) as answer:
                if answer.status in _BUSY:
                    return None
                if answer.status != 200:
                    raise Unavailable(f"the embedding endpoint answered {answer.status}")
                raw = await answer.content.read(ANSWER_BYTES_MAX + 1)
                while len(raw) <= ANSWER_BYTES_MAX and (more := await answer.content.readany()):
                    raw += more
                return raw
        except (aiohttp.ClientError, TimeoutError):
            return None

    def _checked(self, raw: bytes, count: int) -> Matrix:
        try:
            items = msgspec.json.decode(raw, type=_Answer).data
            rows = [item.embedding for item in sorted(items, key=lambda item: item.index)]
            with np.errstate(over="ignore"):
                vectors = np.array(rows, dtype=np.float32)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Unavailable("the embedding endpoint's answer is not understood") from error
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
        if vectors.shape != (count, self.dimension) or not np.isfinite(norms).all():
            raise Unavailable(f"the embedding endpoint did not answer {self.dimension} numbers")
        if not norms.all():
            raise Unavailable("the embedding endpoint answered a vector without length")
        return np.asarray(vectors / norms, dtype=np.float32)


def make_embedder(config: Config) -> Embedder:
    """Return the configured embedder: the endpoint's when there is one, else the bundled."""
    if not config.embedding_url:
        return BundledEmbedder()
    return OpenAIEmbedder(
        config.embedding_url,
        config.embedding_model,
        config.embedding_dimension,
        config.embedding_api_key,
    )
