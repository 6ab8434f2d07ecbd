"""Embeddings from an OpenAI-style endpoint: {model, input} in, {data: [{index, embedding}]} out.

The answer is somebody else's and is checked like a request: as many vectors as texts, each of the
right length, finite, and with a direction. Connection failures, 429 and 5xx are tried again with
growing pauses, within the time that one call has. The key travels in a header and nowhere else: no
error carries the request or the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence
from typing import Final

import aiohttp
import msgspec
import numpy as np
import numpy.typing as npt

from cluster.config import Config
from cluster.errors import BadRequest, DeadlineExceeded, Unavailable
from storage.embedding import BundledEmbedder, Embedder
from storage.metric import Matrix

TEXTS_PER_REQUEST: Final = 128
_ATTEMPTS: Final = 4
_PAUSE_MAX_S: Final = 2.0
_ANSWER_BYTES_PER_NUMBER: Final = 32
_ANSWER_BYTES_SPARE: Final = 1 << 16


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Embedding]


class _TryAgainError(Exception):
    """A failure that may pass; `pause_s` is how long the endpoint asks to be left alone."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class OpenAIEmbedder:
    """Turns texts into unit vectors by asking an endpoint. Its `embed` is a coroutine."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        dimension: int,
        api_key: str = "",
        timeout_s: float = 4.0,
        pause_s: float = 0.1,
    ) -> None:
        """Remember where to ask; nothing is sent yet.

        One `embed` has `timeout_s`; `pause_s` before it tries again, doubled each time.

        Raises:
            ValueError: a dimension below 1.
        """
        if dimension < 1:
            raise ValueError("embedding_dimension must be given for an embedding endpoint")
        self._url = url
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self.dimension: Final = dimension
        name = f"recollect/1 openai model={model} dimension={dimension} normalisation=l2"
        self.space: Final = hashlib.sha256(name.encode()).hexdigest()

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Return a unit vector for each text, as float32[n, dimension].

        Raises:
            BadRequest: the endpoint refuses the texts.
            Unavailable: it does not answer, or not with usable vectors.
            DeadlineExceeded: not in time.
        """
        parts = [np.empty((0, self.dimension), dtype=np.float32)]
        try:
            async with asyncio.timeout(self._timeout_s), aiohttp.ClientSession() as session:
                for start in range(0, len(texts), TEXTS_PER_REQUEST):
                    batch = list(texts[start : start + TEXTS_PER_REQUEST])
                    parts.append(await self._embed_batch(session, batch))
        except TimeoutError:
            raise DeadlineExceeded("the embedding endpoint did not answer in time") from None
        return np.concatenate(parts)

    async def _embed_batch(self, session: aiohttp.ClientSession, texts: list[str]) -> Matrix:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._vectors(await self._ask(session, texts), len(texts))
            except _TryAgainError as error:
                if attempt == _ATTEMPTS:
                    raise Unavailable(str(error)) from None
                pause_s = max(self._pause_s * 2 ** (attempt - 1), error.pause_s)
                await asyncio.sleep(min(pause_s, _PAUSE_MAX_S))
        raise AssertionError("the last attempt returns or raises")

    async def _ask(self, session: aiohttp.ClientSession, texts: list[str]) -> bytes:
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        try:
            async with session.post(
                self._url, json=body, headers=self._headers, allow_redirects=False
            ) as response:
                _check_status(response)
                return await self._read(response, len(texts))
        except aiohttp.ClientError as error:
            kind = type(error).__name__
            raise _TryAgainError(f"the embedding endpoint cannot be reached: {kind}") from None

    async def _read(self, response: aiohttp.ClientResponse, count: int) -> bytes:
        bytes_max = count * self.dimension * _ANSWER_BYTES_PER_NUMBER + _ANSWER_BYTES_SPARE
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > bytes_max:
                raise Unavailable("the embedding endpoint's answer is too large")
        return bytes(body)

    def _vectors(self, raw: bytes, count: int) -> Matrix:
        try:
            data = msgspec.json.decode(raw, type=_Answer).data
        except msgspec.MsgspecError:
            raise Unavailable("the embedding endpoint's answer is not of its format") from None
        ordered = sorted(data, key=lambda item: item.index)
        if [item.index for item in ordered] != list(range(count)):
            raise Unavailable("the embedding endpoint's answer is not one vector for each text")
        if any(len(item.embedding) != self.dimension for item in ordered):
            length = len(ordered[0].embedding)
            raise Unavailable(f"the embedding endpoint's vectors have {length} elements")
        return _normalised(np.array([item.embedding for item in ordered], dtype=np.float64))


def make_embedder(config: Config) -> Embedder | OpenAIEmbedder:
    """Return the embedder that the settings name.

    Raises:
        ValueError: an endpoint without a dimension.
        RuntimeError: the bundled model cannot be read.
    """
    if not config.embedding_url:
        return BundledEmbedder()
    return OpenAIEmbedder(
        config.embedding_url,
        model=config.embedding_model,
        dimension=config.embedding_dimension,
        api_key=config.embedding_api_key,
        timeout_s=config.request_timeout_ms / 1000,
    )


def _normalised(vectors: npt.NDArray[np.float64]) -> Matrix:
    if not (np.abs(vectors) <= np.finfo(np.float32).max).all():
        raise Unavailable("the embedding endpoint's vectors are not finite")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise Unavailable("the embedding endpoint's vectors are zero")
    unit: Matrix = (vectors / norms).astype(np.float32)
    return unit


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 429 or status >= 500:
        raise _TryAgainError(f"the embedding endpoint answers {status}", _retry_after_s(response))
    if status in {400, 413, 422}:
        raise BadRequest(f"the embedding endpoint refuses the text with {status}")
    if status != 200:
        raise Unavailable(f"the embedding endpoint answers {status}")


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
