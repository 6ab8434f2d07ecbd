"""A real Postgres for tests, and shards that are written into it and read back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from cluster.checkpoint_elements import GraphElements
from cluster.shard import ShardMachine
from storage.checkpoint.contents import verify_shard
from storage.checkpoint.cut import Cut, take_cut
from storage.checkpoint.database import Database
from storage.checkpoint.migrate import migrate
from storage.checkpoint.model import Manifest, Task
from storage.checkpoint.restoring import restore_shard
from storage.checkpoint.spool import Spool
from storage.checkpoint.writing import begin, finish, write_shard
from storage.embedded_postgres import EmbeddedPostgres
from tests.helpers import eventually
from tests.shard_commands import TTL_MS

T = TypeVar("T")
CATALOG: dict[str, Any] = {"collections": [], "graphs": []}
TABLES = {
    "records": (
        "SELECT collection, id, version, records.seq, CAST(payload AS BLOB), vector, created_ms, "
        "updated_ms, digest FROM records JOIN vectors ON vectors.seq = records.seq"
    ),
    "tombstones": "SELECT collection, id, version FROM tombstones",
    "dropped": "SELECT collection FROM dropped",
    "graph_elements": (
        "SELECT seq, graph, kind, id, version, created_ms, updated_ms, expired_ms, content, "
        "members, digest FROM graph_elements"
    ),
    "graph_members": "SELECT node, edge FROM graph_members",
    "graphs": "SELECT graph, version, nodes, edges FROM graphs",
}


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """Make a folder that any user may reach, as a server needs that root starts."""
    folder = Path(tempfile.mkdtemp(prefix="recollect-test-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_postgres() -> Iterator[EmbeddedPostgres]:
    """Run a server while the block runs."""
    with reachable_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres")
        try:
            server.start()
            asyncio.run(_hurry(server.url))
            yield server
        finally:
            server.stop()


def kill_9(server: EmbeddedPostgres) -> None:
    """End a server and all that it started at once, as a power cut would."""
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
    for pid in (postmaster, *map(int, children.read_text().split())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not server.is_running(), 30, "the end of Postgres")


def quick_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder to be entered, in memory where the machine has that."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)


@contextlib.asynccontextmanager
async def empty_database(server: EmbeddedPostgres) -> AsyncIterator[str]:
    """Make a database, and yield its URL; it is gone after the block."""
    name = f"test_{uuid.uuid4().hex}"
    await _administer(server.url, f'CREATE DATABASE "{name}" STRATEGY file_copy')
    try:
        yield server.url.replace("/postgres?", f"/{name}?")
    finally:
        await _administer(server.url, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextlib.contextmanager
def small_disk(server: EmbeddedPostgres, size_mib: int) -> Iterator[Path]:
    """Mount a file system, in memory, that a server may write to; skip where nobody can mount."""
    folder = Path(tempfile.mkdtemp(prefix="recollect-test-"))
    owner = server.data.stat()
    options = f"size={size_mib}m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    words = ["mount", "-t", "tmpfs", "-o", options, "recollect", str(folder)]
    try:
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("a file system cannot be mounted here; root can")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        folder.rmdir()


@contextlib.asynccontextmanager
async def database_on(server: EmbeddedPostgres, folder: Path) -> AsyncIterator[str]:
    """Make a database whose files are in an empty folder, and yield its URL; it is gone after."""
    name = f"test_{uuid.uuid4().hex}"
    await _administer(server.url, f"CREATE TABLESPACE {name} LOCATION '{folder}'")
    try:
        await _administer(server.url, f"CREATE DATABASE {name} TABLESPACE {name}")
        try:
            yield server.url.replace("/postgres?", f"/{name}?")
        finally:
            await _administer(server.url, f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await _administer(server.url, f"DROP TABLESPACE {name}")


@contextlib.asynccontextmanager
async def fresh_database(server: EmbeddedPostgres) -> AsyncIterator[tuple[Database, str]]:
    """Make a database with the schema, and yield it and its URL."""
    async with empty_database(server) as url, Database.opened(url, patience_s=10) as database:
        await migrate(database)
        yield database, url


async def _hurry(url: str) -> None:
    """Let the server forget its disk: what it keeps is thrown away after the tests."""
    connection = await asyncpg.connect(url)
    try:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            await connection.execute(f"ALTER SYSTEM SET {setting} = off")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


async def _administer(url: str, command: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(command)
    finally:
        await connection.close()


def on(url: str, story: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Return what a coroutine makes of a database."""

    async def told() -> T:
        async with Database.opened(url, patience_s=10) as database:
            return await story(database)

    return asyncio.run(told())


def cut_of(machine: ShardMachine, task: Task, folder: Path) -> Cut:
    """Cut through a shard."""
    spool = Spool(folder / f"{task.checkpoint}-{task.shard}", 0)
    return take_cut(task, machine.snapshot(), GraphElements(), spool)


async def checkpoint_shard(
    database: Database, machine: ShardMachine, folder: Path, cluster_id: str = "c1"
) -> Manifest:
    """Make a whole checkpoint of a cluster of one shard."""
    task = (await begin(database, cluster_id, 1)).task(0, 1)
    cut = cut_of(machine, task, folder)
    manifest = await write_shard(database, cut)
    cut.spool.discard()
    await finish(database, task.checkpoint, CATALOG)
    return manifest


async def restored(database: Database, manifest: Manifest, path: Path) -> ShardMachine:
    """Prove a shard of a checkpoint, make its state file, and open it."""
    await verify_shard(database, manifest)
    await restore_shard(database, manifest, path)
    return ShardMachine(path, request_id_ttl_ms=TTL_MS)


def dump(machine: ShardMachine) -> dict[str, Any]:
    """Return all that a shard holds, but for remembered requests."""
    with machine.snapshot() as connection:
        tables = {name: sorted(connection.execute(query)) for name, query in TABLES.items()}
        meta = dict(connection.execute("SELECT key, value FROM meta"))
    unset = {"record_hash": bytes(16), "next_seq": 1, "clock_ms": 0}
    kept = ("applied_index", "applied_term", *unset)
    return tables | {"meta": {name: meta.get(name, unset.get(name)) for name in kept}}
