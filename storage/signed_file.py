"""Small files that begin with their own SHA-256: read as they were written, or not at all.

A file is written under another name, synced and renamed, so that a crash leaves the old or the new.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from storage.state_layout import publish

_BYTES_MAX: Final = 1 << 20


def write(path: Path, body: bytes) -> None:
    """Make or replace a file; on return it is on the disk.

    Raises:
        OSError: it could not be written; what was there before stays.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        publish(unfinished, path)
    except OSError:
        if unfinished.is_file():
            unfinished.unlink()
        raise


def read(path: Path) -> bytes:
    """Return what was written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else.
    """
    with path.open("rb") as file:
        digest, _, body = file.read(_BYTES_MAX).partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"{path.name} is not what was written")
    return body
