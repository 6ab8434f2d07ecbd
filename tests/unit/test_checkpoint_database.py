"""The schema in Postgres, and what a checkpoint comes to when Postgres or a writer gives up."""

import asyncio
import contextlib
import random
import tempfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from cluster.checkpoint_elements import GraphElements
from cluster.checkpoint_sender import Sender
from cluster.shard import ShardMachine
from storage.checkpoint.contents import verify_shard
from storage.checkpoint.cut import take_cut
from storage.checkpoint.database import Database
from storage.checkpoint.errors import (
    CheckpointError,
    CheckpointMissing,
    DatabaseRefused,
    DatabaseUnavailable,
    FormatMismatch,
    NoRoom,
    ReplicaBehind,
    ShardMoved,
    Superseded,
)
from storage.checkpoint.migrate import migrate, migrations
from storage.checkpoint.model import Manifest
from storage.checkpoint.reading import checkpoint, checkpoints
from storage.checkpoint.spool import Spool
from storage.checkpoint.writing import begin, finish, retain, write_shard, write_shards
from tests.postgres import (
    CATALOG,
    checkpoint_shard,
    cut_of,
    dump,
    empty_database,
    fresh_database,
    restored,
)
from tests.shard_commands import TTL_MS, apply, command, point, upsert


@pytest.fixture
async def database(postgres):
    async with fresh_database(postgres) as (found, _):
        yield found


@pytest.fixture
def machine():
    made = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(made, command(upsert(*(point(number, b'{"n":1}') for number in range(300)))))
    yield made
    made.close()


async def task_for(database, cluster_id="c1"):
    return (await begin(database, cluster_id, 1)).task(0, 1)


async def test_migrations_run_once(postgres):
    """Run by many at a time, then again: each script is run once, and nobody fails."""
    async with empty_database(postgres) as url, Database.opened(url, connections=8) as database:
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(migrate(database)) for _ in range(8)]
        again = await migrate(database)
        journal = await database.run(
            lambda c: c.fetch("SELECT number FROM recollect_migrations ORDER BY 1")
        )

    assert sorted(run.result() for run in runs) == [0] * 7 + [len(migrations())]
    assert again == 0
    assert [row["number"] for row in journal] == [each.number for each in migrations()]


async def test_a_newer_schema_is_refused(database):
    """What a newer version has migrated is left alone."""
    await database.run(
        lambda c: c.execute("INSERT INTO recollect_migrations VALUES (999, 'of tomorrow')")
    )

    with pytest.raises(FormatMismatch, match="schema 999"):
        await migrate(database)


async def test_every_table_can_be_updated(database, machine, tmp_path):
    """No table has a trigger or a generated column that stands in the way of an UPDATE."""
    await checkpoint_shard(database, machine, tmp_path)
    tables = await database.run(
        lambda c: c.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    )
    names = [row["tablename"] for row in tables]
    for name in names:
        columns = await database.run(
            lambda c, name=name: c.fetch(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_schema = current_schema() AND table_name = $1",
                name,
            )
        )
        same = ", ".join(f"{row['column_name']} = {row['column_name']}" for row in columns)
        count = await database.run(lambda c, name=name: c.fetchval(f"SELECT count(*) FROM {name}"))
        done = await database.run(
            lambda c, name=name, same=same: c.execute(f"UPDATE {name} SET {same}")
        )
        assert done == f"UPDATE {count}"

    assert {"records", "nodes", "hyperedges", "manifests", "reasoning_patterns"} <= set(names)


async def test_views_show_the_newest_checkpoint(database, machine, tmp_path):
    """Dashboards see what is current, in words and times, and nothing that was replaced."""
    await checkpoint_shard(database, machine, tmp_path)
    apply(machine, command(upsert(point(1, b'{"n":2}'))))
    manifest = await checkpoint_shard(database, machine, tmp_path)
    query = "SELECT payload, extract(epoch FROM created_at) s FROM current_records WHERE id = '1'"
    (row,) = await database.run(lambda c: c.fetch(query))
    for view in ("latest_checkpoints", "current_collections", "current_nodes"):
        await database.run(lambda c, view=view: c.fetch(f"SELECT * FROM {view}"))
    await database.run(lambda c: c.fetch("SELECT * FROM current_hyperedges"))
    size = await database.run(
        lambda c: c.fetchrow("SELECT * FROM checkpoint_sizes ORDER BY checkpoint_id DESC LIMIT 1")
    )

    assert (row["payload"], row["s"]) == ('{"n": 2}', 1)
    assert (size["checkpoint_id"], size["records"], size["rows_written"]) == (
        manifest.checkpoint,
        300,
        1,
    )


async def break_off(writing: Any, database: Database, chance: random.Random) -> object:
    """Cancel a writer, or cut its connection, at some moment; return what came of it."""
    await asyncio.sleep(chance.random() * 0.05)
    if chance.random() < 0.5:
        writing.cancel()
    else:
        await database.run(
            lambda c: c.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    try:
        return await writing
    except (DatabaseUnavailable, asyncio.CancelledError) as error:
        return error


async def test_a_writer_that_dies_leaves_the_last_checkpoint(postgres, machine, tmp_path):
    """Cut off or cancelled at any moment: what was whole is whole, and the next one succeeds."""
    chance = random.Random(7)
    outcomes: list[object] = []
    async with fresh_database(postgres) as (database, url):
        whole, wanted = await checkpoint_shard(database, machine, tmp_path), dump(machine)
        for crash in range(12):
            first = 50 * crash
            points = [point(each, b'{"n":3}') for each in range(first, first + 250)]
            apply(machine, command(upsert(*points)))
            task = await task_for(database)
            cut = cut_of(machine, task, tmp_path)
            async with Database.opened(url, patience_s=0) as victim:
                writing = asyncio.ensure_future(write_shard(victim, cut))
                outcomes.append(await break_off(writing, database, chance))
            found = await checkpoint(database)
            copy = await restored(database, found.manifests[0], tmp_path / f"copy-{crash}")
            assert found.manifests == (whole,)
            assert dump(copy) == wanted
            copy.close()
            whole, wanted = await write_shard(database, cut), dump(machine)
            await finish(database, task.checkpoint, CATALOG)
            await verify_shard(database, whole)

    expected = (DatabaseUnavailable, asyncio.CancelledError, type(whole))
    assert all(isinstance(outcome, expected) for outcome in outcomes)
    assert not all(isinstance(outcome, type(whole)) for outcome in outcomes)


async def test_writing_twice_is_writing_once(database, machine, tmp_path):
    """An attempt whose answer was lost finds its own manifest, and nothing is there twice."""
    task = await task_for(database)
    cut = cut_of(machine, task, tmp_path)
    first, second = [await write_shard(database, cut) for _ in range(2)]

    assert first == second == cut.manifest
    assert await database.run(lambda c: c.fetchval("SELECT count(*) FROM records")) == 300


async def test_of_two_writers_the_newer_wins(database, machine, tmp_path):
    """Who comes late with an older checkpoint is told so, whatever of it was done."""
    old = await task_for(database)
    new = await task_for(database)
    late, never = cut_of(machine, old, tmp_path), cut_of(machine, new, tmp_path)
    await write_shard(database, never)
    with pytest.raises(Superseded):
        await write_shard(database, late)
    with pytest.raises(CheckpointMissing, match="lacks shards"):
        await finish(database, old.checkpoint, CATALOG)
    await finish(database, new.checkpoint, CATALOG)
    await retain(database, new.cluster, 3)

    assert await database.run(lambda c: c.fetch("SELECT id FROM checkpoints")) == [
        (new.checkpoint,)
    ]


TRANSACTIONS = "SELECT count(DISTINCT xmin::text) FROM manifests WHERE checkpoint_id = $1"


async def test_shards_share_a_transaction(database, machine, tmp_path):
    """One that is refused does not keep the others back, and is told why."""
    old, new = [await begin(database, "c1", 3) for _ in range(2)]
    late = [cut_of(machine, old.task(shard, 1), tmp_path) for shard in range(3)]
    await write_shard(database, cut_of(machine, new.task(1, 1), tmp_path))
    outcomes = await write_shards(database, late)
    again = await write_shards(database, late)

    assert [type(each) for each in outcomes] == [Manifest, Superseded, Manifest]
    assert outcomes[::2] == again[::2] == [late[0].manifest, late[2].manifest]
    assert await database.run(lambda c: c.fetchval(TRANSACTIONS, old.checkpoint)) == 1
    assert await database.run(lambda c: c.fetchval("SELECT count(*) FROM records")) == 900


async def test_what_is_refused_together_is_written_alone(database, machine, tmp_path):
    """Should Postgres refuse one shard's rows, the others get in without it."""
    begun = await begin(database, "c1", 3)
    await database.run(lambda c: c.execute("ALTER TABLE records ADD CHECK (shard <> 1)"))
    cuts = [cut_of(machine, begun.task(shard, 1), tmp_path) for shard in range(3)]
    outcomes = await write_shards(database, cuts)

    assert [type(each) for each in outcomes] == [Manifest, DatabaseRefused, Manifest]
    assert await database.run(lambda c: c.fetchval(TRANSACTIONS, begun.checkpoint)) == 2


async def test_a_sender_that_is_cancelled_leaves_the_others(postgres, machine, tmp_path):
    """What it had begun to send for all of them is sent by the next."""
    sender = Sender()
    async with fresh_database(postgres) as (database, url), asyncio.timeout(20):
        begun = await begin(database, "c1", 2)
        cuts = [cut_of(machine, begun.task(shard, 1), tmp_path) for shard in range(2)]
        holder = await asyncpg.connect(url)
        await holder.execute("BEGIN; LOCK TABLE records IN ACCESS EXCLUSIVE MODE")
        with sender.expected():
            first, second = (asyncio.ensure_future(sender.send(database, cut)) for cut in cuts)
            await asyncio.sleep(0)
        while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        await holder.close()

        assert await second == cuts[1].manifest
        assert first.cancelled()


async def test_a_cut_from_another_base_is_refused(database, machine, tmp_path):
    """A cut holds what changed since a checkpoint; upon any other one it would leave a hole."""
    first, second = await task_for(database), await task_for(database)
    stale = cut_of(machine, second, tmp_path)
    await write_shard(database, cut_of(machine, first, tmp_path))
    apply(machine, command(upsert(point(1))))

    with pytest.raises(ShardMoved, match="came between"):
        await write_shard(database, stale)


async def test_a_replica_that_is_behind_is_refused(database, machine, tmp_path):
    """A checkpoint never goes back in its shard's log."""
    await checkpoint_shard(database, machine, tmp_path)
    task = await task_for(database)
    empty = ShardMachine(None, request_id_ttl_ms=TTL_MS)

    with pytest.raises(ReplicaBehind, match="stands at 1 here, and at 2"):
        cut_of(empty, task, tmp_path)


async def test_a_cut_keeps_room_on_the_disk(database, machine, tmp_path):
    """What would fill the node's disk is not spooled; what is small needs no disk."""
    task = await task_for(database)
    folder = tmp_path / "spool"
    take_cut(task, machine.snapshot(), GraphElements(), Spool(folder, 1 << 60))
    assert not folder.exists()
    large = b'{"n":"%s"}' % (b"x" * 4000)
    apply(machine, command(upsert(*(point(number, large) for number in range(300)))))

    with pytest.raises(NoRoom):
        take_cut(task, machine.snapshot(), GraphElements(), Spool(folder, 1 << 60))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://u:sesame@127.0.0.1:1/x", DatabaseUnavailable),
        ("postgresql://u:sesame@[::bad/x", DatabaseRefused),
        ("sesame://u:sesame@host/x", DatabaseRefused),
    ],
)
async def test_a_bad_url_is_never_told(url, kind, caplog):
    """Whatever is wrong with a URL, no error and no log shows it."""
    with pytest.raises(CheckpointError) as caught:
        async with Database.opened(url, patience_s=0.2) as database:
            await migrate(database)

    assert isinstance(caught.value, kind)
    error: BaseException | None = caught.value
    while error is not None:
        assert "sesame" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "sesame" not in caplog.text


async def test_a_lost_race_is_run_again(database):
    """A serialization failure, a full disk and a restart pass; the work is done in the end."""
    failures = [
        asyncpg.SerializationError("lost"),
        asyncpg.DiskFullError("full"),
        asyncpg.CannotConnectNowError("starting"),
        ConnectionResetError(),
    ]

    async def work(connection):
        if failures:
            raise failures.pop()
        return await connection.fetchval("SELECT 7")

    assert await database.run(work) == 7


@contextlib.asynccontextmanager
async def fragile_way(url, folder):
    """Yield a URL that leads to the same database, until somebody sends much at a time.

    That connection is cut without reading on, as when the server is killed at work.
    """

    async def forward(reader, writer, limit):
        while data := await reader.read(1 << 16):
            if len(data) > limit:
                break
            writer.write(data)
        writer.transport.abort()

    async def serve(reader, writer):
        path = parse_qs(urlsplit(url).query)["host"][0]
        to_reader, to_writer = await asyncio.open_unix_connection(f"{path}/.s.PGSQL.5432")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forward(reader, to_writer, 4096))
            tasks.create_task(forward(to_reader, writer, 1 << 20))

    async with await asyncio.start_unix_server(serve, folder / ".s.PGSQL.5432"):
        yield urlsplit(url)._replace(query=f"host={folder}").geturl()


async def test_a_connection_that_breaks_in_the_middle_of_a_copy(postgres):
    """The driver, which waits until it may send more, is not waited for."""

    async def pieces():
        yield bytes(8 << 20)
        pytest.fail("nobody took the first piece")

    async def work(connection):
        await connection.copy_to_table("records", source=pieces(), format="binary")

    with tempfile.TemporaryDirectory() as folder:
        async with (
            fresh_database(postgres) as (_, url),
            fragile_way(url, Path(folder)) as fragile,
            Database.opened(fragile, patience_s=0) as database,
            asyncio.timeout(20) as limit,
        ):
            with pytest.raises(DatabaseUnavailable):
                await database.run(work)
            assert not limit.expired()


async def test_a_serialization_failure_is_run_again(database):
    """Postgres itself refuses the first attempt, since another transaction came between."""
    await begin(database, "c1", 1)
    tries = []

    async def work(connection):
        await connection.fetch("SELECT cluster_id FROM clusters")
        tries.append(1)
        if len(tries) == 1:
            await database.run(lambda c: c.execute("UPDATE clusters SET cluster_id = 'theirs'"))
        return await connection.fetchval(
            "UPDATE clusters SET cluster_id = cluster_id || ', ours' RETURNING cluster_id"
        )

    assert await database.run(work, isolation="repeatable_read") == "theirs, ours"
    assert len(tries) == 2


async def test_what_will_not_pass_is_raised_at_once(database):
    """A table that is missing is not looked for twice."""
    tries = []

    async def work(connection):
        tries.append(1)
        await connection.execute(f"SELECT * FROM t{uuid.uuid4().hex}")

    with pytest.raises(DatabaseRefused, match="42P01"):
        await database.run(work)
    assert len(tries) == 1


async def test_an_empty_database_has_no_checkpoints(postgres):
    """Whoever looks before anything was written finds nothing, not an error."""
    async with empty_database(postgres) as url, Database.opened(url, patience_s=10) as database:
        assert await checkpoints(database) == []
        with pytest.raises(CheckpointMissing, match="no finished checkpoint"):
            await checkpoint(database)
