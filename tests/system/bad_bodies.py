"""Patterns, collections and names that must not be made, and the field that is to blame."""

from __future__ import annotations

from typing import Final

from tests.system.bad_points import Case, nested
from tests.system.bad_queries import LIMITS

COSINE: Final = {"size": 4, "distance": "Cosine"}

PATTERNS: list[Case] = [
    ({}, "task"),
    ({"task": None}, "task"),
    ({"task": ""}, "task"),
    ({"task": " \n\t"}, "task"),
    ({"task": 1}, "task"),
    ({"task": "a\0b"}, "task"),
    ({"task": "x" * 70_000}, "task"),
    ({"task": "a", "input": "x" * 70_000}, "input"),
    ({"task": "a", "output": 1}, "output"),
    ({"task": "a", "reward": "1"}, "reward"),
    ({"task": "a", "reward": True}, "reward"),
    ({"task": "a", "reward": float("nan")}, "reward"),
    ({"task": "a", "success": 1}, "success"),
    ({"task": "a", "sessionId": 1}, "sessionId"),
    ({"task": "a", "metadata": []}, "metadata"),
    ({"task": "a", "metadata": nested(32)}, "metadata"),
    ({"task": "a", "metadata": {"n": "x" * 70_000}}, "metadata"),
    ({"task": "a", "metadata": {"n": 2**64}}, "metadata.n"),
    ({"task": "a", "embedding": [1]}, "embedding"),
    ({"task": "a", "embedding": [0] * 256}, "embedding"),
    ({"task": "a", "embedding": [1e39] * 256}, "embedding"),
    ({"task": "a", "embedding": ["x"] * 256}, "embedding[0]"),
    ({"task": "a", "id": -1}, "id"),
    ({"task": "a", "id": "x"}, "id"),
    ({"task": "a", "colour": 1}, "colour"),
]
PATTERN_SEARCHES: list[Case] = [
    ({}, "task"),
    ({"task": "a", "embedding": [1] * 256}, "task"),
    ({"task": ""}, "task"),
    ({"task": " "}, "task"),
    ({"embedding": [1]}, "embedding"),
    ({"embedding": [0] * 256}, "embedding"),
    *(({"task": "a", "k": k}, "k") for k in LIMITS),
    ({"task": "a", "threshold": "x"}, "threshold"),
    ({"task": "a", "minReward": "x"}, "minReward"),
    ({"task": "a", "onlySuccesses": 1}, "onlySuccesses"),
    ({"task": "a", "onlySuccesses": True, "onlyFailures": True}, "onlyFailures"),
    ({"task": "a", "filter": {"must": [{}]}}, "filter.must[0]"),
    ({"task": "a", "colour": 1}, "colour"),
]
VECTOR_SEARCHES: list[Case] = [
    ({}, "query"),
    ({"query": None}, "query"),
    ({"query": ""}, "query"),
    ({"query": 1}, "query"),
    ({"query": []}, "query"),
    ({"query": [1]}, "query"),
    ({"query": [0] * 256}, "query"),
    ({"query": [1, "x"]}, "query[1]"),
    *(({"query": "a", "k": k}, "k") for k in LIMITS),
    ({"query": "a", "collection": "../x"}, "collection"),
    ({"query": "a", "collection": ""}, "collection"),
    ({"query": "a", "colour": 1}, "colour"),
]
COLLECTIONS: list[Case] = [
    ({}, "vectors"),
    ({"vectors": None}, "vectors"),
    ({"vectors": 4}, "vectors"),
    ({"vectors": {}}, "vectors.size"),
    ({"vectors": {"distance": "Dot"}}, "vectors.size"),
    ({"vectors": {"size": 4}}, "vectors.distance"),
    *(
        ({"vectors": {"size": size, "distance": "Dot"}}, "vectors.size")
        for size in (0, -1, 4097, 2**40, 2**70, 1.5, "4", True, None)
    ),
    *(
        ({"vectors": {"size": 4, "distance": distance}}, "vectors.distance")
        for distance in ("cosine", "Hamming", "", 1, None)
    ),
    ({"vectors": {"image": COSINE}}, "vectors.image"),
    ({"vectors": {**COSINE, "colour": None}}, "vectors.colour"),
    ({"vectors": {**COSINE, "datatype": "float16"}}, "vectors.datatype"),
    ({"vectors": {**COSINE, "multivector_config": {}}}, "vectors.multivector_config"),
    ({"vectors": {**COSINE, "quantization_config": {}}}, "vectors.quantization_config"),
    ({"vectors": {**COSINE, "hnsw_config": {"m": -1}}}, "vectors.hnsw_config.m"),
    ({"vectors": COSINE, "hnsw_config": {"m": 513}}, "hnsw_config.m"),
    ({"vectors": COSINE, "hnsw_config": {"m": "16"}}, "hnsw_config.m"),
    ({"vectors": COSINE, "hnsw_config": {"ef_construct": 3}}, "hnsw_config.ef_construct"),
    ({"vectors": COSINE, "hnsw_config": {"ef_construct": 2**40}}, "hnsw_config.ef_construct"),
    ({"vectors": COSINE, "hnsw_config": {"colour": 1}}, "hnsw_config.colour"),
    *(
        ({"vectors": COSINE, name: value}, name)
        for name in ("shard_number", "replication_factor", "write_consistency_factor")
        for value in (0, -1, 1.5, "1", 2**70)
    ),
    ({"vectors": COSINE, "sharding_method": "manual"}, "sharding_method"),
    ({"vectors": COSINE, "sparse_vectors": {"a": {}}}, "sparse_vectors"),
    ({"vectors": COSINE, "quantization_config": {"scalar": {}}}, "quantization_config"),
    ({"vectors": COSINE, "init_from": {"collection": "x"}}, "init_from"),
    ({"vectors": COSINE, "colour": None}, "colour"),
]
NAMES: Final = [
    *(".hidden", "..", ".", "a%2Fb", "..%2F..%2Fetc", "a%20b", "a%00b", "%C3%A9", "x" * 256, "a:b"),
    *("a;b", "a+b", "~a", "*", "%25", "a%0Ab", "a%5Cb", "a&b", "(a)", "a@b", "'", "%22", "a,b"),
]
