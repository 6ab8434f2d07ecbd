"""The outbox in a real Postgres: what the triggers note, who consumes, what is kept of failures."""

import uuid
from dataclasses import replace

import asyncpg
import pytest

from storage.checkpoint.errors import DatabaseRefused
from storage.outbox.dead_letters import listed, put_aside, replay
from storage.outbox.errors import OutboxMoved, OutboxRefused
from storage.outbox.installing import Wanted, install, pause, remove, resume
from storage.outbox.lag import coherency_with_truth
from storage.outbox.model import IMAGE_BYTES_MAX, Rejected
from storage.outbox.session import Session
from storage.outbox.status import statuses
from tests.outbox_tables import NOTES, WANTED, notes, place

INSERT = "INSERT INTO notes (id, body, stars) VALUES ($1, $2, 0)"
HOSTILE = 'it\'s "quoted"; DROP TABLE notes; --'


async def take(session, cluster="c1"):
    """Lock the only source and take a batch of it."""
    assert await session.lock(1)
    return await session.take(1, cluster)


async def apply_all(url):
    """Acknowledge whatever waits; return the sequences, batch by batch."""
    found = []
    async with Session.opened(url) as session:
        while (batch := await take(session)) is not None:
            await session.acknowledge(1, batch)
            found.append([event.seq for event in batch.events])
    return found


async def test_rows_that_are_there_are_queued(postgres):
    """Installing sends the rows of now, once, however often it is done."""
    async with place(postgres, NOTES, "INSERT INTO notes VALUES (1, 'a', 1), (2, 'b', 2)") as here:
        assert await install(here.database, WANTED) == 2
        assert await install(here.database, WANTED) is None
        found = await here.waiting()

    assert found == [("upsert", str(at), {"id": at, "body": "ab"[at - 1]}) for at in (1, 2)]


async def test_changes_are_noted(postgres):
    """Insert, update, change of key and deletion; what does not concern the point is left out."""
    async with notes(postgres) as here:
        await here.user.execute(INSERT, 1, "one")
        await here.user.execute("UPDATE notes SET body = 'uno' WHERE id = 1")
        await here.user.execute("UPDATE notes SET stars = 5 WHERE id = 1")
        await here.user.execute("UPDATE notes SET id = 9 WHERE id = 1")
        await here.user.execute("DELETE FROM notes WHERE id = 9")
        found = await here.waiting()

    assert found == [
        ("upsert", "1", {"id": 1, "body": "one"}),
        ("upsert", "1", {"id": 1, "body": "uno"}),
        ("delete", "1", None),
        ("upsert", "9", {"id": 9, "body": "uno"}),
        ("delete", "9", None),
    ]


async def test_truncate_deletes_every_row(postgres):
    """Each row gets its deletion; where a transaction may not see all of them it is refused."""
    async with notes(postgres) as here:
        await here.user.executemany(INSERT, [(1, "a"), (2, "b")])
        await apply_all(here.url)
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="READ COMMITTED"):
            async with here.user.transaction(isolation="repeatable_read"):
                await here.user.execute("TRUNCATE notes")
        await here.user.execute("TRUNCATE notes")
        found = await here.waiting()

    assert found == [("delete", "1", None), ("delete", "2", None)]


async def test_what_is_rolled_back_is_not_noted(postgres):
    """The change and its note share the fate of their transaction."""
    async with notes(postgres) as here:
        transaction = here.user.transaction()
        await transaction.start()
        await here.user.execute(INSERT, 1, "a")
        await transaction.rollback()
        found = await here.waiting()

    assert found == []


async def test_names_are_only_names(postgres):
    """Whatever a table and its columns are called, it becomes no SQL."""
    quoted = '"' + HOSTILE.replace('"', '""') + '"'
    table = f"CREATE TABLE {quoted} ({quoted} bigint PRIMARY KEY, body text)"
    wanted = Wanted(table=quoted, collection="c", id_column=HOSTILE, text_column="body")
    async with place(postgres, NOTES, table) as here:
        await install(here.database, wanted)
        await here.user.execute(f"INSERT INTO {quoted} VALUES (1, 'a')")
        await here.user.execute(f"TRUNCATE {quoted}")
        found = await here.waiting()
        assert (await here.status()).source.table == f"public.{quoted}"
        await remove(here.database, "c")
        assert await here.user.fetchval("SELECT count(*) FROM notes") == 0

    assert found == [("upsert", "1", {HOSTILE: 1, "body": "a"}), ("delete", "1", None)]


async def test_writers_need_no_rights(postgres):
    """Who may write to the table can, without knowing of the outbox."""
    async with notes(postgres) as here:
        role = f"writer_{id(here)}"
        await here.user.execute(f"CREATE ROLE {role}; GRANT INSERT ON notes TO {role}")
        try:
            await here.user.execute(f"SET ROLE {role}")
            await here.user.execute(INSERT, 1, "a")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await here.user.fetch("SELECT * FROM recollect_outbox.events")
        finally:
            await here.user.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        assert len(await here.waiting()) == 1


async def test_another_trigger_has_the_last_word(postgres):
    """A trigger that changes the row once more does so after ours: the newest image is the last."""
    function = """
        CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN UPDATE notes SET body = 'stamped' WHERE id = NEW.id; RETURN NULL; END $$
    """
    trigger = "CREATE TRIGGER aaa AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION stamp()"
    async with notes(postgres) as here:
        await here.user.execute(function)
        await here.user.execute(trigger)
        await here.user.execute(INSERT, 1, "raw")
        found = await here.waiting()

    assert [image["body"] for _, _, image in found if image] == ["raw", "stamped"]


async def test_of_rows_changed_together_the_newest_images_are_the_last(postgres):
    """A trigger that runs for one row of a statement may change another, whose turn comes later."""
    functions = """
        CREATE FUNCTION leave_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.stars = 1 THEN
            UPDATE notes SET body = 'left', stars = 0 WHERE id <> NEW.id;
          ELSIF NEW.stars = 2 THEN
            DELETE FROM notes WHERE id = NEW.id + 1;
          END IF;
          RETURN NULL;
        END $$;
        CREATE FUNCTION bring_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          INSERT INTO notes VALUES (OLD.id + 1, 'back', 0) ON CONFLICT DO NOTHING;
          RETURN NULL;
        END $$;
        CREATE TRIGGER aaa AFTER INSERT OR UPDATE ON notes FOR EACH ROW
        EXECUTE FUNCTION leave_one();
        CREATE TRIGGER bbb AFTER DELETE ON notes FOR EACH ROW WHEN (OLD.id = 1)
        EXECUTE FUNCTION bring_back();
    """
    async with notes(postgres) as here:
        await here.user.execute(functions)
        for change in (
            "INSERT INTO notes VALUES (1, 'a', 1), (2, 'b', 1)",
            "UPDATE notes SET stars = 3 - id, body = body || '!'",
            "INSERT INTO notes VALUES (2, 'c', 0)",
            "DELETE FROM notes",
            "INSERT INTO notes VALUES (5, 'e', 0)",
            "UPDATE notes SET id = id + 1, body = 'f'",
        ):
            await here.user.execute(change)
            last = {key: image and image["body"] for _, key, image in await here.waiting()}
            rows = await here.user.fetch("SELECT id::text, body FROM notes")
            there = {key: body for key, body in last.items() if body is not None}

            assert there == dict(rows), change


async def test_a_renamed_column_is_no_deletion(postgres):
    """Nobody else's change is refused; what is noted has no text, or no key, and no point goes."""
    async with notes(postgres) as here:
        await here.user.execute(INSERT, 1, "a")
        await here.user.execute("ALTER TABLE notes RENAME body TO content")
        await here.user.execute("UPDATE notes SET id = 2")
        await here.user.execute("ALTER TABLE notes RENAME id TO number")
        await here.user.execute("DELETE FROM notes")
        found = await here.waiting()

    assert found[1:] == [
        ("delete", "1", None),
        ("upsert", "2", {"id": 2}),
        ("delete", None, None),
    ]


async def test_a_table_of_somebody_else_is_refused(postgres):
    """Its owner makes functions that run with the trigger's rights, such as a cast to JSON."""
    role = f"owner_{uuid.uuid4().hex}"
    async with place(postgres, NOTES, f"CREATE ROLE {role}") as here:
        try:
            await here.user.execute(f"ALTER TABLE notes OWNER TO {role}")
            with pytest.raises(OutboxRefused, match=f"belongs to {role}"):
                await install(here.database, WANTED)
        finally:
            await here.user.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


REFUSED = [
    ({"table": "nothing"}, "there is no table nothing"),
    ({"table": "parted"}, "not an ordinary, logged table"),
    ({"table": "parted_1"}, "not an ordinary, logged table"),
    ({"table": "seen"}, "not an ordinary, logged table"),
    ({"id_column": "body"}, "primary key or unique"),
    ({"id_column": "stars"}, "primary key or unique"),
    ({"text_column": "Body"}, "no column 'Body'"),
    ({"payload": ("x",)}, "no column 'x'"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
async def test_what_cannot_be_followed_is_refused(postgres, change, said):
    """The reason is said, and nothing is left behind."""
    async with place(
        postgres,
        NOTES,
        "CREATE UNIQUE INDEX ON notes (stars) WHERE stars > 0",
        "CREATE TABLE parted (id bigint PRIMARY KEY, body text) PARTITION BY HASH (id)",
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (modulus 1, remainder 0)",
        "CREATE UNLOGGED TABLE seen (id bigint PRIMARY KEY, body text)",
    ) as here:
        with pytest.raises(OutboxRefused, match=said):
            await install(here.database, replace(WANTED, **change))
        assert await statuses(here.database) == []


async def test_a_malformed_name_is_refused(postgres):
    """What Postgres cannot read as a name is its refusal, in words."""
    async with place(postgres, NOTES) as here:
        with pytest.raises((OutboxRefused, DatabaseRefused)):
            await install(here.database, replace(WANTED, table='a."b'))


async def test_a_collection_has_one_outbox(postgres):
    """Another definition is refused, until the first one is removed, which leaves nothing."""
    async with notes(postgres) as here:
        await here.user.execute(INSERT, 1, "a")
        with pytest.raises(OutboxRefused, match="remove it first"):
            await install(here.database, replace(WANTED, payload=None))
        assert await remove(here.database, "notes") == 1
        assert await here.user.fetchval("SELECT to_regnamespace('recollect_outbox')") is None
        await here.user.execute(INSERT, 2, "b")
        assert await install(here.database, replace(WANTED, payload=None)) == 2


async def test_missing_triggers_are_a_gap(postgres):
    """Changes that nobody sees are told, and installing again sends all rows once more."""
    async with notes(postgres) as here:
        await here.user.execute("ALTER TABLE notes DISABLE TRIGGER ALL")
        await here.user.execute(INSERT, 1, "unseen")
        assert not (await here.status()).attached
        assert await here.waiting() == []
        assert await install(here.database, WANTED) == 1
        assert (await here.status()).attached
        await here.user.execute("DROP TABLE notes")
        gone = await here.status()

    assert (gone.attached, gone.source.table) == (False, "")


async def test_late_commits_are_not_skipped(postgres):
    """A transaction that drew its sequence early and commits late is applied all the same."""
    async with notes(postgres) as here:
        late = await asyncpg.connect(here.url)
        transaction = late.transaction()
        await transaction.start()
        await late.execute(INSERT, 1, "early sequence")
        await here.user.execute(INSERT, 2, "first commit")
        first = await apply_all(here.url)
        await transaction.commit()
        second = await apply_all(here.url)
        await late.close()

    assert (first, second) == ([[2]], [[1]])


async def test_of_one_key_commits_and_sequences_agree(postgres):
    """Whoever waits for a row draws its sequence afterwards, although its transaction is older."""
    async with notes(postgres) as here:
        await here.user.execute(INSERT, 1, "start")
        older, younger = await asyncpg.connect(here.url), await asyncpg.connect(here.url)
        first, second = older.transaction(), younger.transaction()
        await first.start()
        await older.execute(INSERT, 7, "an older transaction")
        await second.start()
        await younger.execute("UPDATE notes SET body = 'younger' WHERE id = 1")
        await older.execute("SET LOCAL lock_timeout = '50ms'; SAVEPOINT before")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await older.execute("UPDATE notes SET body = 'older' WHERE id = 1")
        await older.execute("ROLLBACK TO before")
        await second.commit()
        await older.execute("UPDATE notes SET body = 'older' WHERE id = 1")
        await first.commit()
        rows = await here.user.fetch(
            "SELECT image->>'body' AS body, xid FROM recollect_outbox.events WHERE key = '1' "
            "ORDER BY seq"
        )
        await older.close()
        await younger.close()

    assert [row["body"] for row in rows] == ["start", "younger", "older"]
    assert int(rows[2]["xid"]) < int(rows[1]["xid"])


async def test_a_batch_in_flight_is_the_same_again(postgres):
    """What came meanwhile is not in it; once it is acknowledged it is gone, and counted."""
    async with notes(postgres) as here:
        await here.user.execute(INSERT, 1, "a")
        async with Session.opened(here.url) as session:
            first = await take(session)
        await here.user.execute(INSERT, 2, "b")
        async with Session.opened(here.url) as session:
            again = await take(session)
            assert (again.events, again.attempts, again.sole) == (first.events, 1, False)
            await session.acknowledge(1, again)
            with pytest.raises(OutboxMoved):
                await session.acknowledge(1, again)
            other = await take(session)
            await session.acknowledge(1, other)
        found = await here.status()

    assert [event.key for event in other.events] == ["2"]
    assert (found.applied, found.repeated, found.applied_seq, found.pending) == (2, 1, 2, 0)


async def test_one_session_consumes(postgres):
    """The lock is with one session, and free when that one is gone, however it went."""
    async with notes(postgres) as here, Session.opened(here.url) as second:
        async with Session.opened(here.url) as first:
            assert await first.lock(1)
            assert not await second.lock(1)
            assert (await here.status()).attended
            killed = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE objid = 1 AND "
            await here.user.execute(killed + "locktype = 'advisory'")
        assert not (await here.status()).attended
        assert await second.lock(1)


async def test_another_cluster_is_kept_out(postgres):
    """A source belongs to the cluster that began it, until it is taken over, with all rows."""
    async with notes(postgres) as here, Session.opened(here.url) as session:
        await here.user.execute(INSERT, 1, "a")
        await session.acknowledge(1, await take(session, "c1"))
        await here.user.execute(INSERT, 2, "b")
        with pytest.raises(OutboxMoved):
            await session.take(1, "c2")
        await resume(here.database, "notes", take_over=True)
        batch = await session.take(1, "c2")

    assert batch is not None
    assert [event.key for event in batch.events] == ["2", "1", "2"]


async def test_a_batch_is_bounded(postgres):
    """It ends with the row that exceeds its bytes, and a row that is too large is not read."""
    async with notes(postgres) as here, Session.opened(here.url) as session:
        large = "x" * (IMAGE_BYTES_MAX - 100)
        await here.user.executemany(INSERT, [(at, large) for at in range(6)])
        await here.user.execute(
            "INSERT INTO notes SELECT 9, string_agg(md5(g::text), '') "
            "FROM generate_series(1, 40000) g"
        )
        first = await take(session)
        await session.acknowledge(1, first)
        second = await take(session)

    assert [event.key for event in first.events] == ["0", "1", "2", "3", "4"]
    assert [(each.key, each.oversized) for each in second.events] == [("5", False), ("9", True)]
    assert second.events[1].image is None


async def test_dead_letters_are_kept_and_replayed(postgres):
    """A replay sends the row of now behind what waits, or its deletion when it is gone."""
    async with notes(postgres) as here, Session.opened(here.url) as session:
        await here.user.executemany(INSERT, [(1, "old"), (2, "gone"), (3, "fine")])
        batch = await take(session)
        rejected = [Rejected(each, "embedding_failed", "x" * 9999) for each in batch.events[:2]]
        await session.set_aside(1, batch, rejected)
        rest = await take(session)
        assert ([event.key for event in rest.events], rest.attempts, rest.sole) == (["3"], 0, True)
        await session.acknowledge(1, rest)
        letters = await listed(here.database, "notes", 10)
        assert [(each.id, each.key, each.reason) for each in letters] == [
            (1, "1", "embedding_failed"),
            (2, "2", "embedding_failed"),
        ]
        await here.user.execute("UPDATE notes SET body = 'new' WHERE id = 1")
        await here.user.execute("DELETE FROM notes WHERE id = 2")
        with pytest.raises(OutboxRefused, match="no dead letter 77"):
            await replay(here.database, "notes", 77)
        assert await replay(here.database, "notes", 1) == 1
        assert await replay(here.database, "notes") == 1
        found = await here.waiting()

    assert found == [
        ("upsert", "1", {"id": 1, "body": "new"}),
        ("delete", "2", None),
        ("upsert", "1", {"id": 1, "body": "new"}),
        ("delete", "2", None),
    ]


async def test_a_later_change_settles_a_dead_letter(postgres):
    """It is a gap until a newer state of its row is applied; an older one does not settle it."""
    async with notes(postgres) as here, Session.opened(here.url) as session:
        await here.user.execute(INSERT, 1, "fine")
        await here.user.execute("UPDATE notes SET body = ' ' WHERE id = 1")
        batch = await take(session)
        await session.set_aside(1, batch, [Rejected(batch.events[1], "embedding_failed", "blank")])
        await session.acknowledge(1, await take(session))
        assert (await here.status()).source.dead == 1
        await here.user.execute("UPDATE notes SET body = 'better' WHERE id = 1")
        await session.acknowledge(1, await take(session))

        assert (await here.status()).source.dead == 0


async def test_a_change_can_be_put_aside(postgres):
    """What waits of a key becomes a dead letter by hand; a batch in flight is then another."""
    async with notes(postgres) as here, Session.opened(here.url) as session:
        await here.user.executemany(INSERT, [(1, "bad"), (2, "good")])
        await take(session)
        with pytest.raises(OutboxRefused, match="row 1 is being applied"):
            await put_aside(here.database, "notes", "1")
        await here.user.execute(
            "UPDATE recollect_outbox.sources SET taken_at = taken_at - interval '1 minute'"
        )
        assert await put_aside(here.database, "notes", "1") == 1
        batch = await take(session)
        (letter,) = await listed(here.database, "notes", 10)

    assert [event.key for event in batch.events] == ["2"]
    assert (letter.key, letter.reason) == ("1", "manual_nack")


async def test_a_backlog_that_nobody_works_on_grows_old(postgres):
    """Its age is that of its oldest change, by the clock of Postgres, while nothing is done."""
    async with notes(postgres) as here:
        await pause(here.database, "notes")
        assert (await here.status()).lag_ms == 0
        await here.user.execute(INSERT, 1, "a")
        await here.user.execute(
            "UPDATE recollect_outbox.events SET written_at = written_at - interval '2 seconds'"
        )
        first = await here.status()
        await here.user.execute(INSERT, 2, "b")
        second = await here.status()

    assert first.source.paused
    assert 2000 <= first.lag_ms < second.lag_ms
    assert (first.pending, second.pending, second.committed_seq, second.applied_seq) == (1, 2, 2, 0)
    assert coherency_with_truth(second.lag_ms, gap=False) < coherency_with_truth(
        first.lag_ms, gap=False
    )


async def test_news_wake_the_session(postgres):
    """A commit ends the wait at once; without one the wait ends by itself."""
    async with notes(postgres) as here, Session.opened(here.url) as session:
        await here.user.execute(INSERT, 1, "a")
        await session.wait(30)
        await session.wait(0.01)

        assert [source.waiting for source in await session.sources()] == [True]
