"""Snapshots on their way: cut, continued, damaged, superseded; and checked off the apply thread."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgpack
import pytest

from cluster.raft import messages as msg
from cluster.raft.messages import to_wire
from cluster.raft.snapshot import FAILED_PAUSE_S, Receiver
from cluster.raft.snapshot_files import SnapshotFiles
from storage.state_file import StateFile
from tests.raft_logs import under_way
from tests.simulation.nodes import CHUNK_BYTES, Letter, Net
from tests.state_files import SCHEMA, exported, items, put

PIECES = 30


@pytest.fixture
def net() -> Net:
    """C missed so much that it needs a snapshot of some thirty pieces."""
    made = Net("ABC")
    made.link_all()
    made.elect("A")
    made.cut("A", "C")
    made.cut("B", "C")
    for number in range(PIECES):
        assert made.put("A", f"k{number}={'v' * CHUNK_BYTES}") is not None
        made.settle(seconds=0.1)
    made.nodes["A"].compact()
    return made


def transfer(net: Net, limit: int) -> list[int]:
    """Let everything flow until so many pieces were delivered; return their offsets."""
    offsets: list[int] = []
    for _ in range(600):
        for letter in under_way(net, msg.Chunk, "A", "C"):
            assert isinstance(letter.message, msg.Chunk)
            offsets.append(letter.message.offset)
        if len(offsets) >= limit:
            break
        net.tick()
        net.deliver()
    return offsets


def equal(net: Net) -> bool:
    return net.nodes["C"].machines[1].digest() == net.nodes["A"].machines[1].digest()


def test_a_transfer_that_was_cut_goes_on_where_it_stopped(net: Net) -> None:
    """The leader still offers the same snapshot: nothing is sent twice but the piece under way."""
    net.link("A", "C")
    before = sorted(set(transfer(net, 10)))
    net.cut("A", "C")
    net.settle(seconds=0.3)
    net.link("A", "C")
    after: set[int] = set()
    for _ in range(600):
        after |= {
            letter.message.offset
            for letter in under_way(net, msg.Chunk, "A", "C")
            if isinstance(letter.message, msg.Chunk)
        }
        net.tick()
        net.deliver()

    assert len(before) >= 9
    assert min(after) >= before[-2]
    assert min(after) > 0
    assert equal(net)


def test_a_damaged_piece_is_found_and_everything_is_sent_again(net: Net) -> None:
    """The digest is of the whole: nothing is installed, and the state stays what it was."""
    net.link("A", "C")
    transfer(net, 5)
    position = net.nodes["C"].machines[1].position()
    (letter,) = under_way(net, msg.Chunk, "A", "C")
    good = letter.message
    assert isinstance(good, msg.Chunk)
    bad = msg.Chunk(good.sha256, good.offset, bytes(len(good.data)))
    net.letters = [
        Letter(x.source, x.target, x.group, msgpack.packb(to_wire(bad))) if x is letter else x
        for x in net.letters
    ]
    raft = net.nodes["C"].group()
    while raft.receiver.not_before_s == 0.0:
        assert net.nodes["C"].machines[1].position() == position
        net.tick()
        net.deliver()
    assert net.nodes["C"].machines[1].position() == position
    assert raft.receiver.manifest is None
    net.settle(seconds=5)

    assert equal(net)


def test_a_transfer_that_failed_is_not_begun_again_at_once() -> None:
    """On a full disk it would fail again, as often as the network allows."""
    receiver, manifest = Receiver(), msg.Manifest(9, 2, 100, b"digest")
    assert receiver.offered(manifest, 10.0) is not None
    receiver.failed(10.0)

    assert receiver.offered(manifest, 10.0 + FAILED_PAUSE_S / 2) is None
    assert receiver.offered(manifest, 10.0 + FAILED_PAUSE_S) == msg.Pull(b"digest", 0)


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    made = StateFile(tmp_path / "state.db", SCHEMA)
    put(made, 2, "old")
    return made


def received(state: StateFile, tmp_path: Path, *, flip: int | None = None) -> SnapshotFiles:
    """Store an export that came in, perhaps with a flipped byte; the manifest is made of it."""
    files = SnapshotFiles(tmp_path / "snapshots" / "0001", state)
    image = bytearray(exported(tmp_path).read_bytes())
    if flip is not None:
        image[flip] ^= 0xFF
    assert files.store(0, bytes(image))
    return files


def manifest_of(files: SnapshotFiles) -> msg.Manifest:
    content = files.incoming.read_bytes()
    return msg.Manifest(9, 2, len(content), sha256(content).digest())


def test_a_complete_snapshot_is_installed_without_being_read_again(
    state: StateFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All reading is done before: applying, of all groups, does not wait for it."""
    files = received(state, tmp_path)
    assert files.complete(manifest_of(files))
    monkeypatch.setattr(state, "verify", lambda _: pytest.fail("read again"))
    files.install()

    assert items(state) == {9: "new"}
    state.close()


@pytest.mark.parametrize("flip", [100, 8192 + 3])
def test_a_snapshot_whose_content_is_damaged_is_not_complete(
    state: StateFile, tmp_path: Path, flip: int
) -> None:
    """Also when the digest is right: the leader's own file may have been damaged."""
    files = received(state, tmp_path, flip=flip)
    assert not files.complete(manifest_of(files))
    assert items(state) == {2: "old"}
    state.close()


def test_a_snapshot_with_another_digest_is_not_complete(state: StateFile, tmp_path: Path) -> None:
    """What came in is not what was offered."""
    files = received(state, tmp_path)
    manifest = manifest_of(files)
    assert not files.complete(msg.Manifest(9, 2, manifest.size, b"another"))
    state.close()
