"""Patterns that live in Postgres: searches against brute force, versions, repeated requests."""

import asyncio
import itertools
import random

import numpy as np
import pytest

from cluster.shard import ShardMachine
from storage.checkpoint.database import Database
from storage.checkpoint.errors import DatabaseRefused
from storage.checkpoint.patterns import refresh_patterns
from storage.checkpoint.reading import checkpoint
from storage.filters import matches, parse_filter
from storage.postgres_patterns.conditions import split
from storage.postgres_patterns.searching import SETTINGS, Wanted, nearest
from storage.postgres_patterns.table import check, prepare
from storage.postgres_patterns.writing import Pattern, Request, RequestReused, Stored, store
from tests.postgres import checkpoint_shard, empty_database
from tests.shard_commands import TTL_MS, apply, command, point, upsert

DIMENSION = 16
CREATED = "2026-11-21T13:22:57.298Z"
MANY = """
INSERT INTO stored_patterns (id, task, reward, session_id, created_at, updated_at, embedding)
SELECT id::text, 'task', id % 10, 's' || id % 7, now(), now(), vector::real[]::vector
FROM unnest($1::bigint[], $2::text[]) AS given (id, vector)
"""


@pytest.fixture
async def database(postgres):
    async with (
        empty_database(postgres) as url,
        Database.opened(
            url, connections=4, patience_s=5, settings={**SETTINGS, "enable_seqscan": "off"}
        ) as found,
    ):
        # Without sequential scans a few rows are searched by the index, as many are.
        yield found


@pytest.fixture
async def space(database):
    return await prepare(database, "model", DIMENSION)


def unit(*elements):
    vector = np.zeros(DIMENSION)
    vector[: len(elements)] = elements
    return (vector / np.linalg.norm(vector)).tolist()


def pattern(point_id=1, if_version=None, embedding=None, **payload):
    given = {"task": "sail", "createdAt": CREATED, **payload}
    return Pattern(point_id, embedding or unit(1), given, if_version)


async def stored(database, space, *arguments, request=None, **payload):
    async with database.connection() as connection:
        return await store(connection, space, pattern(*arguments, **payload), request)


async def found(database, space, limit=10, where=None, **wanted):
    parsed = None if where is None else parse_filter(where)
    async with database.connection() as connection:
        return await nearest(connection, space, Wanted(unit(1), limit, parsed, **wanted))


async def fill(database, vectors):
    texts = ["{" + ",".join(map(str, vector)) + "}" for vector in vectors]
    numbers = list(range(1, len(vectors) + 1))
    async with database.connection() as connection:
        await connection.execute(MANY, numbers, texts)
        await connection.execute("ANALYZE stored_patterns")


async def test_every_field_comes_back(database, space):
    """Columns hold all of a payload: numbers of any size, text of any kind, and what is absent."""
    full = {
        "task": "sail \\ 🦉 \u2028 '; --",
        "input": "",
        "output": "x" * 60_000,
        "critique": "ß",
        "reward": 1e-300,
        "success": False,
        "sessionId": "s" * 9000,
        "metadata": {"big": 2**64 - 1, "small": -(2**63), "e": 1e22, "z": -0.0, "": [None, {}]},
    }
    await stored(database, space, 2**64 - 1, **full)
    await stored(database, space, "00000000-0000-4000-8000-00000000000A")
    first, second = sorted(await found(database, space), key=lambda each: len(each.payload))

    assert first.payload == {"task": "sail", "createdAt": CREATED}
    assert first.id == "00000000-0000-4000-8000-00000000000a"
    assert second.payload == {**full, "createdAt": CREATED}
    assert str(second.payload["metadata"]["z"]) == "-0.0"
    assert second.id == 2**64 - 1
    assert second.score == pytest.approx(1)


async def test_never_fewer_than_there_are(database, space):
    """However few match and however far away they lie, all of them are found, in order."""
    random_ = np.random.default_rng(1)
    vectors = random_.normal(size=(1200, DIMENSION)) + 5 * np.eye(DIMENSION)[0]
    vectors[::120] = -np.eye(DIMENSION)[0] + random_.normal(size=(10, DIMENSION)) / 10
    await fill(database, vectors)
    far = [str(number) for number in range(1, 1201, 120)]
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE stored_patterns SET success = true WHERE id = ANY($1)", far
        )
        await connection.execute(
            "UPDATE stored_patterns SET metadata = '{\"far\": 1}' WHERE id = ANY($1)", far
        )
    scores = vectors @ unit(1) / np.linalg.norm(vectors, axis=1)
    ranked = sorted(map(int, far), key=lambda number: -scores[number - 1])
    by_column = {"must": [{"key": "success", "match": {"value": True}}]}
    by_row = {"must": [{"key": "metadata.far", "match": {"value": 1}}]}

    for where, limit in itertools.product((by_column, by_row), (3, 10, 500)):
        hits = await found(database, space, limit, where)
        assert [hit.id for hit in hits] == ranked[:limit]
    every = await found(database, space, 10_000)
    assert len(every) == 1200
    assert [hit.score for hit in every] == sorted((hit.score for hit in every), reverse=True)
    least = every[99].score
    assert len(await found(database, space, 10_000, threshold=least)) == 100
    assert len(await found(database, space, 10_000, by_row, threshold=0.0)) == 0


async def test_a_search_uses_the_index(database, space):
    """The index is what answers, and finds nearly all of the nearest."""
    vectors = np.random.default_rng(2).normal(size=(1200, DIMENSION))
    await fill(database, vectors)
    scores = vectors @ unit(1) / np.linalg.norm(vectors, axis=1)
    truth = set((np.argsort(-scores)[:50] + 1).tolist())
    async with database.connection() as connection:
        hits = await nearest(connection, space, Wanted(unit(1), 50))
        await connection.execute("SELECT pg_stat_force_next_flush()")
        used = await connection.fetchval(
            "SELECT idx_scan FROM pg_stat_user_indexes "
            "WHERE indexrelname = 'stored_patterns_by_embedding'"
        )

    assert len(truth & {hit.id for hit in hits}) >= 48
    assert used == 1


FIELDS = [
    {"key": "reward", "range": {"gte": 3, "lt": 7}},
    {"key": "reward", "range": {}},
    {"key": "reward", "range": {"gt": 2**53 + 1}},
    {"key": "success", "match": {"value": False}},
    {"key": "success", "match": {"value": 0}},
    {"key": "sessionId", "match": {"value": "s3"}},
    {"key": "sessionId", "match": {"any": ["s3", "s4"]}},
    {"key": "reward", "match": {"value": 3}},
    {"has_id": [1, 4, 9, 11]},
    {"has_id": []},
    {"is_empty": {"key": "success"}},
    {"key": "createdAt", "range": {"gt": "2026-01-01"}},
]


async def test_filters_are_those_of_the_definition(database, space):
    """Any nesting of conditions selects what `matches` does, whoever looks at which part."""
    payloads = {
        number: {
            "task": "sail",
            "createdAt": CREATED,
            **({"reward": float(number % 10)} if number % 4 else {}),
            **({"success": number % 2 == 0} if number % 3 else {}),
            "sessionId": f"s{number % 7}",
        }
        for number in range(1, 41)
    }
    for number, payload in payloads.items():
        await stored(database, space, number, **payload)
    draw = random.Random(3)
    for _ in range(150):
        where = {
            clause: [
                draw.choice([each, {"must": [each, draw.choice(FIELDS)]}, {"must_not": each}])
                for each in draw.sample(FIELDS, draw.randint(1, 3))
            ]
            for clause in draw.sample(["must", "should", "must_not"], draw.randint(1, 3))
        }
        parsed = parse_filter(where)
        wanted = {
            number for number, payload in payloads.items() if matches(parsed, number, payload)
        }
        hits = await found(database, space, 100, where)

        assert {hit.id for hit in hits} == wanted, where


def test_what_patterns_are_asked_for_is_left_to_postgres():
    """Reward, outcome, session and ids need no look at each row."""
    where = {"must": [FIELDS[0], FIELDS[3], {"must": [FIELDS[5], FIELDS[8]]}]}
    terms, rest = split(parse_filter(where))

    assert len(terms) == 5
    assert rest is None
    assert split(None) == ([], None)


async def test_versions_grow_with_every_store(database, space):
    """Also when many store the same pattern at once: the last one committed has the highest."""
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(stored(database, space, 1, task=str(number))) for number in range(30)
        ]
    versions = {each.result().version: str(number) for number, each in enumerate(running)}
    (hit,) = await found(database, space)

    assert len(versions) == 30
    assert hit.version == max(versions)
    assert hit.payload["task"] == versions[hit.version]


async def test_one_of_many_wins_a_condition(database, space):
    """Of those who demand that there is none, one gets it; the others learn its version."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(stored(database, space, 1, 0)) for _ in range(10)]
    results = [each.result() for each in running]
    won = [each for each in results if not each.conflict]

    assert len(won) == 1
    assert {each.version for each in results} == {won[0].version}


async def test_a_request_is_carried_out_once(database, space):
    """At the same time or later, until it is forgotten; then its key is free again."""
    request = Request("key", "digest", 60_000)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(stored(database, space, 1, request=request)) for _ in range(10)
        ]
    first = {each.result() for each in running}
    with pytest.raises(RequestReused):
        await stored(database, space, 2, request=Request("key", "other", 60_000))
    await database.run(lambda c: c.execute("UPDATE stored_pattern_requests SET expires_at = now()"))
    again = await stored(database, space, 1, request=Request("key", "other", 60_000))

    assert len(first) == 1
    assert again.version > first.pop().version
    assert len(await found(database, space)) == 1


async def test_a_conflict_is_a_result_that_is_kept(database, space):
    """A request that was told that it was not carried out is not carried out later."""
    request = Request("key", "digest", 60_000)
    first = await stored(database, space, 1, 7, request=request)
    version = (await stored(database, space, 1)).version
    again = await stored(database, space, 1, 7, request=request)

    assert first == again == Stored(0, conflict=True)
    assert (await found(database, space))[0].version == version


async def test_forgotten_requests_go(database, space):
    """What has expired is swept by those who come."""
    for number in range(15):
        await stored(database, space, 1, request=Request(f"old {number}", "", 0))
    await stored(database, space, 1, request=Request("new", "", 60_000))
    await stored(database, space, 1, request=Request("newer", "", 60_000))
    kept = await database.run(
        lambda c: c.fetch("SELECT request_id FROM stored_pattern_requests ORDER BY 1")
    )

    assert [row["request_id"] for row in kept] == ["new", "newer"]


async def test_another_model_finds_the_first_ones_space(database, space):
    """Several servers may start at once and again; the embeddings stay what they are."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(prepare(database, "other", 8)) for _ in range(3)]

    assert {each.result() for each in running} == {space}
    await check(database)


async def test_large_embeddings_are_searched_without_an_index(database):
    """pgvector indexes no more than 2,000 elements."""
    space = await prepare(database, "model", 2500)
    for number in range(1, 4):
        embedding = [0.0] * 2499 + [1.0] if number == 3 else [1.0] + [0.0] * 2499
        await stored(database, space, number, embedding=embedding)
    async with database.connection() as connection:
        hits = await nearest(connection, space, Wanted([0.0] * 2499 + [1.0], 1))

    assert [hit.id for hit in hits] == [3]


async def test_pgvector_may_lie_in_a_schema_of_its_own(database):
    """Names of its operators and types are written out."""
    await database.run(
        lambda c: c.execute('CREATE SCHEMA "Odd one"; CREATE EXTENSION vector SCHEMA "Odd one"')
    )
    space = await prepare(database, "model", DIMENSION)
    await stored(database, space, 1)
    await stored(database, space, 1, 1)

    assert [hit.id for hit in await found(database, space)] == [1]


async def test_a_database_without_the_table_is_refused(database, space):
    """A server that finds another database in the place of its own begins again."""
    await database.run(lambda c: c.execute("DELETE FROM stored_pattern_space"))
    with pytest.raises(DatabaseRefused):
        await check(database)


async def test_patterns_of_clusters_are_others(database, tmp_path, space):
    """A checkpoint repaints what is a cluster's, and touches nothing that lives here."""
    await stored(database, space, 1, task="mine")
    machine = ShardMachine(None, request_id_ttl_ms=TTL_MS)
    apply(machine, command(upsert(point(1, b'{"task":"theirs"}', 1.0))))
    manifest = await checkpoint_shard(database, machine, tmp_path)
    await refresh_patterns(database, await checkpoint(database, manifest.checkpoint), 1, 2)
    theirs = await database.run(lambda c: c.fetch("SELECT task FROM reasoning_patterns"))
    (mine,) = await found(database, space)

    assert [row["task"] for row in theirs] == ["theirs"]
    assert mine.payload["task"] == "mine"
