"""Rows of a table through `kill -9` of nodes and of Postgres: `python -m tests.outbox_run`.

Programs of a user insert, change, move and delete rows in concurrent transactions, of which some
are rolled back and some commit long after they drew their sequences. One table flows into two
collections, by vector and by text. Meanwhile the node that consumes is killed, and Postgres is. At
the end each collection is the table, row for row, and a stream of changes has told of each row
that was written once exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np

from storage.embedded_postgres import EmbeddedPostgres
from storage.outbox.installing import Wanted, install
from tests.change_listener import Listener
from tests.helpers import Cluster, call, eventually, running_cluster
from tests.postgres import kill_9, on

WRITERS: Final = 6
ROLLED_BACK: Final = 0.15
HELD: Final = 0.1
"""Parts of the transactions that are rolled back, and that commit after others have."""
TURNS_MAX: Final = 100
WRITTEN_ONCE: Final = 1_000_000
"""Ids from here on are inserted, and never touched again."""
TABLE: Final = "CREATE TABLE rows (id bigint PRIMARY KEY, body text NOT NULL, v real[] NOT NULL)"
BROKEN: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
SETTINGS: Final = ("fsync = off", "full_page_writes = off", "deadlock_timeout = '50ms'")
"""The disk is not what is killed here; a commit is written before it is told all the same."""


class _RollBackError(Exception):
    pass


def _maybe_roll_back(rng: random.Random) -> None:
    if rng.random() < ROLLED_BACK:
        raise _RollBackError


@dataclass
class Writers:
    """The user's programs, on a thread of their own, until so many `rows` have been inserted.

    `committed` of them are; `changes` counts all that was committed.
    """

    url: str
    rows: int
    seed: int = 1
    committed: int = 0
    changes: int = 0
    rolled_back: int = 0
    interrupted: int = 0
    _ids: dict[str, int] = field(default_factory=lambda: {"often": 0, "once": WRITTEN_ONCE})

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the last commit."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"{self.committed} of {self.rows} rows"

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(self._write(random.Random(f"{self.seed}/{number}")))

    async def _write(self, rng: random.Random) -> None:
        while self.committed < self.rows:
            try:
                connection = await asyncpg.connect(self.url, timeout=5)
            except BROKEN:
                await asyncio.sleep(0.02)
                continue
            with contextlib.suppress(*BROKEN):
                while self.committed < self.rows:
                    await self._transaction(connection, rng)
            connection.terminate()

    async def _transaction(self, connection: Any, rng: random.Random) -> None:
        count, inserted = rng.randint(1, 12), 0
        try:
            async with connection.transaction():
                for _ in range(count):
                    inserted += await self._change(connection, rng)
                if rng.random() < HELD:
                    await self._let_others_commit()
                _maybe_roll_back(rng)
            self.committed += inserted
            self.changes += count
        except _RollBackError:
            self.rolled_back += 1
        except BROKEN:
            self.interrupted += 1
            raise

    async def _let_others_commit(self) -> None:
        """Hold a transaction open; not for long, since others may wait for its rows."""
        until = self.committed + 40
        for _ in range(TURNS_MAX):
            if self.committed >= until:
                return
            await asyncio.sleep(0.001)

    async def _change(self, connection: Any, rng: random.Random) -> bool:
        """Change a row, which may not exist; return whether a new one came."""
        body = f"{rng.choice(('harbour', 'orchard', 'winter'))} number {rng.randrange(1000)}"
        vector = [rng.randrange(-9, 9) / 4 for _ in range(4)]
        known = rng.randint(1, self._ids["often"] or 1)
        kind = rng.choices(("once", "often", "update", "delete", "move"), (40, 25, 20, 10, 5))[0]
        if kind in self._ids:
            self._ids[kind] += 1
            values = (self._ids[kind], body, vector)
            await connection.execute("INSERT INTO rows VALUES ($1, $2, $3)", *values)
        elif kind == "update":
            values = (known, body, vector)
            await connection.execute("UPDATE rows SET body = $2, v = $3 WHERE id = $1", *values)
        elif kind == "delete":
            await connection.execute("DELETE FROM rows WHERE id = $1", known)
        else:
            self._ids["often"] += 1
            moved = (known, self._ids["often"])
            await connection.execute("UPDATE rows SET id = $2 WHERE id = $1", *moved)
        return kind in self._ids


@dataclass
class Stage:
    """The user's Postgres and the cluster that follows it."""

    server: EmbeddedPostgres
    cluster: Cluster

    def kill_postgres(self) -> None:
        """Kill Postgres as it stands, and start it again."""
        kill_9(self.server)
        self.server.start()

    def kill_consumer(self) -> str:
        """Kill the node that consumes, and start it again; return its name."""
        name = eventually(self._consumer, 20, "a leader of the metadata group")
        node = int(name.removeprefix("node"))
        self.cluster.kill(node)
        self.cluster.restart(node)
        return name

    def _consumer(self) -> str:
        leader: str = self.cluster.call("GET", "/cluster").result["metadata"]["leader"]
        return leader

    def outbox(self, node: int = 1) -> dict[str, dict[str, Any]]:
        """Return what a node tells of each collection's outbox; {} while it cannot."""
        with contextlib.suppress(OSError):
            answer = call(self.cluster.url(node), "GET", "/outbox")
            if answer.status == 200:
                return {each["collection"]: each for each in answer.result["sources"]}
        return {}

    def drained(self) -> bool:
        """Say whether nothing waits any more."""
        found = self.outbox().values()
        return bool(found) and all(each["pending"] == 0 for each in found)

    def points(self, collection: str) -> dict[int, dict[str, Any]]:
        """Return all points of a collection."""
        found, offset = [], None
        while True:
            body = {"limit": 2000, "with_vector": True, "offset": offset}
            path = f"/collections/{collection}/points/scroll?consistency=strong"
            page = self.cluster.call("POST", path, body).result
            found += page["points"]
            offset = page["next_page_offset"]
            if offset is None:
                return {each["id"]: each for each in found}

    def rows(self) -> dict[int, Any]:
        """Return all rows of the table."""

        async def read() -> dict[int, Any]:
            connection = await asyncpg.connect(self.server.url)
            try:
                return {row["id"]: row for row in await connection.fetch("SELECT * FROM rows")}
            finally:
                await connection.close()

        return asyncio.run(read())


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Run a Postgres with the table, and a cluster with two collections that it flows into."""
    with tempfile.TemporaryDirectory(prefix="recollect-test-") as place:
        Path(place).chmod(0o755)
        server = EmbeddedPostgres(Path(place) / "postgres")
        try:
            server.start()
            asyncio.run(_prepare(server.url))
            environment = {"RECOLLECT_OUTBOX_URL": server.url.replace("@", ":sesame@", 1)}
            with running_cluster(folder, env=environment) as cluster:
                made = Stage(server, cluster)
                _create(cluster, "vectors", {"vectors": {"size": 4, "distance": "Euclid"}})
                sizes = {"vectors": {"size": 256, "distance": "Cosine"}}
                _create(cluster, "texts", {**sizes, "embedding_space": "default"})
                for collection, column in (("vectors", "vector"), ("texts", "text")):
                    _install(server.url, collection, column)
                yield made
        finally:
            server.stop()


async def _prepare(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for setting in SETTINGS:
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute(TABLE)
    finally:
        await connection.close()


def _create(cluster: Cluster, collection: str, body: dict[str, Any]) -> None:
    assert cluster.call("PUT", f"/collections/{collection}", body).result is True


def _install(url: str, collection: str, kind: str) -> None:
    columns = {"text_column": "body"} if kind == "text" else {"vector_column": "v"}
    wanted = Wanted(
        table="rows", collection=collection, id_column="id", payload=("body",), **columns
    )
    on(url, lambda database: install(database, wanted))


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    inserted: int
    changes: int
    rolled_back: int
    interrupted: int
    rows: int
    written_once: int
    applied: int
    repeated: int
    consumers_killed: tuple[str, ...]
    postgres_killed: int
    drained_s: float


def run(on_stage: Stage, inserted: int, kills: int) -> Outcome:
    """Write, kill, wait until all is applied, and compare; raises AssertionError."""
    listener = Listener(on_stage.cluster.urls, "/changes")
    writers = Writers(on_stage.server.url, inserted)
    killed = []
    for number in range(kills):
        threshold = inserted * (number + 1) // (kills + 1)
        eventually(lambda: writers.committed >= threshold, 300, f"{threshold} rows")  # noqa: B023
        if number % 2:
            on_stage.kill_postgres()
        else:
            killed.append(on_stage.kill_consumer())
    writers.join(300)
    began_s = time.monotonic()
    eventually(on_stage.drained, 300, "an empty outbox")
    drained_s = time.monotonic() - began_s
    rows = on_stage.rows()
    for collection in ("vectors", "texts"):
        compare(rows, on_stage.points(collection), exact=collection == "vectors")
    once = expect_once(listener, rows)
    listener.stop()
    found = on_stage.outbox()
    assert {each["dead_letters"] for each in found.values()} == {0}
    return Outcome(
        inserted=writers.committed,
        changes=writers.changes,
        rolled_back=writers.rolled_back,
        interrupted=writers.interrupted,
        rows=len(rows),
        written_once=once,
        applied=sum(each["applied"] for each in found.values()),
        repeated=sum(each["repeated"] for each in found.values()),
        consumers_killed=tuple(killed),
        postgres_killed=kills // 2,
        drained_s=round(drained_s, 1),
    )


def compare(rows: dict[int, Any], points: dict[int, dict[str, Any]], *, exact: bool) -> None:
    """Hold a collection against the table, row for row."""
    assert points.keys() == rows.keys(), sorted(points.keys() ^ rows.keys())[:20]
    for number, row in rows.items():
        point = points[number]
        assert point["payload"] == {"body": row["body"]}, (number, row, point)
        if exact:
            assert np.array_equal(np.float32(point["vector"]), np.float32(row["v"])), number


def expect_once(listener: Listener, rows: dict[int, Any]) -> int:
    """Wait until both collections have told of each row that was written once; return how many."""
    wanted = {
        (name, number) for number in rows if number > WRITTEN_ONCE for name in ("vectors", "texts")
    }

    def times() -> Counter[tuple[str, int]]:
        told = ((each.data["collection"], each.data["id"]) for each in list(listener.taken))
        return Counter(each for each in told if each[1] > WRITTEN_ONCE)

    eventually(lambda: times().keys() >= wanted, 60, "all changes in the stream")
    found = times()
    twice = [each for each, count in found.items() if count > 1]
    assert (found.keys() ^ wanted, twice) == (set(), []), (len(found), len(wanted), twice[:10])
    return len(wanted)


def main() -> None:
    """Run as the arguments say, and tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="rows that are inserted")
    parser.add_argument(
        "--kills", type=int, default=8, help="of the consumer and Postgres by turns"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as on_stage:
        outcome = run(on_stage, arguments.rows, arguments.kills)
    print(outcome)


if __name__ == "__main__":
    main()
