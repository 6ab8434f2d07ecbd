"""The shard's state machine against a twin made of dicts, in any batching and through copies."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.command import (
    DIGEST_MARK,
    Command,
    Delete,
    DropCollection,
    Result,
    SetPayload,
    Upsert,
    VersionFound,
)
from cluster.shard import ShardMachine
from cluster.state_machine import Change, Entry
from storage import requests
from storage.ids import encode_id
from tests.shard_commands import (
    DIMENSION,
    TTL_MS,
    Body,
    apply,
    command,
    content,
    point,
    upsert,
)

YOUNG_ENTRIES = 5


@pytest.fixture(autouse=True, scope="module")
def few_young_entries() -> Iterator[None]:
    """Let requests be forgotten within logs as short as these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "YOUNG_ENTRIES", YOUNG_ENTRIES)
        yield


@dataclass
class Twin:
    """What a shard must be, in dicts."""

    rows: dict[tuple[int, bytes], tuple[int, bytes, bytes, int, int]] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    requests: dict[str, tuple[Result, str, int]] = field(default_factory=dict)
    clock_ms: int = 0

    def apply(self, entry: Entry) -> Result:
        index = entry.index
        if not entry.command:
            return Result(index)
        try:
            asked = msgspec.msgpack.decode(entry.command, type=Command)
        except msgspec.MsgspecError:
            return Result(index, error="bad_command")
        now_ms = max(self.clock_ms, asked.now_ms)
        name, _, digest = asked.request_id.partition(DIGEST_MARK)
        kept = self.requests.get(name)
        if kept is not None and (kept[2] > now_ms or index - kept[0].version < YOUNG_ENTRIES):
            other = bool(digest and kept[1] and digest != kept[1])
            return Result(index, error="request_id_reused") if other else kept[0]
        assert isinstance(asked.body, Body), "graphs have a twin of their own"
        uid = asked.body.collection
        if uid in self.dropped and not isinstance(asked.body, DropCollection):
            return Result(index, error="collection_dropped")
        if not well_formed(asked.body):
            return Result(index, error="bad_command")
        self.clock_ms = now_ms
        result = self.conflict(asked.body, index)
        if result is None:
            result = Result(index, self.change(asked.body, index, now_ms))
        if name:
            self.requests[name] = (result, digest, now_ms + TTL_MS)
        return result

    def conflict(self, body: Body, index: int) -> Result | None:
        for each, wanted in conditions(body):
            version = self.rows.get((body.collection, each), (0,))[0]
            if version != wanted:
                return Result(index, error="version_conflict", found=VersionFound(each, version))
        return None

    def change(self, body: Body, index: int, now_ms: int) -> int:
        uid = body.collection
        match body:
            case Upsert(points=points):
                for new in points:
                    created_ms = self.rows.get((uid, new.id), (0, b"", b"", now_ms))[3]
                    payload = canonical(orjson.loads(new.payload))
                    self.rows[uid, new.id] = (index, new.vector, payload, created_ms, now_ms)
                return len({new.id for new in points})
            case Delete(ids=ids):
                return sum(self.rows.pop((uid, each), None) is not None for each in ids)
            case SetPayload(ids=ids):
                present = [each for each in dict.fromkeys(ids) if (uid, each) in self.rows]
                for each in present:
                    _, old_vector, payload, created_ms, _ = self.rows[uid, each]
                    changed = changed_payload(orjson.loads(payload), body)
                    self.rows[uid, each] = (
                        index,
                        old_vector,
                        canonical(changed),
                        created_ms,
                        now_ms,
                    )
                return len(present)
            case DropCollection():
                self.dropped.add(uid)
                gone = [key for key in self.rows if key[0] == uid]
                for key in gone:
                    del self.rows[key]
                return len(gone)


def conditions(body: Body) -> list[tuple[bytes, int]]:
    if isinstance(body, Upsert):
        return [(each.id, each.if_version) for each in body.points if each.if_version is not None]
    if isinstance(body, Delete) and body.if_version is not None:
        return [(each, body.if_version) for each in body.ids]
    return []


def well_formed(body: Body) -> bool:
    """Return whether each id with a condition comes once, and a deletion's is its only one."""
    if isinstance(body, Upsert) and conditions(body):
        return len({each.id for each in body.points}) == len(body.points)
    return not isinstance(body, Delete) or body.if_version is None or len(body.ids) == 1


def canonical(payload: dict[str, Any]) -> bytes:
    return orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)


def changed_payload(payload: dict[str, Any], body: SetPayload) -> dict[str, Any]:
    patch: dict[str, Any] = orjson.loads(body.payload)
    match body.mode:
        case "merge":
            return payload | patch
        case "replace":
            return patch
        case "remove":
            return {key: value for key, value in payload.items() if key not in body.keys}
        case "clear":
            return {}


class IndexTwin:
    """What the vector index knows, learned from changes alone."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, int, bytes, bytes]] = {}

    def learn(self, machine: ShardMachine, changes: Sequence[Change]) -> None:
        versions = [change.version for change in changes]
        assert versions == sorted(versions)
        for uid, seq, version, record_id, element, _ in changes:
            if element is None:
                self.rows.pop(seq, None)
            else:
                self.rows[seq] = (uid, version, record_id, element)
        self.rows = {k: row for k, row in self.rows.items() if not machine.is_dropped(row[0])}

    def check(self, machine: ShardMachine) -> None:
        stored = {
            seq: (uid, version, record_id, element)
            for uid in machine.collections()
            for seq, version, record_id, element in machine.index_rows(uid)
        }
        assert self.rows == stored


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Draw from the strategies in proportion to their weights; one_of knows no weights."""
    return st.sampled_from([each for weight, each in choices for _ in range(weight)]).flatmap(
        lambda chosen: chosen
    )


NUMBERS = st.integers(1, 6)
UIDS = st.sampled_from([1, 1, 2, 3])
IDS = st.lists(NUMBERS.map(encode_id), min_size=1, max_size=4)
KEYS = st.sampled_from(["a", "b", "c"])
PAYLOADS = st.dictionaries(KEYS, st.integers(0, 3) | st.none() | st.text(max_size=2), max_size=3)
JSON = PAYLOADS.map(lambda payload: orjson.dumps(payload).replace(b"\\u0000", b""))
MODES: st.SearchStrategy[Literal["merge", "replace", "remove", "clear"]] = st.sampled_from(
    ["merge", "replace", "remove", "clear"]
)
CONDITIONS = weighted((6, st.none()), (1, st.just(0)), (2, st.integers(2, 12)))
REQUEST_IDS = st.sampled_from(["", "", "q", "r", "r\x1fone", "r\x1ftwo", "s\x1fone"])
UPSERTS = st.builds(
    Upsert,
    UIDS,
    st.just(DIMENSION),
    st.lists(
        st.builds(point, NUMBERS, JSON, st.integers(0, 3).map(float), CONDITIONS),
        min_size=1,
        max_size=4,
    ),
)
BODIES = weighted(
    (5, UPSERTS),
    (1, st.builds(Delete, UIDS, IDS)),
    (1, st.builds(Delete, UIDS, IDS.map(lambda ids: ids[:1]), CONDITIONS)),
    (2, st.builds(SetPayload, UIDS, IDS, MODES, JSON, st.lists(KEYS, max_size=2))),
    (1, st.builds(DropCollection, st.just(3))),
)
COMMANDS = weighted(
    (8, st.builds(command, BODIES, REQUEST_IDS, st.integers(1000, 1200))),
    (1, st.sampled_from([b"", b"\xc1 no command"])),
)
LOGS = st.lists(COMMANDS, min_size=5, max_size=25)


def entries_of(commands: Sequence[bytes]) -> list[Entry]:
    return [Entry(index, 1 + index // 4, raw) for index, raw in enumerate(commands, start=2)]


@settings(deadline=None, max_examples=200)
@given(LOGS)
def test_every_step_equals_the_twin(commands: list[bytes]) -> None:
    """After each entry results, rows, hash and what the index learned are the twin's."""
    twin, index = Twin(), IndexTwin()
    with closing(ShardMachine(None, request_id_ttl_ms=TTL_MS)) as machine:
        for entry in entries_of(commands):
            assert machine.apply([entry]) == [twin.apply(entry)]
            assert machine.position() == entry[:2]
            assert content(machine) == twin.rows
            assert machine.hashed_index() == (entry.index, machine.recompute_hash())
            index.learn(machine, machine.take_changes())
            index.check(machine)
        for uid in (1, 2, 3):
            assert machine.is_dropped(uid) == (uid in twin.dropped)
            assert machine.count(uid) == sum(key[0] == uid for key in twin.rows)


@settings(deadline=None, max_examples=25)
@given(LOGS, st.lists(st.integers(0, 25), max_size=6))
def test_batching_and_copying_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, commands: list[bytes], cuts: list[int]
) -> None:
    """One batch, any batches, an image half way, and a snapshot half way lead to one state."""
    entries = entries_of(commands)
    borders = sorted({0, *(min(cut, len(entries)) for cut in cuts), len(entries)})
    folder = tmp_path_factory.mktemp("shard")
    machines = [ShardMachine(None, request_id_ttl_ms=TTL_MS) for _ in range(3)]
    machines.append(ShardMachine(folder / "state.db", request_id_ttl_ms=TTL_MS))
    whole, batched, loaded, installed = machines
    index = IndexTwin()
    try:
        whole_results = whole.apply(entries)
        results = []
        for start, end in pairwise(borders):
            results += batched.apply(entries[start:end])
            index.learn(batched, batched.take_changes())
            index.check(batched)
            loaded.load(batched.dump())
            if end in (borders[1], len(entries)):
                batched.export(folder / "snapshot")
                installed.install(folder / "snapshot")
        assert results == whole_results
        rest = entries_of([*commands, command(upsert(point(1)), "last", 1100)])[len(entries) :]
        outcomes = {
            (
                tuple(machine.apply(rest)),
                machine.position(),
                machine.state_hash(),
                machine.recompute_hash(),
                machine.request_hash(),
                str(content(machine)),
                tuple(map(machine.is_dropped, (1, 2, 3))),
            )
            for machine in machines
        }
        assert len(outcomes) == 1
    finally:
        for machine in machines:
            machine.close()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["upsert", "upsert", "payload", "delete"]),
            st.lists(NUMBERS, min_size=1, max_size=4),
        ),
        min_size=3,
        max_size=20,
    )
)
def test_the_hash_forgets_history(steps: list[tuple[str, list[int]]]) -> None:
    """Only live rows and tombstones count: without what they replaced the hash is the same."""

    def body(kind: str, numbers: Sequence[int]) -> Body:
        match kind:
            case "upsert":
                return upsert(*(point(number, element=float(number)) for number in numbers))
            case "payload":
                return SetPayload(1, [encode_id(each) for each in numbers], "merge", b'{"a":1}')
            case _:
                return Delete(1, [encode_id(number) for number in numbers])

    # The life that an id's row, or its tombstone, stems from begins at its last birth.
    births: dict[int, int] = {}
    alive: set[int] = set()
    for index, (kind, numbers) in enumerate(steps):
        for number in numbers:
            if kind == "upsert" and number not in alive:
                births[number] = index
                alive.add(number)
            elif kind == "delete":
                alive.discard(number)
    hashes = set()
    for lives_only in (False, True):
        with closing(ShardMachine(None, request_id_ttl_ms=TTL_MS)) as machine:
            for index, (kind, numbers) in enumerate(steps):
                last = [each for each in numbers if births.get(each, len(steps)) <= index]
                chosen = last if lives_only else numbers
                apply(machine, command(body(kind, chosen), now_ms=1000 + index))
            hashes.add(machine.state_hash())
    assert len(hashes) == 1
