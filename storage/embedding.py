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
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
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


class NoEmbedding(ValueError):
    """A text that has no vector; `position` says which."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"text {position} {reason}")
        self.position = position


class BundledEmbedder:
    """The model in the package. Safe for threads; its files are read when first needed."""

    dimension: Final = 256

    def __init__(self) -> None:
        """Find the model.

        Raises:
            RuntimeError: it is not installed.
        """
        try:
            files = distribution(_DISTRIBUTION)
        except PackageNotFoundError as error:
            raise RuntimeError("the bundled embedding model is not installed") from error
        self._weights = Path(str(files.locate_file(_WEIGHTS)))
        self._tokenizer = Path(str(files.locate_file(_TOKENIZER)))

    @cached_property
    def space(self) -> str:
        """Identity of the embedding space: 64 hexadecimal digits."""
        digest = hashlib.sha256(_RECIPE)
        for path in (self._weights, self._tokenizer):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    @cached_property
    def _table(self) -> npt.NDArray[np.float16]:
        table = load_file(self._weights)[_TENSOR]
        assert table.shape[1] == self.dimension, "the weights have the dimension they promise"
        return table

    @cached_property
    def _tokens(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(self._tokenizer))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        assert tokenizer.get_vocab_size() <= len(self._table), "each token has a vector"
        return tokenizer

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return a unit vector for each text, as float32[n, dimension]. Blocks.

        Raises:
            NoEmbedding: a text without tokens, such as an empty one.
            ValueError: something that is no text, or has a lone surrogate.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        try:
            encoded = self._tokens.encode_batch(list(texts), add_special_tokens=False)
        except TypeError:
            raise ValueError("a text is a string without lone surrogates") from None
        for position, tokens in enumerate(encoded):
            if not tokens.ids:
                raise NoEmbedding(position, "has no tokens")
            vectors[position] = self._mean(tokens.ids)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not norms.all():
            raise NoEmbedding(int(np.argmin(norms)), "has no direction")
        vectors /= norms
        return vectors

    def _mean(self, ids: list[int]) -> Matrix:
        """Average with each distinct token read once, so that a long text needs no more memory."""
        distinct, counts = np.unique(ids, return_counts=True)
        weights = (counts / len(ids)).astype(np.float32)
        mean: Matrix = weights @ self._table[distinct].astype(np.float32)
        return mean
