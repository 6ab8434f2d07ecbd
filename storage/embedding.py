"""Text to vectors without a download: static token embeddings that a wheel carries.

The weights (32,000 tokens x 256, float16) and the tokenizer are files of the `wordllama`
distribution; they are read as data and its code is never imported, because that code looks for
the tokenizer elsewhere and then asks the network. A text's vector is the mean of its tokens'
vectors, at unit length, so a text costs microseconds and gives the same bits on every node.

Vectors of different models cannot be compared, even when their dimensions agree. `space` names
the model: SHA-256 over weights, tokenizer, pooling, normalisation and dimension. A collection
remembers the space it was made for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]

WEIGHTS: Final = "wordllama/weights/l2_supercat_256.safetensors"
TOKENIZER: Final = "wordllama/tokenizers/l2_supercat_tokenizer_config.json"
RECIPE: Final = b"mean over tokens without special tokens; unit length; float32"
BATCH: Final = 256


class NoEmbedding(ValueError):
    """A text without a single token; `position` says which of the texts."""

    def __init__(self, position: int) -> None:
        super().__init__("the text has no token to embed")
        self.position = position


class Embedder(Protocol):
    """Turns texts into unit vectors of one embedding space."""

    @property
    def space(self) -> str:
        """Identity of the embedding space: 64 hex digits."""
        ...

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        ...

    def embed(self, texts: Sequence[str]) -> Any:
        """Return float32 (len(texts), dimension), or an awaitable of it."""
        ...


class BundledEmbedder:
    """The default embedder. Blocking: call it on a thread. Loads on first use."""

    dimension: Final = 256

    def __init__(self) -> None:
        carrier = distribution("wordllama")
        self._weights = Path(str(carrier.locate_file(WEIGHTS)))
        self._tokenizer_file = Path(str(carrier.locate_file(TOKENIZER)))

    @cached_property
    def space(self) -> str:
        """Identity of the embedding space."""
        parts = (self._weights.read_bytes(), self._tokenizer_file.read_bytes(), RECIPE)
        digest = hashlib.sha256(str(self.dimension).encode())
        for part in parts:
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()

    @cached_property
    def _table(self) -> Matrix:
        (table,) = load_file(self._weights).values()
        assert table.shape[1] == self.dimension, "the weights have the dimension they promise"
        return np.asarray(table, dtype=np.float32)

    @cached_property
    def _tokens(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self._tokenizer_file.read_text(encoding="utf-8"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return the unit vectors of texts, float32 (n, 256).

        Raises:
            NoEmbedding: a text without tokens, such as an empty one.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            vectors[start : start + len(part)] = self._embed_batch(part, start)
        assert np.isfinite(vectors).all(), "token vectors are finite"
        return vectors

    def _embed_batch(self, texts: list[str], first: int) -> Matrix:
        ids = [
            encoding.ids for encoding in self._tokens.encode_batch(texts, add_special_tokens=False)
        ]
        for offset, tokens in enumerate(ids):
            if not tokens:
                raise NoEmbedding(first + offset)
        lengths = np.array([len(tokens) for tokens in ids])
        flat = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in ids])
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        sums = np.add.reduceat(self._table[flat], starts, axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        if not norms.all():
            raise NoEmbedding(first + int(np.argmin(norms)))
        return np.asarray(sums / norms, dtype=np.float32)
