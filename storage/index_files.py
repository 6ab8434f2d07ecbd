"""Saves a vector index to files, and loads them again only if every byte is what was written.

hnswlib believes whatever it reads, and a flipped bit becomes a crash or, worse, wrong answers. So
each file's length and SHA-256 stand in a manifest, which begins with its own; the graph's header
must agree with the manifest, and the manifest with the index that asks. Whatever is wrong becomes
an `IndexFileError`, and the caller fills an empty index from the store instead. What was measured
of the graph stands apart from this, in `beam_file`.

A save is a directory named by a number. It is written under another name, synced, and renamed; the
highest number counts, and older ones are removed after that. Rows of the fresh tail are not saved:
reconciliation with the store brings them back.

hnswlib writes with the interpreter lock held, which for a large graph would stop the node for
seconds. Where the system can fork, a child process writes instead: it sees the graph as it was,
and does nothing but write and leave.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import numpy as np

from storage import beam_file, signed_file
from storage.beam_width import Measured
from storage.digest_slots import DIGEST_ENTRY
from storage.hnsw import Hnsw
from storage.index_state import Image
from storage.metric import Metric
from storage.slots import RECORD
from storage.state_layout import sync_path
from storage.vector_index import VectorIndex

FORMAT: Final = 1
_GRAPH: Final = "graph.bin"
_RECORDS: Final = "records.bin"
_ALIVE: Final = "alive.bin"
_STAND_INS: Final = "stand_ins.bin"
_DIGESTS: Final = "digests.bin"
_FILES: Final = (_GRAPH, _RECORDS, _ALIVE, _STAND_INS, _DIGESTS)
_MANIFEST: Final = "manifest.json"
_UNFINISHED: Final = ".unfinished"
_DESCRIPTORS_MAX: Final = 1 << 20
_WRITER_POLL_S: Final = 0.02
_WRITER_POLLS_MAX: Final = 30_000
"""Ten minutes; a child that takes longer is taken for stuck."""


class IndexFileError(Exception):
    """Saved files that cannot be used, or could not be written."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    dimension: int
    distance: str
    m: int
    ef_construct: int
    seed: int
    slots: int
    rows: int
    """Rows in the graph."""
    files: dict[str, _File]


def save(index: VectorIndex, directory: Path) -> bool:
    """Write the index as the newest save of a directory; False if there is nothing worth saving.

    Raises:
        IndexFileError: a file could not be written; older saves are as they were, and what was
            begun is gone: on a full disk it would keep the space from others.
    """
    try:
        with index.frozen() as image:
            if image is None:
                return False
            _write(index, image, directory)
            return True
    except (OSError, IndexFileError) as error:
        shutil.rmtree(directory / _UNFINISHED, ignore_errors=True)
        raise IndexFileError(f"{directory}: {error}") from error


def load(index: VectorIndex, directory: Path) -> bool:
    """Fill an empty index from the newest save of a directory; False if there is none.

    Raises:
        IndexFileError: the save is not whole, or of another shape; the index stays empty.
    """
    try:
        numbers = _saves(directory)
        if not numbers:
            return False
        index.adopt(_read(index, directory / str(numbers[-1])))
        return True
    except (OSError, ValueError, RuntimeError, MemoryError, msgspec.MsgspecError) as error:
        raise IndexFileError(f"{directory}: {error}") from error


def save_measured(measured: Measured, directory: Path) -> bool:
    """Write what was measured of a graph to its newest save; False if it has none.

    Raises:
        IndexFileError: it could not be written; the save is as it was.
    """
    try:
        numbers = _saves(directory)
        if numbers:
            beam_file.write(measured, directory / str(numbers[-1]))
        return bool(numbers)
    except OSError as error:
        raise IndexFileError(f"{directory}: {error}") from error


def _write(index: VectorIndex, image: Image, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / _UNFINISHED
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    _write_graph(image.graph, target / _GRAPH)
    image.records.tofile(target / _RECORDS)
    image.alive.tofile(target / _ALIVE)
    image.stand_ins.tofile(target / _STAND_INS)
    image.digests.tofile(target / _DIGESTS)
    files = {name: _describe(target / name, sync=True) for name in _FILES}
    shape = index.shape._asdict()
    manifest = _Manifest(
        format=FORMAT, **shape, slots=len(image.alive), rows=image.graph.count, files=files
    )
    if image.measured is not None:
        beam_file.write(image.measured, target)
    signed_file.write(target / _MANIFEST, msgspec.json.encode(manifest))
    older = _saves(directory)
    target.rename(directory / str(max(older, default=0) + 1))
    sync_path(directory)
    for number in older:
        shutil.rmtree(directory / str(number))


def _read(index: VectorIndex, save_directory: Path) -> Image:
    manifest = msgspec.json.decode(signed_file.read(save_directory / _MANIFEST), type=_Manifest)
    shape = index.shape
    expected = {"format": FORMAT, **shape._asdict()}
    if not expected.items() <= msgspec.structs.asdict(manifest).items():
        raise ValueError("the save of another index")
    for name in _FILES:
        if _describe(save_directory / name, sync=False) != manifest.files.get(name):
            raise ValueError(f"{name} is not what was written")
    records = np.fromfile(save_directory / _RECORDS, dtype=RECORD)
    alive = np.fromfile(save_directory / _ALIVE, dtype=np.uint8).view(np.bool_)
    stand_ins = np.fromfile(save_directory / _STAND_INS, dtype=np.int32)
    digests = np.fromfile(save_directory / _DIGESTS, dtype=DIGEST_ENTRY)
    if not len(records) == len(alive) == len(stand_ins) == manifest.slots:
        raise ValueError("the files are not of the same slots")
    metric = Metric(shape.distance, shape.dimension)
    graph = Hnsw(metric, m=shape.m, ef_construct=shape.ef_construct, seed=shape.seed)
    graph.load(save_directory / _GRAPH, manifest.rows)
    return Image(graph, records, alive, stand_ins, digests, beam_file.read(save_directory))


def _write_graph(graph: Hnsw, path: Path) -> None:
    if not hasattr(os, "fork"):
        graph.save(path)
        return
    child = os.fork()
    if child == 0:
        _write_and_leave(graph, path)
    for _ in range(_WRITER_POLLS_MAX):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise IndexFileError(f"{path}: the graph's writer ended with status {status}")
            return
        time.sleep(_WRITER_POLL_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise IndexFileError(f"{path}: the graph's writer did not end")


def _write_and_leave(graph: Hnsw, path: Path) -> NoReturn:
    """Run in the child: nothing of the parent may be touched, closed or flushed."""
    status = 1
    try:
        os.closerange(3, _DESCRIPTORS_MAX)  # else the node's ports would live as long as we do
        graph.save(path)
        status = 0
    finally:
        os._exit(status)


def _saves(directory: Path) -> list[int]:
    """Return the numbers of a directory's saves, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal())


def _describe(path: Path, *, sync: bool) -> _File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return _File(file.tell(), digest)
