"""Keys over HTTP: how they are named, when they are needed, and that answers tell them."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import Config
from tests.unit.api_router import ApiClient, served, with_collection

C = "/collections/k"
POINTS = f"{C}/points"
KEYS = ["a", 7, "7"]


def point(number: Any = 1, **parts: Any) -> dict[str, Any]:
    return {"id": number, "vector": [number, 1], **parts}


async def with_keys(client: ApiClient, *, filled: bool = True) -> None:
    """Create the collection `k` with custom sharding, and put three ids under three keys."""
    body = {"vectors": {"size": 2, "distance": "Dot"}, "sharding_method": "custom"}
    assert (await client("PUT", C, body)).result is True
    for key in KEYS if filled else []:
        points = [point(n, payload={"key": key, "n": n}) for n in (1, 2, 3)]
        reply = await client("PUT", POINTS, {"points": points, "shard_key": key})
        assert reply.result["status"] == "completed"


def seen(found: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(each["id"], each["shard_key"]) for each in found]


async def test_a_collection_tells_its_way_of_sharding():
    """Custom sharding is chosen at creation; the description says which one it is."""
    async with served() as client:
        await with_collection(client)
        await with_keys(client)
        methods = {}
        for name in ("c", "k"):
            described = (await client("GET", f"/collections/{name}")).result
            methods[name] = described["config"]["params"]["sharding_method"]

        assert methods == {"c": "auto", "k": "custom"}


async def test_patterns_have_no_keys():
    """What stores patterns names no key, so their collection is not made with keys."""
    async with served(patterns=False) as client:
        body = {"vectors": {"size": 8, "distance": "Cosine"}, "sharding_method": "custom"}
        reply = await client("PUT", "/collections/patterns", body)

        assert reply.refusal == (400, "bad_request", "sharding_method")


READS: list[tuple[str, dict[str, Any]]] = [
    ("", {"ids": [3, 2, 1]}),
    ("/scroll", {}),
    ("/query", {}),
    ("/query", {"query": [1, 0]}),
    ("/query", {"query": {"nearest": [1, 0]}, "params": {"exact": True}}),
    ("/search", {"vector": [1, 0], "limit": 10}),
]


def points_of(result: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result["points"] if isinstance(result, dict) else result
    return found


@pytest.mark.parametrize(("path", "body"), READS)
async def test_reads_see_the_points_of_their_keys(path, body):
    """One key, several, or all; every point tells its key, as the type it was given."""
    async with served() as client:
        await with_keys(client)
        for keys, expected in (
            ("a", {"a"}),
            (7, {7}),
            ("7", {"7"}),
            ([7, "a", 7], {7, "a"}),
            ("nobody", set()),
            (None, set(KEYS)),
        ):
            found = points_of(
                (await client("POST", f"{POINTS}{path}", {**body, "shard_key": keys})).result
            )
            pairs = seen(found)

            assert set(pairs) == {(n, key) for n in (1, 2, 3) for key in expected}
            assert len(pairs) == len(set(pairs))


async def test_counts_are_of_keys():
    """A count takes keys as every read does."""
    async with served() as client:
        await with_keys(client)
        counts = [
            (await client("POST", f"{POINTS}/count", {"shard_key": keys})).result["count"]
            for keys in (None, "a", ["a", "7"], "nobody")
        ]

        assert counts == [9, 3, 6, 0]


async def test_the_searches_of_a_batch_have_their_own_keys():
    """Each is answered from its key; a refusal names the search."""
    async with served() as client:
        await with_keys(client)
        searches: list[dict[str, Any]] = [
            {"query": [1, 0], "shard_key": "a"},
            {"query": 2, "shard_key": 7},
            {},
        ]
        reply = await client("POST", f"{POINTS}/query/batch", {"searches": searches})
        sizes = [len(each["points"]) for each in reply.result]
        searches[1]["shard_key"] = ""
        bad = await client("POST", f"{POINTS}/query/batch", {"searches": searches})
        searches[1]["shard_key"] = None
        unclear = await client("POST", f"{POINTS}/query/batch", {"searches": searches})

        assert sizes == [3, 2, 9]
        assert seen(reply.result[1]["points"]) == [(3, 7), (1, 7)]
        assert bad.refusal == (400, "bad_request", "searches[1].shard_key")
        assert unclear.refusal == (400, "bad_request", "searches[1].shard_key")


async def test_a_query_by_id_needs_one_point():
    """Alone an id will do, of several keys one must be named; the point itself is no result."""
    async with served() as client:
        await with_keys(client)
        unclear = await client("POST", f"{POINTS}/query", {"query": 2})
        clear = await client("POST", f"{POINTS}/query", {"query": 2, "shard_key": "a"})
        for key in (7, "7"):
            body = {"points": [2], "shard_key": key}
            await client("POST", f"{POINTS}/delete", body)
        alone = await client("POST", f"{POINTS}/query", {"query": 2})

        assert unclear.refusal == (400, "bad_request", "shard_key")
        assert "3 points have the id 2" in unclear.body["status"]["error"]
        assert seen(clear.result["points"]) == [(3, "a"), (1, "a")]
        assert len(alone.result["points"]) == 6
        assert (2, "a") not in seen(alone.result["points"])


async def test_one_point_by_its_url():
    """Digits are an integer, quotes make them text; without a key the id must be of one point."""
    async with served() as client:
        await with_keys(client)
        unclear = await client("GET", f"{POINTS}/1")
        found = [
            (await client("GET", f"{POINTS}/1?shard_key={key}")).result["shard_key"]
            for key in ("a", "%22a%22", "7", "%227%22")
        ]
        missing = await client("GET", f"{POINTS}/1?shard_key=007")
        await client("PUT", POINTS, {"points": [point(9)], "shard_key": "a"})
        alone = await client("GET", f"{POINTS}/9")

        assert unclear.refusal == (400, "bad_request", "shard_key")
        assert found == ["a", "a", 7, "7"]
        assert missing.refusal == (404, "not_found", "id")
        assert alone.result["shard_key"] == "a"
        for key in ("", "%22%22", "18446744073709551616", "9" * 5000, "a%00b", "x" * 256):
            reply = await client("GET", f"{POINTS}/1?shard_key={key}")
            assert reply.refusal == (400, "bad_request", "shard_key")
        for other in (f"{C}?shard_key=a", "/collections?shard_key=a"):
            assert (await client("GET", other)).refusal == (400, "bad_request", "shard_key")


async def test_pages_and_offsets_count_points():
    """A page has all points of its last id; a query's offset and limit are exact."""
    async with served(config=Config(limit_max=4)) as client:
        await with_keys(client)
        page = (await client("POST", f"{POINTS}/scroll", {"limit": 4})).result
        everything = [(n, key) for n in (1, 2, 3) for key in (7, "7", "a")]

        assert seen(page["points"]) == everything[:6]
        assert page["next_page_offset"] == 3
        for offset in range(11):
            body = {"limit": 2, "offset": offset}
            found = (await client("POST", f"{POINTS}/query", body)).result["points"]
            assert seen(found) == everything[offset : offset + 2]


async def test_columns_are_written_under_a_key():
    """The batch form has its key beside it; a list of one key is one key."""
    async with served() as client:
        await with_keys(client, filled=False)
        batch = {"ids": [1, 2], "vectors": [[1, 2], [3, 4]]}
        await client("PUT", POINTS, {"batch": batch, "shard_key": ["s"]})

        assert seen((await client("POST", f"{POINTS}/scroll", {})).result["points"]) == [
            (1, "s"),
            (2, "s"),
        ]


CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/delete", {}),
    ("POST", "/payload", {"payload": {"n": 0}}),
    ("PUT", "/payload", {"payload": {"n": 0}}),
    ("POST", "/payload/delete", {"keys": ["n"]}),
    ("POST", "/payload/clear", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_changes_stay_under_their_keys(method, path, body):
    """By id a key is needed; by filter it narrows."""
    async with served() as client:
        await with_keys(client)
        changed = {"filter": {"must": {"key": "n", "match": {"value": 1}}}}
        left = []
        choices: list[dict[str, Any]] = [
            {"points": [1]},
            {"points": [1], "shard_key": "a"},
            {**changed, "shard_key": [7, "nobody"]},
            changed,
        ]
        for choice in choices:
            reply = await client(method, f"{POINTS}{path}", {**body, **choice})
            left.append((await client("POST", f"{POINTS}/count", changed)).result["count"])
            if len(left) == 1:
                assert reply.refusal == (400, "bad_request", "shard_key")

        assert left == [3, 2, 1, 0]


BAD_KEYS = ["", "x" * 256, -1, 2**64, 1.5, True, {"target": "a", "fallback": "b"}, [], ["a", ""]]


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
async def test_malformed_keys_are_named(key):
    """Everywhere that takes one, and nothing is written."""
    async with served() as client:
        await with_keys(client, filled=False)
        bodies: list[tuple[str, str, dict[str, Any]]] = [
            ("PUT", POINTS, {"points": [point()]}),
            ("POST", f"{POINTS}/delete", {"points": [1]}),
            ("POST", f"{POINTS}/count", {}),
            *(("POST", f"{POINTS}{path}", body) for path, body in READS),
            ("PUT", f"{C}/shards", {}),
            ("POST", f"{C}/shards/delete", {}),
        ]
        for method, path, body in bodies:
            status, code, field = (await client(method, path, {**body, "shard_key": key})).refusal
            assert (status, code) == (400, "bad_request")
            assert field is not None
            assert field.split("[")[0] == "shard_key"

        assert (await client("POST", f"{POINTS}/count", {})).result == {"count": 0}


async def test_writes_name_one_key():
    """A point has one key, and a condition is about one point."""
    async with served() as client:
        await with_keys(client)
        several = ["a", 7]
        replies = [
            await client("PUT", POINTS, {"points": [point()]}),
            await client("PUT", POINTS, {"points": [point()], "shard_key": several}),
            await client("PUT", POINTS, {"points": [point()], "shard_key": None}),
        ]
        body: dict[str, Any] = {"points": [1], "if_version": 2, "shard_key": several}
        condition = await client("POST", f"{POINTS}/delete", body)
        body["shard_key"] = "a"
        await client("POST", f"{POINTS}/delete", body)

        assert [each.refusal for each in replies] == [(400, "bad_request", "shard_key")] * 3
        assert condition.refusal == (400, "bad_request", "if_version")
        assert (await client("POST", f"{POINTS}/count", {})).result == {"count": 8}


async def test_conflicts_are_about_the_point_under_its_key():
    """`if_absent` holds under a key that has no such id."""
    async with served() as client:
        await with_keys(client)
        body = {"points": [point(5), point(1, if_absent=True)], "shard_key": "b"}
        created = await client("PUT", POINTS, body)
        refused = await client("PUT", POINTS, {**body, "shard_key": 7})

        assert created.status == 200
        assert refused.refusal == (409, "version_conflict", "points[1]")
        assert refused.error["point"] == 1


async def test_ids_times_keys_are_bounded():
    """A request is about no more points than without keys."""
    async with served(config=Config(limit_max=5, batch_points_max=5)) as client:
        await with_keys(client)
        body = {"shard_key": ["a", "b", "c"]}
        read = await client("POST", POINTS, {"ids": [1, 2], **body})
        written = await client("POST", f"{POINTS}/delete", {"points": [1, 2], **body})

        assert read.refusal == written.refusal == (400, "bad_request", "shard_key")


async def test_keys_come_and_go():
    """A key needs no creation; deleting it deletes its points, and once more is no error."""
    async with served() as client:
        await with_keys(client)
        wanted = {
            "shard_key": "new",
            "shards_number": 2,
            "replication_factor": 1,
            "placement": [1],
            "initial_state": None,
        }
        assert (await client("PUT", f"{C}/shards?timeout=5", wanted)).result is True
        for key, left in ((7, 6), (7, 6), ("new", 6), ("a", 3)):
            reply = await client("POST", f"{C}/shards/delete", {"shard_key": key})

            assert reply.result is True
            assert reply.headers["X-Recollect-Session"]
            assert (await client("POST", f"{POINTS}/count", {})).result == {"count": left}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "shard_key"),
        ({"shard_key": None}, "shard_key"),
        ({"shard_key": ["a"]}, "shard_key"),
        ({"shard_key": "a", "shards_number": 0}, "shards_number"),
        ({"shard_key": "a", "replication_factor": "1"}, "replication_factor"),
        ({"shard_key": "a", "placement": [-1]}, "placement[0]"),
        ({"shard_key": "a", "initial_state": "Active"}, "initial_state"),
        ({"shard_key": "a", "colour": 1}, "colour"),
    ],
)
async def test_malformed_creations_of_keys_are_named(body, field):
    """As all bodies, read strictly."""
    async with served() as client:
        await with_keys(client, filled=False)
        status, _, named = (await client("PUT", f"{C}/shards", body)).refusal

        assert (status, named) == (400, field)


async def test_collections_without_keys_refuse_them():
    """Whatever names a key, and before anything is done; their points show none."""
    async with served() as client:
        await with_collection(client, size=2, distance="Dot")
        plain = POINTS.replace("/k/", "/c/")
        await client("PUT", plain, {"points": [point()], "shard_key": None})
        bodies: list[tuple[str, str, dict[str, Any]]] = [
            ("PUT", plain, {"points": [point(2)]}),
            *(
                (method, f"{plain}{path}", {"points": [1], **body})
                for method, path, body in CHANGES
            ),
            *(("POST", f"{plain}{path}", body) for path, body in READS),
            ("POST", f"{plain}/count", {}),
            ("PUT", "/collections/c/shards", {}),
            ("POST", "/collections/c/shards/delete", {}),
        ]
        for method, path, body in bodies:
            reply = await client(method, path, {**body, "shard_key": "a"})
            assert reply.refusal == (400, "bad_request", "shard_key")
        assert (await client("GET", f"{plain}/1?shard_key=a")).refusal[2] == "shard_key"

        (found,) = (await client("POST", f"{plain}/scroll", {})).result["points"]
        assert "shard_key" not in found
        assert "shard_key" not in (await client("GET", f"{plain}/1")).result
