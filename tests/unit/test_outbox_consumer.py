"""The consumer on a real Postgres: what is applied, what is set aside, and what waits how long."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from cluster.circuit_breaker import FAILURES_MAX, REST_S
from cluster.errors import BadRequest, DeadlineExceeded, RecollectError, Unavailable
from cluster.metadata_command import ClusterView
from cluster.model import Options
from cluster.outbox import described
from cluster.outbox_consumer import OutboxConsumer
from cluster.outbox_writer import ATTEMPTS_MAX, TEXTS_AT_ONCE, OutboxWriter
from storage.embedding import NoEmbedding
from storage.outbox.dead_letters import listed, replay
from storage.outbox.installing import Wanted, install, pause, resume
from storage.outbox.model import APPLY_S
from storage.outbox.session import Session
from tests.outbox_tables import NOTES, notes, place
from tests.unit.api_router import SPACE, MemoryRouter

INSERT = "INSERT INTO notes (id, body, stars) VALUES ($1, $2, 0)"
VIEW = ClusterView(
    cluster_id="c1", epoch=1, shards=3, replication=1, shard_map=[("a",)] * 3, nodes=("a",),
    collections={}, dropping=[], applied_index=1,
)  # fmt: skip


@dataclass
class Embedder:
    """Two numbers for a text; `down` fails always, `refused` and `poison` are texts it fails on."""

    space: str = SPACE
    dimension: int = 2
    down: bool = False
    refused: tuple[str, ...] = ()
    poison: tuple[str, ...] = ()
    tokenless: tuple[str, ...] = ()
    most: int = 1000
    too_many: type[RecollectError] = Unavailable
    calls: int = 0

    async def embed(self, texts):
        self.calls += 1
        if len(texts) > self.most:
            raise self.too_many("not so many texts")
        if self.down or any(text in self.poison for text in texts):
            raise Unavailable("the embedding endpoint answers 500")
        if any(text in self.refused for text in texts):
            raise BadRequest("the embedding endpoint refuses the text with 422")
        for position, text in enumerate(texts):
            if text in self.tokenless:
                raise NoEmbedding(position, "has no tokens")
        return np.array([[1, len(text)] for text in texts], np.float32)


@dataclass
class World:
    """A consumer, what it reads and what it writes."""

    here: Any
    session: Any
    router: MemoryRouter = field(default_factory=MemoryRouter)
    embedder: Embedder = field(default_factory=Embedder)
    now_s: float = 0.0

    def __post_init__(self):
        metadata: Any = None
        self.consumer = OutboxConsumer(
            url=self.here.url,
            dead_letters_max=3,
            metadata=metadata,
            view=lambda: VIEW,
            writer=OutboxWriter(self.router, self.embedder, 1000, lambda: self.now_s),
            clock=lambda: self.now_s,
            sleep=_no_sleep,
            chance=lambda: 0.0,
        )

    async def insert(self, *bodies):
        """Insert rows whose ids are counted on."""
        first = 1 + (await self.here.user.fetchval("SELECT max(id) FROM notes") or 0)
        await self.here.user.executemany(INSERT, list(enumerate(bodies, first)))

    async def drain(self):
        """Let the consumer go on until it makes no progress."""
        while await self.consumer.round(self.session):
            pass

    async def forget_attempts(self):
        """Let so much time go by that no earlier attempt can be under way."""
        await self.here.user.execute(
            "UPDATE recollect_outbox.sources SET taken_at = taken_at - interval '1 minute'"
        )
        self.now_s += REST_S

    async def shown(self):
        """Return how the source fares, as it is answered."""
        return described(await self.here.status(), 3)

    def bodies(self):
        """Return the texts of all points by id."""
        (points,) = self.router.points.values()
        return {each.id: each.payload["body"] for each in points.values() if each.payload}

    async def letters(self):
        found = await listed(self.here.database, "notes", 10)
        return {letter.key: letter.reason for letter in found}


async def _no_sleep(seconds):
    raise AssertionError("a round does not sleep")


@contextlib.asynccontextmanager
async def world(postgres, **creation):
    """Yield a world whose collection exists, and whose table is empty."""
    async with notes(postgres) as here, Session.opened(here.url) as session:
        made = World(here, session)
        values = {"dimension": 2, "distance": "Dot", "embedding_space": SPACE} | creation
        await made.router.create_collection(
            "notes", hnsw_m=16, hnsw_ef_construct=200, options=Options(1.0), **values
        )
        yield made


async def test_rows_become_points(postgres):
    """Inserted, changed and deleted rows are what the collection has, each batch once."""
    async with world(postgres) as it:
        await it.insert("a", "b", "c")
        await it.here.user.execute("UPDATE notes SET body = 'B' WHERE id = 2")
        await it.here.user.execute("DELETE FROM notes WHERE id = 3")
        await it.drain()
        assert it.bodies() == {1: "a", 2: "B"}
        await it.here.user.execute("UPDATE notes SET body = NULL WHERE id = 1")
        await it.drain()

        assert it.bodies() == {2: "B"}
        shown = await it.shown()
        assert (shown["applied"], shown["pending"], shown["lag_ms"]) == (6, 0, 0.0)
        assert (shown["state"], shown["coherency_with_truth"]) == ("running", 1.0)


async def test_a_repeat_is_recognised(postgres):
    """What was applied and not acknowledged is sent under the same names, and changes nothing."""
    async with world(postgres) as it:
        await it.insert("a", "b")
        source = (await it.session.sources())[0]
        assert await it.session.lock(source.source)
        batch = await it.session.take(source.source, "c1")
        assert await it.consumer.writer.apply(source, batch, APPLY_S) == []
        (points,) = it.router.points.values()
        versions = {record.id: record.version for record in points.values()}
        await it.drain()

        assert {record.id: record.version for record in points.values()} == versions
        assert (await it.shown())["repeated"] == 2


async def test_who_was_stopped_writes_no_more(postgres):
    """A batch has to be written soon after it was taken, whatever happened in between."""
    async with world(postgres) as it:
        await it.insert("a")
        take = it.session.take

        async def take_and_stop(source, cluster_id):
            batch = await take(source, cluster_id)
            it.now_s += 86_400
            return batch

        it.session.take = take_and_stop
        await it.consumer.round(it.session)

        assert it.router.seen
        assert all(options.deadline_s <= APPLY_S for options in it.router.seen[1:])


async def test_bad_rows_stop_nobody(postgres):
    """They are dead letters and a gap; what is behind them, of their keys too, is applied."""
    async with world(postgres) as it:
        it.consumer.dead_letters_max = 10
        it.embedder.tokenless = ("c",)
        await it.insert("a", " ", "c")
        await it.here.user.execute("INSERT INTO notes VALUES (-5, 'negative', 0)")
        await it.drain()
        assert it.bodies() == {1: "a"}
        assert await it.letters() == {
            "2": "embedding_failed", "3": "embedding_failed", "-5": "invalid_payload"
        }  # fmt: skip
        shown = await it.shown()
        assert (shown["gap"], shown["coherency_with_truth"], shown["lag_ms"]) == (True, 0.0, 0.0)
        await it.here.user.execute("DELETE FROM notes WHERE id = -5")
        await it.here.user.execute("UPDATE notes SET body = 'mended' WHERE id = 2")
        await it.insert("d")
        await it.drain()

        assert it.bodies() == {1: "a", 2: "mended", 4: "d"}
        assert await it.letters() == {"3": "embedding_failed"}


async def test_too_many_dead_letters_stop_the_source(postgres):
    """None is dropped: the source waits, and goes on when some are replayed."""
    async with world(postgres) as it:
        await it.insert("a", " ", "  ", "   ", "    ")
        await it.drain()
        assert (it.bodies(), sorted(await it.letters())) == ({}, ["2", "3", "4"])
        shown = await it.shown()
        assert (shown["state"], shown["dead_letters"], shown["pending"]) == ("full", 3, 2)
        await it.here.user.execute("UPDATE notes SET body = 'mended'")
        assert not await it.consumer.round(it.session)
        assert await replay(it.here.database, "notes") == 3
        await it.drain()

        assert it.bodies() == dict.fromkeys(range(1, 6), "mended")
        assert await it.letters() == {}


async def test_an_older_change_of_a_bad_row_is_applied(postgres):
    """When the last change of a key cannot be applied, the one before it counts."""
    async with world(postgres) as it:
        await it.insert("good")
        await it.here.user.execute("UPDATE notes SET body = ' ' WHERE id = 1")
        await it.drain()

        assert it.bodies() == {1: "good"}
        assert await it.letters() == {"1": "embedding_failed"}


async def test_the_row_that_is_refused_is_found(postgres):
    """The embedder refuses a request; by halves it is found which text was meant."""
    async with world(postgres) as it:
        it.embedder.refused = ("r",)
        await it.insert(*"abcrefgh")
        await it.drain()

        assert sorted(it.bodies().values()) == list("abcefgh")
        assert await it.letters() == {"4": "embedding_failed"}


async def test_what_fails_waits_and_the_circuit_opens(postgres):
    """Nothing is a dead letter because the embedder is down; it is tried less and less often."""
    async with world(postgres) as it:
        it.embedder.down = True
        await it.insert("a")
        for attempt in range(FAILURES_MAX):
            assert not await it.consumer.round(it.session)
            assert not await it.consumer.round(it.session)
            assert it.embedder.calls == attempt + 1
            it.now_s += 0.1 * 2**attempt
        shown = await it.shown()
        assert (shown["circuit"], shown["state"], shown["dead_letters"]) == ("open", "failing", 0)
        assert shown["problem"] == "the embedding endpoint answers 500"
        assert shown["lag_ms"] > 0
        it.now_s += REST_S - 5
        assert not await it.consumer.round(it.session)
        assert it.embedder.calls == FAILURES_MAX
        it.now_s += 5
        it.embedder.down = False
        await it.drain()

        assert it.bodies() == {1: "a"}
        shown = await it.shown()
        assert (shown["circuit"], shown["state"], shown["problem"]) == ("closed", "running", None)


async def test_a_row_that_always_fails_is_given_up(postgres):
    """When the embedder answers for others, the row is at fault after some attempts."""
    async with world(postgres) as it:
        it.embedder.poison = ("p",)
        await it.insert("a", "p", "b")
        for _ in range(ATTEMPTS_MAX + 1):
            await it.drain()
            await it.forget_attempts()

        assert it.bodies() == {1: "a", 3: "b"}
        assert await it.letters() == {"2": "max_retries_exceeded"}


@pytest.mark.parametrize("too_many", [DeadlineExceeded, Unavailable, BadRequest])
async def test_too_many_texts_at_once_are_nobodys_fault(postgres, too_many):
    """An endpoint that is slow, or refuses so many, gets fewer: each row alone is well."""
    async with world(postgres) as it:
        it.embedder.most, it.embedder.too_many = 2, too_many
        await it.insert(*"abcdefgh")
        for _ in range(ATTEMPTS_MAX + 3):
            await it.drain()
            await it.forget_attempts()

        assert await it.letters() == {}
        assert sorted(it.bodies().values()) == list("abcdefgh")


async def test_an_attempt_goes_on_where_the_last_one_ended(postgres):
    """Texts that have their vectors are not embedded again, until the batch is written."""
    async with world(postgres) as it:
        await it.insert(*(f"text {number}" for number in range(TEXTS_AT_ONCE + 1)))
        it.embedder.poison = (f"text {TEXTS_AT_ONCE}",)
        assert not await it.consumer.round(it.session)
        assert it.embedder.calls == 2
        it.embedder.poison = ()
        await it.forget_attempts()
        await it.drain()

        assert (it.embedder.calls, len(it.bodies())) == (3, TEXTS_AT_ONCE + 1)
        assert not it.consumer.writer._known


async def test_dead_letters_wait_for_earlier_attempts(postgres):
    """A batch that somebody may still be writing does not change its name."""
    async with world(postgres) as it:
        it.router.failing = Unavailable("no quorum")
        await it.insert("a", "b")
        assert not await it.consumer.round(it.session)
        it.router.failing = None
        it.embedder.refused = ("b",)
        it.now_s += 1
        assert not await it.consumer.round(it.session)
        assert await it.letters() == {}
        await it.forget_attempts()
        await it.drain()

        assert (it.bodies(), await it.letters()) == ({1: "a"}, {"2": "embedding_failed"})


@pytest.mark.parametrize(
    ("creation", "said"),
    [
        ({"custom_sharding": True}, "custom sharding"),
        ({"embedding_space": "another"}, "does not hold vectors of this server's text embedding"),
    ],
)
async def test_an_unfit_collection_is_a_problem(postgres, creation, said):
    """It is nobody's row that is at fault: changes wait, and the reason is told."""
    async with world(postgres, **creation) as it:
        await it.insert("a")
        await it.drain()
        shown = await it.shown()

        assert said in shown["problem"]
        assert (shown["pending"], shown["dead_letters"]) == (1, 0)


async def test_a_missing_collection_is_a_problem(postgres):
    """The changes wait until it is there."""
    async with world(postgres) as it:
        await it.router.drop_collection("notes", Options(1.0))
        await it.insert("a")
        await it.drain()

        assert "no collection 'notes'" in (await it.shown())["problem"]


async def test_a_source_that_fails_holds_up_no_other(postgres):
    """Each source has a circuit of its own."""
    async with world(postgres) as it:
        await it.here.user.execute(NOTES.replace("notes", "more"))
        missing = Wanted(table="more", collection="missing", id_column="id", text_column="body")
        await install(it.here.database, missing)
        await it.here.user.execute("INSERT INTO more VALUES (1, 'a')")
        await it.insert("a")
        await it.drain()

        assert it.bodies() == {1: "a"}


async def test_a_pause_lets_changes_wait(postgres):
    """Nothing is applied until it is resumed."""
    async with world(postgres) as it:
        await pause(it.here.database, "notes")
        await it.insert("a")
        await it.drain()
        assert (it.bodies(), (await it.shown())["state"]) == ({}, "paused")
        await resume(it.here.database, "notes")
        await it.drain()

        assert it.bodies() == {1: "a"}


async def test_vectors_of_the_user(postgres):
    """An array is the vector, whatever embeds texts; a wrong one is a dead letter."""
    table = "CREATE TABLE notes (id uuid PRIMARY KEY, v real[], label text)"
    wanted = Wanted(
        table="notes", collection="notes", id_column="id", vector_column="v", payload=("label",)
    )
    key = "0b211aaa-30a4-40f5-8ae0-0abaee491e9"
    async with place(postgres, table) as here, Session.opened(here.url) as session:
        await install(here.database, wanted)
        it = World(here, session)
        await it.router.create_collection(
            "notes", dimension=2, distance="Dot", hnsw_m=16, hnsw_ef_construct=200,
            embedding_space=None, options=Options(1.0),
        )  # fmt: skip
        await here.user.execute(
            f"INSERT INTO notes VALUES ('{key}0', '{{1,2}}', 'x'), ('{key}1', '{{1,2,3}}', 'y'), "
            f"('{key}2', '{{1,NaN}}', 'z')"
        )
        await it.drain()
        (points,) = it.router.points.values()
        found = {str(each.id): (each.payload, each.vector) for each in points.values()}

        payload, vector = found.pop(f"{key}0")
        assert (payload, found) == ({"label": "x"}, {})
        assert vector is not None
        assert vector.tolist() == [1.0, 2.0]
        assert list((await it.letters()).values()) == ["invalid_payload"] * 2
