"""The shard's state machine, case by case."""

import copy
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import orjson
import pytest

from cluster.command import Delete, DropCollection, PointWrite, Result, SetPayload, Upsert
from cluster.shard import ShardMachine
from cluster.state_machine import Change, Entry, StateMachine
from storage.ids import encode_id
from storage.requests import YOUNG_ENTRIES
from storage.state_file import CorruptState
from tests.shard_commands import TTL_MS, apply, command, content, point, upsert, vector


@pytest.fixture(params=["file", "memory"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShardMachine]:
    path = tmp_path / "state.db" if request.param == "file" else None
    with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as opened:
        yield opened


def test_it_is_a_state_machine(machine: ShardMachine) -> None:
    """The machine fits the protocol that replicas are written against."""
    protocol: StateMachine = machine

    assert protocol.position() == (1, 0)
    assert protocol.state_hash() == bytes(16)
    assert protocol.make_durable() == 1


def test_a_no_op_moves_the_position_alone(machine: ShardMachine) -> None:
    """The empty command of a new leader has its own index as result."""
    assert apply(machine, b"") == [Result(version=2)]
    assert machine.position() == (2, 1)
    assert machine.apply([]) == []


def test_the_last_of_equal_ids_counts(machine: ShardMachine) -> None:
    """A batch that names an id twice writes it once, as it came last."""
    (result,) = apply(machine, command(upsert(point(1, b'{"a":1}'), point(2), point(1))))
    (row,) = machine.retrieve(1, [encode_id(1)], with_vector=False, with_payload=True)

    assert result.affected == 2
    assert row.payload == b"{}"


BAD_POINTS = {
    "short vector": PointWrite(encode_id(2), vector(1.0), b"{}"),
    "long vector": PointWrite(encode_id(2), vector(1.0, 2.0, 3.0), b"{}"),
    "nan": PointWrite(encode_id(2), vector(1.0, float("nan")), b"{}"),
    "infinity": PointWrite(encode_id(2), vector(1.0, float("-inf")), b"{}"),
    "id without tag": PointWrite(b"2", vector(1.0, 2.0), b"{}"),
    "empty id": PointWrite(b"", vector(1.0, 2.0), b"{}"),
    "payload no object": PointWrite(encode_id(2), vector(1.0, 2.0), b"[]"),
    "payload no json": PointWrite(encode_id(2), vector(1.0, 2.0), b"{"),
    "nul": PointWrite(encode_id(2), vector(1.0, 2.0), b'{"a":"\\u0000"}'),
}
BAD_COMMANDS = {
    **{name: command(upsert(point(1), bad, point(3))) for name, bad in BAD_POINTS.items()},
    "no msgpack": b"\xc1",
    "trailing bytes": command(upsert(point(1))) + b"x",
    "unknown operation": msgspec.msgpack.encode(["", 1000, ["explode", 1]]),
    "no dimension": command(Upsert(1, 0, [PointWrite(encode_id(1), b"", b"{}")])),
    "negative uid": command(upsert(point(1), collection=-1)),
    "huge uid": command(upsert(point(1), collection=2**63)),
    "negative time": command(upsert(point(1)), now_ms=-1),
    "huge time": command(upsert(point(1)), now_ms=2**63 - 1),
    "nul in request id": command(upsert(point(1)), "a\0b"),
    "bad id to delete": command(Delete(1, [encode_id(1), b"x"])),
    "bad id to change": command(SetPayload(1, [b"x"], "clear")),
    "bad patch": command(SetPayload(1, [encode_id(1)], "merge", b"1")),
    "nul in patch": command(SetPayload(1, [encode_id(1)], "merge", b'{"a":["\\u0000"]}')),
    "nul in keys": command(SetPayload(1, [encode_id(1)], "remove", keys=["\0"])),
    "unknown mode": command(SetPayload(1, [], "clear")).replace(b"clear", b"chear"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_a_bad_command_is_a_result(name: str) -> None:
    """It changes nothing but the position, and its neighbours in the batch are applied."""
    good, fine = command(upsert(point(8))), command(upsert(point(9)))
    with closing(ShardMachine(None, request_id_ttl_ms=TTL_MS)) as machine:
        results = apply(machine, good, BAD_COMMANDS[name], fine)

        assert results == [Result(2, 1), Result(3, error="bad_command"), Result(4, 1)]
        assert {key[1] for key in content(machine)} == {encode_id(8), encode_id(9)}
        assert [change.id for change in machine.take_changes()] == [encode_id(8), encode_id(9)]
        assert machine.state_hash() == machine.recompute_hash()


def test_a_repeated_request_gets_its_first_result(machine: ShardMachine) -> None:
    """Until it is forgotten a request id is applied once, in one batch or in several."""
    first = command(upsert(point(1)), "once")
    again = command(Delete(1, [encode_id(1)]), "once", now_ms=1000 + TTL_MS - 1)
    assert apply(machine, first, again) == [Result(2, 1), Result(2, 1)]
    before = machine.state_hash(), machine.request_hash()
    assert apply(machine, again) == [Result(2, 1)]

    assert machine.take_changes() == []
    assert (machine.state_hash(), machine.request_hash()) == before
    late = command(Delete(1, [encode_id(1)]), "once", now_ms=1000 + TTL_MS)
    apply(machine, *[b""] * YOUNG_ENTRIES)
    assert apply(machine, late) == [Result(5 + YOUNG_ENTRIES, 1)]


def test_a_failed_request_is_not_remembered(machine: ShardMachine) -> None:
    """A typed error leaves its request id free, and time where it was."""
    before = machine.request_hash()
    apply(machine, command(DropCollection(7)))
    dropped = command(upsert(point(1), collection=7), "once", now_ms=5000)
    assert apply(machine, dropped)[0].error == "collection_dropped"
    assert machine.request_hash() == before

    assert apply(machine, command(upsert(point(1)), "once")) == [Result(4, 1)]
    (row,) = machine.retrieve(1, [encode_id(1)], with_vector=False, with_payload=False)
    assert row.updated_ms == 1000


def test_time_never_runs_back(machine: ShardMachine) -> None:
    """A leader whose clock is behind is given the largest time that was applied."""
    apply(machine, command(upsert(point(1)), now_ms=9000), command(upsert(point(2)), now_ms=10))
    rows = machine.retrieve(1, [encode_id(1), encode_id(2)], with_vector=False, with_payload=False)

    assert [row.created_ms for row in rows] == [9000, 9000]


def test_a_dropped_collection_stays_dropped(machine: ShardMachine) -> None:
    """Rows go, their index is not told one by one, later writes fail, dropping again is fine."""
    apply(machine, command(upsert(point(1), point(2))))
    machine.take_changes()
    drop = command(DropCollection(1))
    results = apply(machine, command(upsert(point(3))), drop, drop, command(upsert(point(1))))

    assert results[1:] == [Result(4, 3), Result(5, 0), Result(6, error="collection_dropped")]
    assert machine.take_changes() == []
    assert machine.is_dropped(1)
    assert content(machine) == {}
    assert machine.state_hash() == bytes(16)


def test_changes_are_taken_once(machine: ShardMachine) -> None:
    """What the last apply changed, last state per row, and nothing the second time."""
    merge = SetPayload(1, [encode_id(1), encode_id(9)], "merge", b'{"a":1}')
    apply(
        machine,
        command(upsert(point(1), point(2, element=2.0))),
        command(merge),
        command(Delete(1, [encode_id(2)])),
    )
    changes = machine.take_changes()

    assert changes == [
        Change(1, 1, 3, encode_id(1), vector(1.0, 0.5), b'{"a":1}'),
        Change(1, 2, 4, encode_id(2), None),
    ]
    assert machine.take_changes() == []


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(2, 1, b"")],
        [Entry(4, 1, b"")],
        [Entry(3, 1, b""), Entry(5, 1, b"")],
        [Entry(3, 0, b"")],
        [Entry(3, 3, b""), Entry(4, 2, b"")],
    ],
)
def test_entries_follow_the_position(machine: ShardMachine, entries: list[Entry]) -> None:
    """Replayed, skipped and back-dated entries are a broken invariant, not a result."""
    apply(machine, command(upsert(point(1))))
    with pytest.raises(AssertionError):
        machine.apply(entries)

    assert machine.position() == (2, 1)


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """The batch is rolled back whole and the error raised; with space again it applies."""
    machine = ShardMachine(tmp_path / "state.db", request_id_ttl_ms=TTL_MS)
    with closing(machine):
        apply(machine, command(upsert(point(1)), "first"))
        before = machine.position(), machine.state_hash(), machine.request_hash()
        connection = machine._state._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")
        big = [command(upsert(*(point(each) for each in range(n, n + 500)))) for n in (10, 510)]
        small = command(Delete(1, [encode_id(1)]), "second")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            apply(machine, small, *big)

        assert (machine.position(), machine.state_hash(), machine.request_hash()) == before
        assert machine.take_changes() == []
        assert machine.count(1) == 1
        connection.execute("PRAGMA max_page_count=1000000")
        assert [each.affected for each in apply(machine, small, *big)] == [1, 500, 500]
        assert machine.state_hash() == machine.recompute_hash()


def test_a_restart_continues_where_the_file_stands(tmp_path: Path) -> None:
    """Position, rows, hash, request ids, dropped uids and the clock are found again."""
    path = tmp_path / "state.db"
    with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as machine:
        apply(machine, command(upsert(point(1)), "once"), command(DropCollection(2)))
        state_hash, rows = machine.state_hash(), content(machine)
    with closing(ShardMachine(path, request_id_ttl_ms=TTL_MS)) as machine:
        assert machine.position() == (3, 1)
        assert (machine.state_hash(), content(machine)) == (state_hash, rows)
        assert machine.take_changes() == []
        assert machine.is_dropped(2)
        assert apply(machine, command(upsert(point(2)), "once", 5)) == [Result(2, 1)]


def test_a_snapshot_takes_over(machine: ShardMachine, tmp_path: Path) -> None:
    """After installing, everything is the snapshot's; the index is left to be reconciled."""
    with closing(ShardMachine(tmp_path / "origin" / "s", request_id_ttl_ms=TTL_MS)) as origin:
        apply(origin, b"", command(upsert(point(5)), "once"))
        expected = origin.hashed_index(), content(origin)
        origin.export(tmp_path / "snapshot")
    apply(machine, command(upsert(point(1))))
    machine.install(tmp_path / "snapshot")

    assert (machine.hashed_index(), content(machine)) == expected
    assert machine.take_changes() == []
    assert apply(machine, command(upsert(point(6)), "once")) == [Result(3, 1)]


def test_a_bad_snapshot_leaves_the_shard(machine: ShardMachine, tmp_path: Path) -> None:
    """A damaged snapshot raises CorruptState; the shard goes on as it was."""
    apply(machine, command(upsert(point(1))))
    before = machine.state_hash()
    machine.export(tmp_path / "snapshot")
    raw = bytearray((tmp_path / "snapshot").read_bytes())
    raw[8192 * 2 : 8192 * 2 + 200] = bytes(200)
    (tmp_path / "snapshot").write_bytes(raw)
    with pytest.raises(CorruptState):
        machine.install(tmp_path / "snapshot")

    assert machine.state_hash() == before == machine.recompute_hash()
    assert apply(machine, command(upsert(point(2)))) == [Result(3, 1)]


def test_reads_beside_the_apply_thread(tmp_path: Path) -> None:
    """Readers on other threads see whole batches: two rows written together agree."""
    machine = ShardMachine(tmp_path / "state.db", request_id_ttl_ms=TTL_MS)
    stop = threading.Event()
    torn: list[object] = []

    def read() -> None:
        wanted = [encode_id(1), encode_id(2)]
        while not stop.is_set():
            rows = machine.retrieve(1, wanted, with_vector=True, with_payload=True)
            if len({(row.version, row.vector, row.payload) for row in rows}) > 1:
                torn.append(copy.copy(rows))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(200):
            payload = orjson.dumps({"n": number})
            apply(machine, command(upsert(point(1, payload), point(2, payload))))
    finally:
        stop.set()
        for reader in readers:
            reader.join()
        machine.close()
    assert torn == []


def test_wide_batches(machine: ShardMachine) -> None:
    """Commands far beyond one list of parameters are applied whole."""
    numbers = range(1000)
    everything = [encode_id(number) for number in numbers]
    results = apply(
        machine,
        command(upsert(*(point(number) for number in numbers))),
        command(SetPayload(1, everything, "merge", b'{"a":1}')),
        command(upsert(*(point(number) for number in numbers))),
        command(Delete(1, everything[:900])),
    )

    assert [result.affected for result in results] == [1000, 1000, 1000, 900]
    assert machine.count(1) == 100
    assert machine.state_hash() == machine.recompute_hash()


def test_a_payload_does_not_grow_beyond_its_limit(machine: ShardMachine) -> None:
    """Nothing changes for any point of the command; a payload that shrinks may be over it still."""
    apply(machine, command(upsert(point(1, b'{"a":"' + b"x" * 90 + b'"}'), point(2))))
    before, hashed = content(machine), machine.state_hash()
    ids = [encode_id(2), encode_id(1)]
    grown = SetPayload(1, ids, "merge", b'{"b":"' + b"y" * 30 + b'"}', [], 100)
    (result,) = apply(machine, command(grown))
    assert result.error == "payload_too_large"
    assert content(machine) == before
    assert machine.state_hash() == hashed == machine.recompute_hash()
    shrunk = SetPayload(1, ids, "merge", b'{"a":1}', [], 5)
    assert apply(machine, command(shrunk, now_ms=2000))[0].error == "payload_too_large"
    apart = SetPayload(1, [encode_id(1)], "merge", b'{"a":1}', [], 5)
    assert apply(machine, command(apart, now_ms=3000))[0].error is None
