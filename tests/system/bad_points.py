"""Points that must not be stored: what is sent, and the field that is to blame.

Each stands second in a batch whose first point is good, so that a batch stored by half would show.
"""

from __future__ import annotations

import json
from typing import Any, Final

Case = tuple[Any, str | None]

ONES: Final = [1, 1, 1, 1]
GOOD: Final = '{"id": 7, "vector": [1, 1, 1, 1]}'
SECOND: Final = "points[1]"


def nested(depth: int) -> Any:
    """Return a payload of that many containers."""
    value: Any = {}
    for _ in range(depth - 2):
        value = [value]
    return {"a": value}


def second(text: str) -> str:
    """Return a batch whose second point is this text, so that the good first one must not stay."""
    return f'{{"points": [{GOOD}, {text}]}}'


def vector(text: str) -> str:
    return second(f'{{"id": 2, "vector": {text}}}')


def payload(text: str) -> str:
    return second(f'{{"id": 2, "vector": [1, 1, 1, 1], "payload": {text}}}')


def identity(text: str) -> str:
    return second(f'{{"id": {text}, "vector": [1, 1, 1, 1]}}')


VECTORS: list[Case] = [
    ("[NaN, 1, 1, 1]", ".vector"),
    ("[1, Infinity, 1, 1]", ".vector"),
    ("[1, 1, -Infinity, 1]", ".vector"),
    ("[1, 1, 1, 1e39]", ".vector"),
    ("[1, 1, 1, -3.5e38]", ".vector"),
    ("[1, 1e400, 1, 1]", ".vector"),
    (f"[1, {10**400}, 1, 1]", ".vector"),
    ("[0, 0, 0, 0]", ".vector"),
    ("[0, -0.0, 1e-50, 0]", ".vector"),
    ("[3e38, 3e38, 3e38, 3e38]", ".vector"),
    ("[1, 1, 1]", ".vector"),
    ("[1, 1, 1, 1, 1]", ".vector"),
    ("[]", ".vector"),
    ("[1, null, 1, 1]", ".vector[1]"),
    ('[1, 1, "1", 1]', ".vector[2]"),
    ("[1, 1, 1, true]", ".vector[3]"),
    ("[[1, 1, 1, 1]]", ".vector[0]"),
    ('{"name": [1, 1, 1, 1]}', ".vector"),
    ('"1,1,1,1"', ".vector"),
    ("null", ".vector"),
    ("1", ".vector"),
]
IDS: list[Case] = [
    (text, ".id")
    for text in (
        *("-1", "18446744073709551616", str(10**30), "1.5", "1.0", "1e2", "true", "null", '""'),
        *('"1"', '"x"', '"5c56c793-69f3-4fbf-87e6-c4bf54c28c2"', "[1]", "{}", '"../1"'),
        '"{5c56c793-69f3-4fbf-87e6-c4bf54c28c26}"',
    )
]
PAYLOADS: list[Case] = [
    ("[]", ".payload"),
    ('"text"', ".payload"),
    ("1", ".payload"),
    (json.dumps(nested(33)), ".payload"),
    ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", ".payload"),
    ('{"a": ' * 1000 + "1" + "}" * 1000, ".payload"),
    (json.dumps({"a": "x" * 65_529}), ".payload"),
    (json.dumps({"a": "é" * 32_765}, ensure_ascii=False), ".payload"),
    (json.dumps({str(n): n for n in range(10_000)}), ".payload"),
    ('{"a": 18446744073709551616}', ".payload.a"),
    ('{"a": [{"b": -9223372036854775809}]}', ".payload.a[0].b"),
    ('{"a": 1e999}', ".payload"),
    ('{"a": NaN}', ".payload.a"),
    ('{"a": "x\\u0000y"}', ".payload.a"),
    ('{"a": {"b": [1, "\\u0000"]}}', ".payload.a.b[1]"),
    ('{"a\\u0000": 1}', ".payload"),
    ('{"a": "\\ud800"}', ".payload.a"),
    ('{"a": "\\udc00\\ud800"}', ".payload.a"),
    ('{"a": "\\ud83d x"}', ".payload.a"),
    ('{"a": 1, "a": 2}', ".payload.a"),
    ('{"a": 1, "\\u0061": 2}', ".payload.a"),
    ('{"a": {"b": [{"c": 1, "d": 2, "c": 1}]}}', ".payload.a.b[0].c"),
]
POINTS: list[Case] = [
    *((vector(text), f"{SECOND}{field}") for text, field in VECTORS),
    *((identity(text), f"{SECOND}{field}") for text, field in IDS),
    *((payload(text), f"{SECOND}{field}") for text, field in PAYLOADS),
    (second('{"vector": [1, 1, 1, 1]}'), f"{SECOND}.id"),
    (second('{"id": 2}'), f"{SECOND}.vector"),
    (second('{"id": 2, "vector": [1, 1, 1, 1], "colour": null}'), f"{SECOND}.colour"),
    (second('{"id": 2, "id": 3, "vector": [1, 1, 1, 1]}'), f"{SECOND}.id"),
    (second("null"), SECOND),
    (second("[]"), SECOND),
    (second('{"id": 2, "vector": [1, 1]}, {"id": 3, "vector": [1]}'), f"{SECOND}.vector"),
    ('{"points": []}', "points"),
    ('{"points": null}', "points"),
    ('{"points": {}}', "points"),
    ('{"points": 1}', "points"),
    ("{}", "points"),
    (f'{{"points": [{GOOD}], "points": [{GOOD}]}}', "points"),
    (f'{{"points": [{GOOD}], "batch": {{"ids": [1], "vectors": [[1, 1, 1, 1]]}}}}', "points"),
    (f'{{"points": [{GOOD}], "colour": null}}', "colour"),
    (f'{{"points": [{GOOD}], "shard_key": "a"}}', "shard_key"),
    (f'{{"points": [{GOOD}], "update_filter": {{}}}}', "update_filter"),
    (f'{{"points": [{GOOD}], "update_mode": "insert_only"}}', "update_mode"),
    (json.dumps({"points": [{"id": n, "vector": ONES} for n in range(10_001)]}), "points"),
    ('{"batch": {"ids": [], "vectors": []}}', "batch.ids"),
    ('{"batch": {"ids": [1, 2], "vectors": [[1, 1, 1, 1]]}}', "batch.vectors"),
    ('{"batch": {"ids": [1], "vectors": [[1, 1, 1, 1]], "payloads": []}}', "batch.payloads"),
    ('{"batch": {"ids": [1, -2], "vectors": [[1, 1, 1, 1], [1, 1, 1, 1]]}}', "batch.ids[1]"),
    ('{"batch": {"ids": [1, 2], "vectors": [[1, 1, 1, 1], [1, 1]]}}', "batch.vectors[1]"),
    ('{"batch": {"ids": [1], "vectors": {"a": [[1]]}}}', "batch.vectors"),
    (
        '{"batch": {"ids": [1, 2], "vectors": [[1, 1, 1, 1], [1, 1, 1, 1]],'
        f' "payloads": [null, {json.dumps(nested(33))}]}}}}',
        "batch.payloads[1]",
    ),
]
TEXTS: list[Case] = [
    (f'{{"points": [{GOOD}]}} x', None),
    (f'{{"points": [{GOOD}]}}{{}}', None),
    (f'{{"points": [{GOOD}]}}\0', None),
    (f'{{"points": [{GOOD}]', None),
    ("", None),
    (" ", None),
    ("points", None),
    ("[]", None),
    ("null", None),
    ("1", None),
    ("{'points': []}", None),
    (b'\xef\xbb\xbf{"points": [%s]}' % GOOD.encode(), None),
    (f'{{"points": [{GOOD}]}}'.encode("utf-16"), None),
    (second('{"id": 02, "vector": [1, 1, 1, 1]}'), f"{SECOND}.id"),
    (second('{"id": 0x2, "vector": [1, 1, 1, 1]}'), f"{SECOND}.id"),
    *(
        (payload('{"a": "@"}').encode().replace(b"@", broken), f"{SECOND}.payload.a")
        for broken in (b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\xf4\x90\x80\x80")
    ),
    (payload('{"a": "\x01"}'), f"{SECOND}.payload.a"),
]
