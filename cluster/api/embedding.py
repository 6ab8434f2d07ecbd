"""Text to vector at the edge: off the loop, within the deadline, only in its own space.

A vector says nothing about the model that made it. So text is embedded only for collections
whose embedding space is the embedder's; anything else would compare numbers without meaning.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any, Final

from cluster.api.backend import TextEmbedder
from cluster.api.route import Call
from cluster.api.vectors import VectorSpace, check_vector
from cluster.errors import BadRequest, EmbeddingSpaceMismatch
from cluster.model import Collection, Vector

CHECKED_HERE: Final = 32
"""So many vectors are looked at on the event loop: it takes less than a millisecond."""


async def embed_text(call: Call, text: str, collection: VectorSpace, field: str) -> Vector:
    """Return the vector of a text for a collection or a graph.

    Raises:
        EmbeddingSpaceMismatch: its vectors come from elsewhere.
        BadRequest: the text is too long, or has no embedding.
    """
    (vector,) = await embed_texts(call, [text], collection, [field])
    return vector


async def embed_texts(
    call: Call, texts: Sequence[str], collection: VectorSpace, fields: Sequence[str]
) -> list[Vector]:
    """Return the vectors of texts; `fields` name them. Raises as `embed_text` does."""
    for text, field in zip(texts, fields, strict=True):
        require_space(collection, call.api.embedder, field)
        check_text(text, call.api.config.payload_bytes_max, field)
    vectors = await embedded(call.api.embedder, list(texts))
    if len(texts) <= CHECKED_HERE:
        return _checked(vectors, collection, fields)
    return await asyncio.to_thread(_checked, vectors, collection, fields)


def _checked(vectors: Any, collection: VectorSpace, fields: Sequence[str]) -> list[Vector]:
    return [
        check_vector(vector.tolist(), collection, field)
        for vector, field in zip(vectors, fields, strict=True)
    ]


def require_space(collection: VectorSpace, embedder: TextEmbedder, field: str) -> None:
    """Raise EmbeddingSpaceMismatch unless a collection's vectors come from this embedder."""
    if collection.embedding_space is None or collection.embedding_space != embedder.space:
        raise EmbeddingSpaceMismatch(
            f"'{collection.name}' does not hold vectors of this server's text embedding",
            field=field,
        )


def check_text(text: str, bytes_max: int, field: str) -> None:
    """Raise BadRequest for a text that is too long, or blank."""
    if len(text.encode()) > bytes_max:
        raise BadRequest(f"the text is larger than {bytes_max} bytes", field=field)
    if not text.strip():
        raise BadRequest("the text is blank", field=field)


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


async def embedded(embedder: TextEmbedder, texts: list[str]) -> Any:
    """Return what an embedder makes of texts, float32[n, dimension], off the event loop."""
    if inspect.iscoroutinefunction(embedder.embed):
        return await embedder.embed(texts)
    return await asyncio.to_thread(embedder.embed, texts)
