"""Bodies of writes in MessagePack, with vectors as the bytes they are stored as."""

from __future__ import annotations

from typing import Any, Final

import msgpack
import numpy as np

MEDIA_TYPE: Final = "application/msgpack"


def points(vectors: np.ndarray[Any, np.dtype[np.float32]], first: int) -> bytes:
    """Return the body that stores vectors[n, dimension] under their row numbers from `first`."""
    ids = list(range(first, first + len(vectors)))
    batch = {
        "ids": ids,
        "vectors": vectors.astype("<f4").tobytes(),
        "payloads": [{"row": number} for number in ids],
    }
    body: bytes = msgpack.packb({"batch": batch})
    return body
