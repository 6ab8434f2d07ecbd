"""Points over HTTP: what is stored comes back, what is malformed stores nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.config import Config
from tests.unit.api_router import ApiClient, served, with_collection

UUID = "6f1e8c7a-0d2b-4f6e-9a3c-5b7d9e1f2a4c"
POINTS = "/collections/c/points"


def point(number: Any = 1, **parts: Any) -> dict[str, Any]:
    """Return a point of three dimensions."""
    return {"id": number, "vector": [1, 2, 3], **parts}


async def stored(client: ApiClient) -> int:
    """Return how many points the collection holds."""
    return int((await client("POST", f"{POINTS}/count", {})).result["count"])


async def test_points_come_back_as_they_were_given():
    """Ids keep their type, payloads are exact, and under Dot vectors are unchanged."""
    async with served() as client:
        await with_collection(client, distance="Dot")
        payload = {"n": 2**64 - 1, "f": 0.1, "t": "ü\n", "l": [None, True], "o": {"a.b": {}}}
        points = [
            {"id": 2**64 - 1, "vector": [0.5, -2, 3e38], "payload": payload},
            {"id": UUID, "vector": [0, 0, 0], "payload": None},
            {"id": 0, "vector": [1, 1, 1]},
        ]
        reply = await client("PUT", f"{POINTS}?wait=true", {"points": points})
        body = {"ids": [UUID, 2**64 - 1, 7, 0], "with_payload": True, "with_vector": True}
        found = (await client("POST", POINTS, body)).result

        version = reply.result["operation_id"]

        assert reply.result == {
            "operation_id": version,
            "status": "completed",
            "version": version,
        }
        assert reply.headers["X-Recollect-Session"] == f"m:5,0:{version}"
        assert [item["id"] for item in found] == [UUID, 2**64 - 1, 0]
        assert [item["payload"] for item in found] == [{}, payload, {}]
        assert found[1]["vector"] == [0.5, -2, 3e38]


@pytest.mark.parametrize("form", [UUID.upper(), UUID.replace("-", ""), f"urn:uuid:{UUID}"])
async def test_forms_of_a_uuid_are_one_id(form):
    """However a UUID is written, it is the same id, shown in its usual form."""
    async with served() as client:
        await with_collection(client)
        await client("PUT", POINTS, {"points": [point(form)]})

        assert (await client("POST", POINTS, {"ids": [UUID]})).result == [
            {"id": UUID, "version": 2, "payload": {}}
        ]


async def test_batches_by_column_are_stored():
    """The batch form stores the same points as the list form."""
    async with served() as client:
        await with_collection(client, distance="Dot")
        batch = {"ids": [1, UUID], "vectors": [[1, 2, 3], [4, 5, 6]], "payloads": [{"a": 1}, None]}
        await client("PUT", POINTS, {"batch": batch})
        body = {"ids": [1, UUID], "with_vector": True}

        assert (await client("POST", POINTS, body)).result == [
            {"id": 1, "version": 2, "payload": {"a": 1}, "vector": [1, 2, 3]},
            {"id": UUID, "version": 2, "payload": {}, "vector": [4, 5, 6]},
        ]


async def test_of_equal_ids_in_a_batch_the_last_counts():
    """A repeated id is written once, as it stands last."""
    async with served() as client:
        await with_collection(client)
        points = [point(1, payload={"n": 1}), point(2), point(1, payload={"n": 2})]
        await client("PUT", POINTS, {"points": points})

        assert await stored(client) == 2
        assert (await client("GET", f"{POINTS}/1")).result["payload"] == {"n": 2}


BAD_POINTS = [
    (point(), None),
    (point(-1), "id"),
    (point(2**64), "id"),
    (point(10**30), "id"),
    (point("not-a-uuid"), "id"),
    (point(""), "id"),
    (point("1"), "id"),
    (point("{" + UUID + "}"), "id"),
    (point(UUID[:-1] + "_"), "id"),
    (point(True), "id"),
    (point(1.5), "id"),
    (point(vector=[1, 2]), "vector"),
    (point(vector=[1, 2, 3, 4]), "vector"),
    (point(vector=[]), "vector"),
    (point(vector=[0, 0, 0]), "vector"),
    (point(vector=[1e-60, 0, 0]), "vector"),
    (point(vector=[1e39, 0, 0]), "vector"),
    (point(vector=[3e38, 3e38, 3e38]), "vector"),
    (point(vector=[1, 2, None]), "vector[2]"),
    (point(vector=[1, True, 3]), "vector[1]"),
    (point(vector=["1", 2, 3]), "vector[0]"),
    (point(vector=None), "vector"),
    (point(vector="abc"), "vector"),
    (point(payload=[]), "payload"),
    (point(payload="x"), "payload"),
    (point(payload={"a": {"n": 2**64}}), "payload.a.n"),
    (point(payload={"a": "\0"}), "payload.a"),
    (point(payload={"text": "x" * 65536}), "payload"),
    (point(pay=1), "pay"),
]


@pytest.mark.parametrize(("bad", "field"), BAD_POINTS[1:])
async def test_one_bad_point_refuses_the_batch(bad, field):
    """The first bad point is named by its place, and nothing of the batch is stored."""
    async with served() as client:
        await with_collection(client)
        points = [point(10), point(11), point(12), bad, {**bad, "id": 14}]
        reply = await client("PUT", POINTS, {"points": points})

        assert reply.refusal == (400, "bad_request", f"points[3].{field}")
        assert await stored(client) == 0


@pytest.mark.parametrize(
    ("vector", "distance"),
    [
        ([1e-30, 0, 0], "Cosine"),
        ([1e20, 1e20, -1e20], "Cosine"),
        ([1e-45, 0, 0], "Cosine"),
        ([0, 0, 0], "Euclid"),
        ([3e38, 3e38, 3e38], "Dot"),
    ],
)
async def test_extreme_vectors_with_a_meaning_are_stored(vector, distance):
    """Only what has no direction, or is not finite, is refused."""
    async with served() as client:
        await with_collection(client, distance=distance)

        assert (await client("PUT", POINTS, {"points": [point(vector=vector)]})).status == 200


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "bad_request", "points"),
        ({"points": []}, "bad_request", "points"),
        ({"points": None}, "bad_request", "points"),
        ({"points": {}}, "bad_request", "points"),
        ({"points": [point()], "batch": {"ids": [1], "vectors": []}}, "bad_request", "points"),
        ({"batch": {"ids": [], "vectors": []}}, "bad_request", "batch.ids"),
        ({"batch": {"ids": [1], "vectors": []}}, "bad_request", "batch.vectors"),
        (
            {"batch": {"ids": [1], "vectors": [[1, 2, 3]], "payloads": []}},
            "bad_request",
            "batch.payloads",
        ),
        (
            {"batch": {"ids": [1, 2], "vectors": [[1, 2, 3], [1]]}},
            "bad_request",
            "batch.vectors[1]",
        ),
        ({"batch": {"ids": [-1], "vectors": [[1, 2, 3]]}}, "bad_request", "batch.ids[0]"),
        ({"batch": {"ids": [1], "vectors": {"a": []}}}, "unsupported_feature", "batch.vectors"),
        ({"points": [point(vector={"a": [1]})]}, "unsupported_feature", "points[0].vector"),
        ({"points": [point()], "shard_key": "x"}, "bad_request", "shard_key"),
        ({"points": [point()], "update_filter": {}}, "unsupported_feature", "update_filter"),
        (
            {"points": [point()], "update_mode": "insert_only"},
            "unsupported_feature",
            "update_mode",
        ),
    ],
)
async def test_malformed_upserts_are_named(body, code, field):
    """What is no list of points, or asks for what is lacking, is a 400."""
    async with served() as client:
        await with_collection(client)

        assert (await client("PUT", POINTS, body)).refusal == (400, code, field)


async def test_nulls_of_clients_are_accepted():
    """Clients that send what they do not use as null are served."""
    async with served() as client:
        await with_collection(client)
        body = {
            "points": [point(payload=None)],
            "shard_key": None,
            "update_filter": None,
            "update_mode": None,
        }

        assert (await client("PUT", POINTS, body)).status == 200


async def test_too_many_points_are_refused():
    """A batch has a largest number of points."""
    async with served(config=Config(batch_points_max=2)) as client:
        await with_collection(client)
        points = [point(number) for number in range(3)]
        reply = await client("PUT", POINTS, {"points": points})

        assert reply.refusal == (400, "bad_request", "points")


async def test_a_large_batch_leaves_the_loop_free():
    """While a large body is converted, other requests are served."""
    async with served() as client:
        await with_collection(client, size=64)
        row = [0.123456789 + at for at in range(64)]
        large = {"points": [{"id": number, "vector": row} for number in range(3000)]}
        async with asyncio.TaskGroup() as group:
            upsert = group.create_task(client("PUT", POINTS, large))
            health = [group.create_task(client("GET", "/healthz")) for _ in range(5)]

        assert upsert.result().status == 200
        assert {task.result().status for task in health} == {200}
        assert await stored(client) == 3000


async def test_payloads_have_a_depth():
    """32 nested containers are stored, 33 are refused."""
    async with served() as client:
        await with_collection(client)
        deep: Any = 1
        for level in range(33):
            deep = {"a": deep} if level % 2 else [deep]
        reply = await client("PUT", POINTS, {"points": [point(payload={"x": deep})]})
        inner = deep["a"] if isinstance(deep, dict) else deep[0]
        inner = inner["a"] if isinstance(inner, dict) else inner[0]
        fits = await client("PUT", POINTS, {"points": [point(payload={"x": inner})]})

        assert reply.refusal == (400, "bad_request", "points[0].payload")
        assert fits.status == 200


async def test_wide_payloads_are_not_taken_for_deep_ones():
    """Many containers beside each other are no depth."""
    async with served() as client:
        await with_collection(client)
        payload = {"list": [{"a": []}] * 200, "text": "{[" * 100}

        assert (await client("PUT", POINTS, {"points": [point(payload=payload)]})).status == 200


async def test_one_point_is_read_by_its_path():
    """GET returns payload and vector, by integer or UUID."""
    async with served() as client:
        await with_collection(client, distance="Dot")
        await client("PUT", POINTS, {"points": [point(2**64 - 1), point(UUID)]})
        by_number = await client("GET", f"{POINTS}/{2**64 - 1}")
        by_uuid = await client("GET", f"{POINTS}/{UUID}")

        assert by_number.result == {
            "id": 2**64 - 1,
            "version": 2,
            "payload": {},
            "vector": [1, 2, 3],
        }
        assert by_uuid.result["id"] == UUID


@pytest.mark.parametrize("path", ["-1", str(2**64), "9" * 400, "x", "1.5", "%00", "0x1", "querys"])
async def test_bad_ids_in_paths_are_named(path):
    """What is neither a u64 nor a UUID is a 400."""
    async with served() as client:
        await with_collection(client)

        assert (await client("GET", f"{POINTS}/{path}")).refusal == (400, "bad_request", "id")


async def test_a_missing_point_is_404():
    """A point that is not there is not found."""
    async with served() as client:
        await with_collection(client)

        assert (await client("GET", f"{POINTS}/1")).refusal == (404, "not_found", "id")


async def test_selected_payload_fields_are_returned():
    """A payload is returned whole, in part, without parts, or not at all."""
    async with served() as client:
        await with_collection(client)
        payload = {"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4, "g": 5}, 6], "h.i": 7}
        await client("PUT", POINTS, {"points": [point(payload=payload)]})
        cases = [
            (True, payload),
            (None, payload),
            (["a"], {"a": 1}),
            (["b.c", "e[].f", "z"], {"b": {"c": 2}, "e": [{"f": 4}]}),
            (["e[]", "b.c.x"], {"e": [{"f": 4, "g": 5}, 6]}),
            ({"include": ["b"]}, {"b": {"c": 2, "d": 3}}),
            ({"exclude": ["b.c", "e[].g", "h"]}, {**payload, "b": {"d": 3}, "e": [{"f": 4}, 6]}),
            ({"exclude": ["a", "b", "e"]}, {"h.i": 7}),
            ([], {}),
        ]
        for wanted, expected in cases:
            found = (await client("POST", POINTS, {"ids": [1], "with_payload": wanted})).result

            assert found == [{"id": 1, "version": 2, "payload": expected}], wanted
        without = await client("POST", POINTS, {"ids": [1], "with_payload": False})

        assert without.result == [{"id": 1, "version": 2}]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "bad_request", "ids"),
        ({"ids": 1}, "bad_request", "ids"),
        ({"ids": [1, -1]}, "bad_request", "ids[1]"),
        ({"ids": [1, None]}, "bad_request", "ids[1]"),
        ({"ids": list(range(10_001))}, "bad_request", "ids"),
        ({"ids": [1], "with_payload": "a"}, "bad_request", "with_payload"),
        ({"ids": [1], "with_payload": {}}, "bad_request", "with_payload"),
        (
            {"ids": [1], "with_payload": {"include": [], "exclude": []}},
            "bad_request",
            "with_payload",
        ),
        ({"ids": [1], "with_vector": 1}, "bad_request", "with_vector"),
        ({"ids": [1], "with_vectors": True}, "bad_request", "with_vectors"),
        ({"ids": [1], "with_vector": ["a"]}, "unsupported_feature", "with_vector"),
        ({"ids": [1], "shard_key": ["a"]}, "bad_request", "shard_key"),
    ],
)
async def test_malformed_reads_are_named(body, code, field):
    """A read by ids that is malformed is a 400 with its field."""
    async with served() as client:
        await with_collection(client)

        assert (await client("POST", POINTS, body)).refusal == (400, code, field)


async def test_points_are_deleted_by_id_or_filter():
    """Deleting takes ids, of which some may be absent, or a filter."""
    async with served() as client:
        await with_collection(client)
        points = [point(number, payload={"n": number}) for number in range(6)]
        await client("PUT", POINTS, {"points": points})
        by_id = await client("POST", f"{POINTS}/delete?wait=true", {"points": [0, 99]})
        where = {"must": [{"key": "n", "range": {"gte": 4}}]}
        await client("POST", f"{POINTS}/delete", {"filter": where})
        left = (await client("POST", f"{POINTS}/scroll", {})).result["points"]

        assert by_id.result["status"] == "completed"
        assert [item["id"] for item in left] == [1, 2, 3]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "bad_request", "points"),
        ({"points": []}, "bad_request", "points"),
        ({"points": [1, "x"]}, "bad_request", "points[1]"),
        ({"points": [1], "filter": {"must": []}}, "bad_request", "filter"),
        ({"points": list(range(10_001))}, "bad_request", "points"),
        ({"filter": []}, "bad_request", "filter"),
        ({"filter": {"most": []}}, "bad_request", "filter.most"),
        (
            {"filter": {"must": [{"key": "a", "geo_radius": {}}]}},
            "unsupported_feature",
            "filter.must[0].geo_radius",
        ),
        ({"points": [1], "shard_key": 1}, "bad_request", "shard_key"),
    ],
)
async def test_malformed_selections_are_named(body, code, field):
    """A selection of points is ids or a filter, and what is wrong with it is named."""
    async with served() as client:
        await with_collection(client)
        for action in ("delete", "payload/clear"):
            reply = await client("POST", f"{POINTS}/{action}", body)

            assert reply.refusal == (400, code, field)


async def test_payloads_are_changed():
    """Merge, replace, remove and clear, by id or filter."""
    async with served() as client:
        await with_collection(client)
        await client("PUT", POINTS, {"points": [point(1, payload={"a": 1, "b": 2}), point(2)]})

        async def payloads(method: str, action: str, body: dict[str, Any]) -> list[Any]:
            reply = await client(method, f"{POINTS}/payload{action}?wait=true", body)
            assert reply.result["status"] == "completed"
            found = (await client("POST", POINTS, {"ids": [1, 2]})).result
            return [item["payload"] for item in found]

        merged = await payloads("POST", "", {"points": [1, 2], "payload": {"a": 3}})
        where = {"must": [{"key": "b", "match": {"value": 2}}]}
        replaced = await payloads("PUT", "", {"filter": where, "payload": {"c": 4, "d": 5}})
        removed = await payloads("POST", "/delete", {"points": [1], "keys": ["c", "x"]})
        cleared = await payloads("POST", "/clear", {"points": [2]})

        assert merged == [{"a": 3, "b": 2}, {"a": 3}]
        assert replaced == [{"c": 4, "d": 5}, {"a": 3}]
        assert removed == [{"d": 5}, {"a": 3}]
        assert cleared == [{"d": 5}, {}]


@pytest.mark.parametrize(
    ("action", "body", "code", "field"),
    [
        ("", {"points": [1]}, "bad_request", "payload"),
        ("", {"payload": {}}, "bad_request", "points"),
        ("", {"points": [1], "payload": None}, "bad_request", "payload"),
        ("", {"points": [1], "payload": {"t": "x" * 65536}}, "bad_request", "payload"),
        ("", {"points": [1], "payload": {"n": -(2**63) - 1}}, "bad_request", "payload.n"),
        ("", {"points": [1], "payload": {}, "key": "a.b"}, "unsupported_feature", "key"),
        ("/delete", {"points": [1], "keys": []}, "bad_request", "keys"),
        ("/delete", {"points": [1], "keys": [""]}, "bad_request", "keys[0]"),
        ("/delete", {"points": [1]}, "bad_request", "keys"),
        ("/clear", {"points": [1], "keys": []}, "bad_request", "keys"),
    ],
)
async def test_malformed_payload_changes_are_named(action, body, code, field):
    """A change of payloads that is malformed is a 400 with its field."""
    async with served() as client:
        await with_collection(client)

        assert (await client("POST", f"{POINTS}/payload{action}", body)).refusal == (
            400,
            code,
            field,
        )


async def test_scrolling_visits_every_point_once():
    """Pages in id order, integers before UUIDs, end with no further offset."""
    async with served() as client:
        await with_collection(client)
        ids: list[Any] = [3, 2**64 - 1, UUID, 0, 7]
        await client("PUT", POINTS, {"points": [point(each) for each in ids]})
        seen: list[Any] = []
        offset = None
        for _ in range(3):
            body = {"limit": 2, "offset": offset, "with_payload": False}
            page = (await client("POST", f"{POINTS}/scroll", body)).result
            seen += [item["id"] for item in page["points"]]
            offset = page["next_page_offset"]

        assert seen == [0, 3, 7, 2**64 - 1, UUID]
        assert offset is None


async def test_scrolling_and_counting_honour_filters():
    """A filter limits what is listed and counted."""
    async with served() as client:
        await with_collection(client)
        points = [point(number, payload={"n": number}) for number in range(6)]
        await client("PUT", POINTS, {"points": points})
        where = {"must_not": [{"key": "n", "range": {"lt": 4}}]}
        page = await client("POST", f"{POINTS}/scroll", {"filter": where, "with_vector": True})
        count = await client("POST", f"{POINTS}/count", {"filter": where, "exact": False})

        assert [item["id"] for item in page.result["points"]] == [4, 5]
        assert all(len(item["vector"]) == 3 for item in page.result["points"])
        assert count.result == {"count": 2}


@pytest.mark.parametrize(
    ("action", "body", "code", "field"),
    [
        ("scroll", {"limit": 0}, "bad_request", "limit"),
        ("scroll", {"limit": 10_001}, "bad_request", "limit"),
        ("scroll", {"limit": -1}, "bad_request", "limit"),
        ("scroll", {"limit": "5"}, "bad_request", "limit"),
        ("scroll", {"offset": -1}, "bad_request", "offset"),
        ("scroll", {"offset": "x"}, "bad_request", "offset"),
        ("scroll", {"order_by": "n"}, "unsupported_feature", "order_by"),
        ("count", {"exact": "yes"}, "bad_request", "exact"),
        ("count", {"filter": {"x": 1}}, "bad_request", "filter.x"),
        ("count", {"limit": 1}, "bad_request", "limit"),
    ],
)
async def test_malformed_lists_are_named(action, body, code, field):
    """A scroll or count that is malformed is a 400 with its field."""
    async with served() as client:
        await with_collection(client)

        assert (await client("POST", f"{POINTS}/{action}", body)).refusal == (400, code, field)
