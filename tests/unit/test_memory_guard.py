"""Memory that runs out: what is measured, what is refused, who hears of it."""

import numpy as np
import pytest

from cluster.api.body import DECODED_BYTES, BodyBudget
from cluster.control_group import ControlGroup, MemoryReading
from cluster.errors import Overloaded, PayloadTooLarge, StorageFull
from cluster.full_nodes import NOTICE_S
from cluster.memory_guard import CRITICAL, EASED, FULL, MemoryGuard
from cluster.memory_watch import GIVE_BACK_S, MemoryWatch, pending_bytes
from cluster.model import Point
from cluster.peer import Peers
from storage.index_set import IndexSet
from tests.unit.api_router import served, with_collection
from tests.unit.router_cluster import Channel, Clock, RouterCluster, Wire, cluster

MIB = 1 << 20
CEILING = 512 * MIB
EMPTY = MemoryReading(100 * MIB, CEILING)
BRIM = MemoryReading(int(FULL * CEILING) + MIB, CEILING)
LIMITED = 536870912
UNLIMITED = 9223372036854771712


def guard_at(reading: MemoryReading | None) -> MemoryGuard:
    guard = MemoryGuard("node1")
    guard.observe(reading)
    return guard


def control_group(tmp_path, membership: str, files: dict[str, str]) -> ControlGroup:
    """Return a reader of a made-up /sys/fs/cgroup."""
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "self").write_text(membership)
    return ControlGroup(tmp_path / "cgroup", tmp_path / "self")


def version_1(path: str, limit: int) -> dict[str, str]:
    stat = f"cache 900\nhierarchical_memory_limit {limit}\n"
    return {
        f"memory{path}/memory.limit_in_bytes": f"{limit}\n",
        f"memory{path}/memory.usage_in_bytes": "5000\n",
        f"memory{path}/memory.stat": f"{stat}total_active_file 200\ntotal_inactive_file 300\n",
    }


def version_2(path: str, limit: str) -> dict[str, str]:
    return {
        f"{path}memory.max": f"{limit}\n",
        f"{path}memory.current": "7000\n",
        f"{path}memory.stat": "anon 1\nactive_file 200\ninactive_file 300\nslab_reclaimable 10\n",
    }


# -- what is measured -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "processors"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None), ("1 0\n", None)],
)
def test_a_limit_of_processors_is_read(tmp_path, text, processors):
    """Where the group has one."""
    group = control_group(tmp_path, "0::/here\n", {"here/cpu.max": text})

    assert group.processors() == processors


@pytest.mark.parametrize("place", ["", "/docker/abc"], ids=["as a container sees it", "by path"])
def test_version_1_counts_what_cannot_be_given_back(tmp_path, place):
    """Usage without the cache of files, of the limit; under the path, or where the root is ours."""
    read = control_group(
        tmp_path, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n", version_1(place, LIMITED)
    )

    assert read() == MemoryReading(4500, LIMITED)


@pytest.mark.parametrize("place", ["", "docker/abc/"], ids=["as a container sees it", "by path"])
def test_version_2_counts_what_cannot_be_given_back(tmp_path, place):
    """The same under the names of version 2."""
    read = control_group(tmp_path, "0::/docker/abc\n", version_2(place, "536870912"))

    assert read() == MemoryReading(6490, LIMITED)


def test_version_2_heeds_the_groups_above(tmp_path):
    """The tightest limit on the way up is the one that kills."""
    files = version_2("pod/", "1000000") | version_2("pod/one/", "max")

    assert control_group(tmp_path, "0::/pod/one\n", files)() == MemoryReading(6490, 1_000_000)


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("4:memory:/\n", version_1("", UNLIMITED)),
        ("0::/\n", version_2("", "max")),
        ("4:memory:/\n", {}),
        ("0::/../..\n", {}),
        ("nonsense", {}),
        ("4:memory:/\n", version_1("", LIMITED) | {"memory/memory.usage_in_bytes": "?"}),
    ],
)
def test_without_a_limit_there_is_no_reading(tmp_path, membership, files):
    """No limit, no control group and a foreign format are all the same: nothing to go by."""
    assert control_group(tmp_path, membership, files)() is None


def test_without_a_system_there_is_no_reading(tmp_path):
    """Where /proc has no such file, nothing is limited."""
    assert ControlGroup(tmp_path, tmp_path / "none")() is None


def test_this_process_can_be_read():
    """What this machine really has is read without an error."""
    reading = ControlGroup()()

    assert reading is None or 0 < reading.used_bytes < reading.ceiling_bytes


# -- what is refused --------------------------------------------------------------------------


def test_growth_is_refused_between_the_lines():
    """Writes stop at FULL and go on below EASED, not between."""
    guard = MemoryGuard("node1")
    for used, is_full in [(EASED, False), (FULL, True), (EASED, True), (EASED - 0.01, False)]:
        guard.observe(MemoryReading(int(used * 1000), 1000))
        assert guard.full is is_full


def test_what_is_accepted_counts():
    """Memory that rows in the tail will need is as good as used."""
    guard = MemoryGuard("node1")
    guard.observe(EMPTY, pending_bytes=400 * MIB)

    with pytest.raises(StorageFull, match="node1"):
        guard.admit_growth(["node1"], 0.0)


def test_only_holders_matter():
    """A full node stops writes to its own replicas, and no others."""
    guard = guard_at(BRIM)
    guard.admit_growth(["node2", "node3"], 0.0)

    with pytest.raises(StorageFull, match="node1"):
        guard.admit_growth(["node2", "node1"], 0.0)


def test_a_notice_counts_for_a_while():
    """A peer's word stops writes to it until it is old."""
    guard = guard_at(EMPTY)
    guard.hear("node2", 10.0)
    guard.admit_growth(["node1", "node3"], 10.0)
    with pytest.raises(StorageFull, match="node2"):
        guard.admit_growth(["node1", "node2"], 10.0 + NOTICE_S - 0.1)

    guard.admit_growth(["node1", "node2"], 10.0 + NOTICE_S)


def test_without_a_ceiling_all_is_admitted():
    """No reading, no refusal."""
    guard = guard_at(None)
    guard.admit_growth(["node1"], 0.0)
    guard.admit_body(1 << 50, 1 << 50)

    assert not guard.full


def test_a_body_that_never_fits_is_too_large():
    """What exceeds half of the ceiling is not worth another try."""
    with pytest.raises(PayloadTooLarge):
        guard_at(EMPTY).admit_body(CEILING // 2 + 1, 0)


def test_a_body_that_does_not_fit_now_is_put_off():
    """Other requests' bytes count as well as what is used."""
    guard = guard_at(EMPTY)
    left = int(CRITICAL * CEILING) - EMPTY.used_bytes
    guard.admit_body(left // 2, left // 2 - 1)

    with pytest.raises(Overloaded):
        guard.admit_body(left // 2, left // 2 + 2)


def test_a_claim_gives_back_what_decoding_took():
    """What a body becomes is held as long as the request, and not longer."""
    elements = 200 * MIB // DECODED_BYTES
    budget = BodyBudget(CEILING, guard_at(EMPTY))
    with budget.claim() as first:
        first.grow_decoded(elements)
        with budget.claim() as second, pytest.raises(Overloaded):
            second.grow_decoded(elements)
    with budget.claim() as third:
        third.grow_decoded(elements)

    assert (budget.bytes_taken, budget.bytes_decoded) == (0, 0)


async def test_the_api_refuses_bodies_and_goes_on_reading():
    """A large body is put off with Retry-After; a small search is answered."""
    guard = guard_at(EMPTY)
    async with served(memory=guard) as client:
        await with_collection(client)
        guard.observe(MemoryReading(int(CRITICAL * CEILING) - MIB, CEILING))
        points = [{"id": n, "vector": [1, 2, 3]} for n in range(10_000)]
        refused = await client("PUT", "/collections/c/points", {"points": points})
        searched = await client("POST", "/collections/c/points/query", {"query": [1, 2, 3]})

    assert refused.status == 503
    assert refused.body["error"]["code"] == "overloaded"
    assert float(refused.headers["Retry-After"]) > 0
    assert searched.status == 200


# -- what becomes of a write ------------------------------------------------------------------


def point(number: int) -> Point:
    return Point(number, np.array([1, 2, 3, 4], np.float32), {})


async def written(opened: RouterCluster, guard: MemoryGuard) -> str:
    """Upsert, change a payload and delete through node1; return what was refused."""
    collection = await opened.collection()
    router = opened.new_router("node1", memory=guard)
    refused = ""
    for name, call in {
        "upsert ": router.upsert(collection, [point(1)], opened.options()),
        "payload ": router.set_payload(collection, [1], "merge", {"a": 1}, [], opened.options()),
        "delete ": router.delete(collection, [1], opened.options()),
    }.items():
        try:
            await call
        except StorageFull:
            refused += name
    return refused


async def test_a_full_node_refuses_growth_only():
    """Points and payloads are refused before anything is proposed; deletes are not."""
    with cluster([["node1", "node2", "node3"]]) as opened:
        assert await written(opened, guard_at(BRIM)) == "upsert payload "
        assert len(opened.commands(0)) == 1


async def test_a_full_follower_is_spared():
    """The node that takes the request heeds what the shard's other nodes told it."""
    guard = guard_at(EMPTY)
    with cluster([["node1", "node2", "node3"]]) as opened:
        guard.hear("node3", opened.clock())
        assert await written(opened, guard) == "upsert payload "


async def test_a_full_node_elsewhere_is_no_obstacle():
    """Shards without a replica on the full node take writes."""
    guard = guard_at(EMPTY)
    with cluster([["node1", "node2"], ["node3"]]) as opened:
        guard.hear("node3", opened.clock())
        collection = await opened.collection()
        router = opened.new_router("node1", memory=guard)
        outcomes = set()
        for number in range(20):
            try:
                await router.upsert(collection, [point(number)], opened.options())
                outcomes.add("written")
            except StorageFull:
                outcomes.add("refused")

    assert outcomes == {"written", "refused"}


# -- who hears of it --------------------------------------------------------------------------


def watch(wire: Wire, me: str, reading: MemoryReading | None) -> tuple[MemoryGuard, MemoryWatch]:
    """Return a node's guard and its watch, listening on the wire."""
    guard = MemoryGuard(me)
    watching = MemoryWatch(
        guard=guard,
        read=lambda: reading,
        indexes=IndexSet(None),
        me=me,
        others=[node for node in ("node1", "node2", "node3") if node != me],
        peers=Peers(Channel(wire, me)),
        clock=wire.clock,
    )
    watching.register()
    return guard, watching


async def test_a_full_node_gives_back_what_was_freed():
    """Again and again while it is full, and not when it is not."""
    wire, given = Wire(Clock()), []
    guard, watching = watch(wire, "node1", MemoryReading(90, 100))
    watching._give_back = lambda: given.append(wire.clock())
    for _ in range(3):
        await watching.look()
    assert guard.full
    assert given == [wire.clock()]
    await wire.clock.sleep(GIVE_BACK_S)
    await watching.look()
    assert len(given) == 2

    watching._read = lambda: MemoryReading(10, 100)
    await watching.look()
    await wire.clock.sleep(GIVE_BACK_S)
    await watching.look()
    assert len(given) == 2


async def test_a_full_node_tells_its_peers():
    """Whoever can be reached hears of it; one that is away holds nobody up."""
    wire = Wire(Clock())
    full, watching = watch(wire, "node1", BRIM)
    other, _ = watch(wire, "node2", EMPTY)
    away, _ = watch(wire, "node3", EMPTY)
    wire.dead.add("node3")
    await watching.look()
    await watching.tell()

    assert full.full
    away.admit_growth(["node1"], wire.clock())
    with pytest.raises(StorageFull, match="node1"):
        other.admit_growth(["node1"], wire.clock())


async def test_rows_in_the_tail_will_need_links():
    """What the graph will need is counted per row, and gone once the row is in the graph."""
    indexes = IndexSet(None)
    index = indexes.open(1, 4, "Euclid", 16, 100)
    rows = np.random.default_rng(1).random((100, 4), np.float32)
    index.upsert(0, [(n, 1, b"\x01" + n.to_bytes(8), rows[n].tobytes()) for n in range(100)])
    before = pending_bytes(indexes)
    while index.build(100):
        pass

    assert before == 100 * (8 * 16 + 120)
    assert pending_bytes(indexes) == 0
