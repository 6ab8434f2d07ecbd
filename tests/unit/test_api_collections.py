"""Collections and payload indexes over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api_router import SPACE, served, with_collection

VECTORS = {"size": 4, "distance": "Dot"}


async def test_a_collection_lives():
    """Create, list, describe, exist, drop."""
    async with served() as client:
        created = await client("PUT", "/collections/a.b-C_1", {"vectors": VECTORS})
        listed = await client("GET", "/collections")
        info = await client("GET", "/collections/a.b-C_1")
        exists = await client("GET", "/collections/a.b-C_1/exists")
        dropped = await client("DELETE", "/collections/a.b-C_1")
        again = await client("DELETE", "/collections/a.b-C_1")
        gone = await client("GET", "/collections/a.b-C_1/exists")

        assert created.result is True
        assert listed.result == {"collections": [{"name": "a.b-C_1"}, {"name": "patterns"}]}
        assert info.result["status"] == "green"
        assert info.result["config"]["params"]["vectors"] == VECTORS
        assert (exists.result, gone.result) == ({"exists": True}, {"exists": False})
        assert (dropped.result, again.result) == (True, False)


async def test_the_effective_values_are_reported():
    """Sizes of the cluster are accepted and the real ones answered."""
    async with served() as client:
        body = {
            "vectors": {**VECTORS, "hnsw_config": {"ef_construct": 77}, "on_disk": True},
            "hnsw_config": {"m": 8, "ef_construct": 50, "payload_m": 4, "on_disk": None},
            "shard_number": 99,
            "replication_factor": 7,
            "write_consistency_factor": 2,
            "sharding_method": "auto",
            "on_disk_payload": True,
            "optimizers_config": {"indexing_threshold": 0, "max_optimization_threads": "auto"},
            "wal_config": {"wal_capacity_mb": 32},
            "quantization_config": None,
            "sparse_vectors": None,
        }
        assert (await client("PUT", "/collections/c?timeout=30", body)).result is True
        config = (await client("GET", "/collections/c")).result["config"]

        assert config["params"]["shard_number"] == 3
        assert config["params"]["replication_factor"] == 1
        assert (config["hnsw_config"]["m"], config["hnsw_config"]["ef_construct"]) == (8, 77)


async def test_collections_declare_where_their_vectors_come_from():
    """A collection of the server's own embedding is searched by text; other names are kept."""
    async with served() as client:
        vectors = {"size": 8, "distance": "Dot"}
        await client("PUT", "/collections/own", {"vectors": vectors, "embedding_space": "default"})
        await client(
            "PUT", "/collections/other", {"vectors": VECTORS, "embedding_space": "model-x"}
        )
        wrong = {"vectors": VECTORS, "embedding_space": "default"}
        text = await client("POST", "/vectors/search", {"query": "ab", "collection": "own"})
        spaces = [
            (await client("GET", f"/collections/{name}")).result["embedding_space"]
            for name in ("own", "other")
        ]

        assert text.result == []
        assert spaces == [SPACE, "model-x"]
        assert (await client("PUT", "/collections/wrong", wrong)).refusal == (
            400,
            "bad_request",
            "vectors.size",
        )


@pytest.mark.parametrize(("given", "used"), [({}, 16), ({"m": 0}, 16), ({"m": 1}, 2), (None, 16)])
async def test_unusual_graph_widths_are_accepted(given, used):
    """No width leaves the choice to the server, and too small a one is widened."""
    async with served() as client:
        await client("PUT", "/collections/c", {"vectors": VECTORS, "hnsw_config": given})

        assert client.router.known["c"].hnsw_m == used


@pytest.mark.parametrize("size", [4, 5])
async def test_creating_twice_is_a_conflict(size):
    """An existing name is a 409, with equal parameters too."""
    async with served() as client:
        await client("PUT", "/collections/c", {"vectors": VECTORS})
        reply = await client("PUT", "/collections/c", {"vectors": {**VECTORS, "size": size}})

        assert reply.refusal == (409, "collection_exists", "collection_name")


@pytest.mark.parametrize(
    "name",
    [".hidden", "%2E%2E", "a%20b", "a%2Fb", "%00", "a%00", "%ff", "%252e", "x" * 256, "%E2%82%AC"],
)
async def test_bad_names_are_refused_on_every_route(name):
    """A name outside the alphabet is a 400 wherever a name is read."""
    async with served() as client:
        requests = [
            ("PUT", "", {"vectors": VECTORS}),
            ("GET", "", None),
            ("DELETE", "", None),
            ("GET", "/exists", None),
            ("PUT", "/points", {"points": [{"id": 1, "vector": [1]}]}),
            ("POST", "/points/query", {}),
            ("GET", "/points/1", None),
            ("PUT", "/index", {"field_name": "f"}),
        ]
        for method, suffix, body in requests:
            reply = await client(method, f"/collections/{name}{suffix}", body)

            assert reply.refusal == (400, "bad_request", "collection_name")


@pytest.mark.parametrize("name", ["x", "x" * 255, "-", "_", "a..b", "%41"])
async def test_good_names_are_accepted(name):
    """Every name of the alphabet can be used; percent signs are decoded once."""
    async with served() as client:
        reply = await client("PUT", f"/collections/{name}", {"vectors": VECTORS})

        assert reply.result is True
        assert (await client("GET", f"/collections/{name}/exists")).result == {"exists": True}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "vectors"),
        ({"vectors": None}, "vectors"),
        ({"vectors": {}}, "vectors.size"),
        ({"vectors": {"size": 4}}, "vectors.distance"),
        ({"vectors": {"distance": "Dot"}}, "vectors.size"),
        ({"vectors": {"size": 0, "distance": "Dot"}}, "vectors.size"),
        ({"vectors": {"size": 4097, "distance": "Dot"}}, "vectors.size"),
        ({"vectors": {"size": 2**70, "distance": "Dot"}}, "vectors.size"),
        ({"vectors": {"size": 4.5, "distance": "Dot"}}, "vectors.size"),
        ({"vectors": {"size": "4", "distance": "Dot"}}, "vectors.size"),
        ({"vectors": {"size": True, "distance": "Dot"}}, "vectors.size"),
        ({"vectors": {"size": 4, "distance": "dot"}}, "vectors.distance"),
        ({"vectors": {**VECTORS, "sizes": 1}}, "vectors.sizes"),
        ({"vectors": {**VECTORS, "hnsw_config": {"m": "8"}}}, "vectors.hnsw_config.m"),
        ({"vectors": VECTORS, "vector": 1}, "vector"),
        ({"vectors": VECTORS, "hnsw_config": {"m": -1}}, "hnsw_config.m"),
        ({"vectors": VECTORS, "hnsw_config": {"mm": 1}}, "hnsw_config.mm"),
        ({"vectors": VECTORS, "shard_number": 0}, "shard_number"),
        ({"vectors": VECTORS, "shard_number": "3"}, "shard_number"),
        ({"vectors": VECTORS, "replication_factor": 1.5}, "replication_factor"),
        ({"vectors": VECTORS, "write_consistency_factor": -1}, "write_consistency_factor"),
        ({"vectors": VECTORS, "on_disk_payload": 1}, "on_disk_payload"),
        (
            {"vectors": VECTORS, "wal_config": {"wal_capacity_mb": "x"}},
            "wal_config.wal_capacity_mb",
        ),
    ],
)
async def test_malformed_parameters_are_named(body, field):
    """A parameter of the wrong type or range is a 400 with its path, and nothing is created."""
    async with served() as client:
        reply = await client("PUT", "/collections/c", body)

        assert reply.refusal == (400, "bad_request", field)
        assert "c" not in client.router.known


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"vectors": {"image": VECTORS}}, "vectors.image"),
        ({"vectors": {**VECTORS, "multivector_config": {}}}, "vectors.multivector_config"),
        ({"vectors": {**VECTORS, "quantization_config": {}}}, "vectors.quantization_config"),
        ({"vectors": {**VECTORS, "datatype": "uint8"}}, "vectors.datatype"),
        ({"vectors": VECTORS, "sparse_vectors": {"text": {}}}, "sparse_vectors"),
        ({"vectors": VECTORS, "quantization_config": {"scalar": {}}}, "quantization_config"),
        ({"vectors": VECTORS, "strict_mode_config": {"enabled": True}}, "strict_mode_config"),
        ({"vectors": VECTORS, "metadata": {"a": 1}}, "metadata"),
        ({"vectors": VECTORS, "init_from": {"collection": "x"}}, "init_from"),
    ],
)
async def test_features_that_are_lacking_are_named(body, field):
    """A feature of the public shape that is not served is a 400 of its own code."""
    async with served() as client:
        reply = await client("PUT", "/collections/c", body)

        assert reply.refusal == (400, "unsupported_feature", field)


async def test_unknown_collections_are_404():
    """Every route of a collection that does not exist is a 404."""
    async with served() as client:
        requests = [
            ("GET", "", None),
            ("PUT", "/points", {"points": [{"id": 1, "vector": [1]}]}),
            ("POST", "/points", {"ids": [1]}),
            ("GET", "/points/1", None),
            ("POST", "/points/delete", {"points": [1]}),
            ("POST", "/points/payload", {"points": [1], "payload": {}}),
            ("POST", "/points/query", {"query": [1]}),
            ("POST", "/points/search", {"vector": [1], "limit": 1}),
            ("POST", "/points/scroll", {}),
            ("POST", "/points/count", {}),
            ("PUT", "/index", {"field_name": "f", "field_schema": "keyword"}),
            ("DELETE", "/index/f", None),
        ]
        for method, suffix, body in requests:
            reply = await client(method, f"/collections/c{suffix}", body)

            assert reply.refusal == (404, "collection_not_found", "collection_name")


@pytest.mark.parametrize(
    "schema",
    [
        "keyword",
        "datetime",
        None,
        {"type": "keyword", "is_tenant": True, "on_disk": False},
        {"type": "text", "tokenizer": "word", "min_token_len": 2, "lowercase": True},
    ],
)
async def test_payload_indexes_come_and_go(schema):
    """An index of any served type is in the collection's description until it is removed."""
    async with served() as client:
        await with_collection(client)
        body = {"field_name": "a.b", "field_schema": schema}
        made = await client("PUT", "/collections/c/index?wait=true", body)
        described = (await client("GET", "/collections/c")).result["payload_schema"]
        removed = await client("DELETE", "/collections/c/index/a.b?wait=true")

        kind = schema["type"] if isinstance(schema, dict) else schema or "keyword"
        assert described == {"a.b": {"data_type": kind, "points": 0}}
        assert made.result["status"] == removed.result["status"] == "completed"
        assert (await client("GET", "/collections/c")).result["payload_schema"] == {}


async def test_an_answer_tells_what_had_no_index():
    """Searches, counts and pages name the fields that were filtered without one; once each."""
    where = {"must": [{"key": key, "match": {"value": 1}} for key in ("a", "b.c[]", "b.c[]")]}
    asked: list[tuple[str, Any]] = [
        ("/count", {"filter": where}),
        ("/scroll", {"filter": where}),
        ("/query", {"query": [1.0, 0.0, 0.0], "filter": where}),
        ("/search", {"vector": [1.0, 0.0, 0.0], "limit": 1, "filter": where}),
        ("/query/batch", {"searches": [{"query": [1.0, 0.0, 0.0], "filter": where}, {}]}),
        ("/search/batch", {"searches": [{"vector": [1.0, 0.0, 0.0], "limit": 1, "filter": where}]}),
    ]
    async with served() as client:
        await with_collection(client)
        for indexed, unindexed in ((None, ["a", "b.c[]"]), ("a", ["b.c[]"]), ("b.c[]", [])):
            if indexed is not None:
                field = {"field_name": indexed, "field_schema": "integer"}
                await client("PUT", "/collections/c/index", field)
            usage = {"filter": {"unindexed": unindexed}} if unindexed else None
            for route, body in asked:
                reply = await client("POST", f"/collections/c/points{route}", body)

                assert reply.body.get("usage") == usage


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"field_schema": "keyword"}, "bad_request", "field_name"),
        ({"field_name": "", "field_schema": "keyword"}, "bad_request", "field_name"),
        ({"field_name": "a..b", "field_schema": "keyword"}, "bad_request", "field_name"),
        ({"field_name": "a" * 256, "field_schema": "keyword"}, "bad_request", "field_name"),
        ({"field_name": "a", "field_schema": "words"}, "bad_request", "field_schema"),
        ({"field_name": "a", "field_schema": {"type": "x"}}, "bad_request", "field_schema.type"),
        ({"field_name": "a", "field_schema": {"a": 1}}, "bad_request", "field_schema.a"),
        ({"field_name": "a", "field_schema": "geo"}, "unsupported_feature", "field_schema"),
        (
            {"field_name": "a", "field_schema": {"type": "geo"}},
            "unsupported_feature",
            "field_schema",
        ),
    ],
)
async def test_bad_payload_indexes_are_named(body, code, field):
    """An index of an unknown or unserved type is a 400."""
    async with served() as client:
        await with_collection(client)

        assert (await client("PUT", "/collections/c/index", body)).refusal == (400, code, field)


async def test_creating_a_collection_carries_the_session_on():
    """A write of metadata answers with the session that the request brought."""
    async with served() as client:
        headers = {"X-Recollect-Session": "1:5"}
        reply = await client("PUT", "/collections/c", {"vectors": VECTORS}, headers=headers)

        assert reply.headers["X-Recollect-Session"] == "m:5,1:5"
