"""Remembered requests: forgotten when they are expired, and old by the log as well."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.command import Delete, Result
from cluster.metadata import Init, MetadataMachine, PutDocument, encode_metadata
from cluster.shard import ShardMachine
from cluster.state_machine import Entry
from storage import requests
from storage.ids import encode_id
from storage.requests import (
    REQUESTS_SCHEMA,
    YOUNG_ENTRIES,
    RequestMemory,
    recompute_request_hash,
)
from storage.state_file import StateFile
from tests.shard_commands import apply, command, content, point, upsert

TTL_MS = 600_000
STAMP_MS = 1_000_000
AN_HOUR_AHEAD_MS = STAMP_MS + 3_604_000
NOTHING = [b""] * (YOUNG_ENTRIES - 2)


@pytest.fixture(params=["file", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateFile]:
    path = tmp_path / "state.db" if request.param == "file" else None
    with closing(StateFile(path, REQUESTS_SCHEMA)) as opened:
        yield opened


@pytest.fixture
def machine() -> Iterator[ShardMachine]:
    with closing(ShardMachine(None, request_id_ttl_ms=TTL_MS)) as opened:
        yield opened


def remembered(state: StateFile) -> list[str]:
    """Return the names in the table, whose hash must be the kept one."""
    names = "SELECT request_id FROM requests ORDER BY request_id"
    with state.reader() as connection:
        kept = connection.execute("SELECT value FROM meta WHERE key = 'requests_hash'").fetchone()
        assert kept == (recompute_request_hash(connection),)
        return [name for (name,) in connection.execute(names)]


# -- the table: here a result is nothing but its version, as digits ---------------------------


def test_a_request_is_forgotten_when_expired_and_old(state: StateFile) -> None:
    """By the time and the index of the command that asks; either alone forgets nothing."""
    with state.transaction() as connection:
        memory = RequestMemory(connection, 100, version_of=int)
        memory.remember("a", b"2", now_ms=1000)
        old = 2 + YOUNG_ENTRIES
        assert memory.recall("a", 1099, old) == b"2"
        assert memory.recall("a", 10**9, old - 1) == b"2"
        assert memory.recall("a", 1100, old) is None
        assert memory.recall("b", 1000, 3) is None
        assert memory.now_ms(5) == 1000
        memory.remember("a", b"%d" % old, now_ms=1100)
        assert memory.recall("a", 1100, old + 1) == b"%d" % old
        memory.remember("", b"20000", now_ms=1100)
        assert memory.recall("", 1100, 20001) is None
        memory.finish(20000)
    assert remembered(state) == ["a"]


def test_forgotten_requests_are_swept(state: StateFile) -> None:
    """The table and its hash hold what is not forgotten, also after reopening."""
    for version, stamp_ms, name in ((2, 1000, "z"), (3, 1050, "b"), (4, 1120, "c")):
        with state.transaction() as connection:
            memory = RequestMemory(connection, 100, version_of=int)
            memory.remember(name, b"%d" % version, memory.now_ms(stamp_ms))
            memory.finish(version)
    seen = [remembered(state)]
    for index in (1 + YOUNG_ENTRIES, 2 + YOUNG_ENTRIES, 9 + YOUNG_ENTRIES):
        with state.transaction() as connection:
            RequestMemory(connection, 100, version_of=int).finish(index)
        seen.append(remembered(state))
    with state.transaction() as connection:
        memory = RequestMemory(connection, 100, version_of=int)
        memory.remember("", b"", now_ms=9000)
        memory.finish(10 + YOUNG_ENTRIES)

    assert seen == [["b", "c", "z"], ["b", "c", "z"], ["b", "c"], ["b", "c"]]
    assert remembered(state) == []


@pytest.mark.parametrize(
    ("stamp_ms", "index"), [(10**9, 1 + YOUNG_ENTRIES), (1099, 10**9)], ids=["young", "unexpired"]
)
def test_what_is_not_due_is_not_looked_at(state: StateFile, stamp_ms: int, index: int) -> None:
    """A transaction in which nothing is forgotten reads no row to find that out."""
    with state.transaction() as connection:
        memory = RequestMemory(connection, 100, version_of=int)
        memory.finish(1)  # What is due, with an empty table, is known from here on.
        for version in (2, 3, 4):
            memory.remember(str(version), b"%d" % version, now_ms=1000)
        memory.finish(4)
    with state.transaction() as connection:
        memory = RequestMemory(connection, 100, version_of=int)
        memory.remember("", b"", now_ms=stamp_ms)
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        memory.finish(index)
        connection.set_trace_callback(None)

        assert [each for each in statements if "requests " in each] == []
    assert remembered(state) == ["2", "3", "4"]


def test_the_sweep_reads_in_the_order_of_an_index(state: StateFile) -> None:
    """However many requests are remembered, the oldest are found without sorting."""
    with state.reader() as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {requests._OLDEST_FIRST}").fetchall()

    assert [step[3] for step in plan] == ["SCAN requests USING INDEX requests_by_expiry"]


# -- machines ---------------------------------------------------------------------------------


def test_a_clock_jump_does_not_apply_a_retry_again(machine: ShardMachine) -> None:
    """The retry of a lost answer through a leader whose clock is ahead of the time to live."""
    attempt = upsert(point(1, if_version=0))
    first = apply(machine, command(attempt, "r", STAMP_MS))
    before = content(machine), machine.request_hash()

    assert apply(machine, command(attempt, "r", AN_HOUR_AHEAD_MS)) == first == [Result(2, 1)]
    assert (content(machine), machine.request_hash()) == before


@pytest.mark.parametrize("cut", [True, False], ids=["entry by entry", "at once"])
def test_an_old_and_expired_request_is_a_new_one(machine: ShardMachine, cut: bool) -> None:
    """After so many entries, also ones without a command; young, or unexpired, it is not."""
    again = command(Delete(1, [encode_id(1)]), "r", STAMP_MS + TTL_MS)
    log = [command(upsert(point(1)), "r", STAMP_MS), *NOTHING, again, again]
    batches = [[each] for each in log] if cut else [log]
    results = [result for batch in batches for result in apply(machine, *batch)]

    assert results[-2:] == [Result(2, 1), Result(2 + YOUNG_ENTRIES, 1)]
    assert machine.count(1) == 0


def test_an_old_request_that_is_not_expired(machine: ShardMachine) -> None:
    """Many entries alone forget nothing."""
    again = command(upsert(point(1)), "r", STAMP_MS + TTL_MS - 1)
    log = [command(upsert(point(1)), "r", STAMP_MS), *NOTHING, b"", again]

    assert apply(machine, *log)[-1] == Result(2, 1)


def test_metadata_has_the_same_rule() -> None:
    """A clock jump alone applies nothing again; with the entries it is a new request."""
    form = Init("c", shards=1, replication=1, shard_map=[["a"]], nodes=["a"], collections=[])
    put = PutDocument("alias", "x", b"1")
    first = encode_metadata(put, request_id="r", now_ms=STAMP_MS)
    again = encode_metadata(put, request_id="r", now_ms=AN_HOUR_AHEAD_MS)
    log = [encode_metadata(form), first, again, *NOTHING, again]
    with closing(MetadataMachine(None, request_id_ttl_ms=TTL_MS)) as machine:
        results = machine.apply([Entry(index, 1, raw) for index, raw in enumerate(log, start=2)])

    assert results[2] == Result(3, 1)
    assert results[-1] == Result(3 + YOUNG_ENTRIES, 1)


COMMANDS = st.builds(
    command,
    st.just(upsert(point(1))) | st.just(Delete(1, [encode_id(1)])),
    st.sampled_from(["", "z", "q", "r", "s"]),
    st.sampled_from([1, 2, 100, 102, 104, 200, 202, 300]),
)


@given(st.lists(COMMANDS | st.just(b""), max_size=25), st.sets(st.integers(1, 25)))
def test_cuts_change_nothing(log: list[bytes], cuts: set[int]) -> None:
    """After equal prefixes the same requests are remembered, in whatever batches they came."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "YOUNG_ENTRIES", 4)
        stepped = outcomes(log, range(len(log) + 1))
        borders = [*sorted(cut for cut in cuts if cut < len(log)), len(log)]
        batched = outcomes(log, borders)

    assert {cut: stepped[cut] for cut in batched} == batched


def outcomes(log: Sequence[bytes], borders: Sequence[int]) -> dict[int, object]:
    """Apply up to each border in turn; return there the results so far, rows and requests."""
    results: list[Result] = []
    found: dict[int, object] = {}
    with closing(ShardMachine(None, request_id_ttl_ms=2)) as machine:
        for border in borders:
            results += apply(machine, *log[len(results) : border])
            found[border] = [*results], content(machine), machine.request_hash()
    return found
