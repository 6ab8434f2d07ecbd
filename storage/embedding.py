"""Text to vector: what an embedder is, and the one that comes with the product.

An embedding space is what vectors can be compared in, so it has an identity: a digest of all that
decides which vector a text gets. A collection remembers the identity, and vectors of another space
are refused instead of compared.

The bundled model is a table of token vectors from the wheel of wordllama (MIT), read as a file and
never imported: a text is the mean of its tokens' vectors, scaled to unit length. It needs no
network, no GPU and about 25 us a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from storage.metric import Matrix

_DISTRIBUTION: Final = "wordllama"
_WEIGHTS: Final = "wordllama/weights/l2_supercat_256.safetensors"
_TOKENIZER: Final = "wordllama/tokenizers/l2_supercat_tokenizer_config.json"
_TENSOR: Final = "embedding.weight"
_RECIPE: Final = b"recollect/1 pooling=mean normalisation=l2"


class Embedder(Protocol):
    """Turns texts into vectors of one embedding space."""

    @property
    def space(self) -> str:
        """Identity of the embedding space."""
        ...

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        ...

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return a unit vector for each text, as float32[n, dimension]. Blocks.

        Raises:
            ValueError: a text that has no vector, naming its position.
        """
        ...


class BundledEmbedder:
    """The model in the package. Safe for threads."""

    def __init__(self) -> None:
        """Read the model.

        Raises:
            RuntimeError: the model's files are not installed, or are not what they should be.
        """
        try:
            files = distribution(_DISTRIBUTION)
            weights, tokenizer = (Path(str(files.locate_file(p))) for p in (_WEIGHTS, _TOKENIZER))
            self._table = load_file(weights)[_TENSOR]  # float16: half the memory
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
            self.space: Final = _identity(weights, tokenizer)
        except (PackageNotFoundError, OSError, KeyError, SafetensorError) as error:
            raise RuntimeError(f"the bundled embedding model cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.dimension: Final = int(self._table.shape[1])
        assert self._tokenizer.get_vocab_size() <= len(self._table), "a vector for each token"

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return a unit vector for each text, as float32[n, dimension]. Blocks.

        Raises:
            ValueError: a text without tokens, naming its position, or with a lone surrogate.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        try:
            encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except TypeError:
            raise ValueError("a text is a string without lone surrogates") from None
        for position, tokens in enumerate(encoded):
            if not tokens.ids:
                raise ValueError(f"text {position} has no tokens")
            vectors[position] = self._mean(tokens.ids)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not norms.all():
            raise ValueError(f"text {int(np.argmin(norms))} has no direction")
        vectors /= norms
        return vectors

    def _mean(self, ids: list[int]) -> Matrix:
        """Average with each distinct token read once, so that a long text needs no more memory."""
        distinct, counts = np.unique(ids, return_counts=True)
        weights = (counts / len(ids)).astype(np.float32)
        mean: Matrix = weights @ self._table[distinct].astype(np.float32)
        return mean


def _identity(*files: Path) -> str:
    digest = hashlib.sha256(_RECIPE)
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
