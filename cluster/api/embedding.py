"""Text to vector at the edge: off the loop, within the deadline, only in its own space.

A vector says nothing about the model that made it. So text is embedded only for collections
whose embedding space is the embedder's; anything else would compare numbers without meaning.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

from cluster.api.backend import TextEmbedder
from cluster.api.route import Call
from cluster.api.vectors import check_vector
from cluster.errors import BadRequest, EmbeddingSpaceMismatch
from cluster.model import Collection, Vector


async def embed_text(call: Call, text: str, collection: Collection, field: str) -> Vector:
    """Return the vector of a text for a collection.

    Raises:
        EmbeddingSpaceMismatch: the collection's vectors come from elsewhere.
        BadRequest: the text is too long, or has no embedding.
    """
    embedder = call.api.embedder
    if collection.embedding_space is None or collection.embedding_space != embedder.space:
        raise EmbeddingSpaceMismatch(
            f"collection '{collection.name}' does not hold vectors of this server's text embedding",
            field=field,
        )
    bytes_max = call.api.config.payload_bytes_max
    if len(text.encode()) > bytes_max:
        raise BadRequest(f"the text is larger than {bytes_max} bytes", field=field)
    if not text.strip():
        raise BadRequest("the text is blank", field=field)
    vectors = await _embed(embedder, [text])
    return check_vector(vectors[0].tolist(), collection, field)


def given_embedding(
    values: Sequence[float], space: str | None, collection: Collection, field: str
) -> Vector:
    """Return a caller's own vector; `space` says which embedding space it claims, if any.

    Raises:
        EmbeddingSpaceMismatch: it claims another space than the collection's.
        BadRequest: not a vector of the collection.
    """
    if space is not None and space != collection.embedding_space:
        raise EmbeddingSpaceMismatch(
            f"collection '{collection.name}' holds vectors of another embedding space", field=field
        )
    return check_vector(values, collection, field)


async def _embed(embedder: TextEmbedder, texts: list[str]) -> Any:
    if inspect.iscoroutinefunction(embedder.embed):
        return await embedder.embed(texts)
    return await asyncio.to_thread(embedder.embed, texts)
