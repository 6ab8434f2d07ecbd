"""The peer port: who gets in, and what a frame may be."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from cluster.channel import CallChannel
from cluster.errors import BadRequest, DeadlineExceeded, NotLeader, PayloadTooLarge, Unavailable
from cluster.raft import frames
from cluster.raft.frames import ForeignPeer
from cluster.raft.tcp import PING, PeerPort

KEY = b"k" * 32


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_frame_comes_back_whatever_the_cuts() -> None:
    """A stream has no message borders."""
    sealer, opener = frames.Sealer(KEY), frames.Opener(KEY, 1000)
    bodies = [b"", b"a", b"b" * 1000]
    stream = b"".join(b"".join(sealer.seal(body)) for body in bodies)
    found = [body for k in range(len(stream)) for body in opener.feed(stream[k : k + 1])]
    assert found == bodies


@pytest.mark.parametrize("position", [0, 5, 19, 20, 25])
def test_a_changed_byte_ends_the_connection(position: int) -> None:
    """Length, MAC and body are all covered."""
    frame = bytearray(b"".join(frames.Sealer(KEY).seal(b"hello world")))
    frame[position] ^= 1
    opener = frames.Opener(KEY, 1000)
    with pytest.raises(ForeignPeer):
        assert opener.feed(bytes(frame) + bytes(64)) == []


@pytest.mark.parametrize("bit", range(32))
def test_a_changed_length_is_not_waited_for(bit: int) -> None:
    """Whoever believed it would wait for bytes that nobody sends, deaf to what follows."""
    frame = bytearray(b"".join(frames.Sealer(KEY).seal(b"hello world")))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ForeignPeer):
        frames.Opener(KEY, 1 << 30).feed(bytes(frame[: frames.HEADER.size]))


def test_frames_cannot_be_repeated_or_reordered() -> None:
    """The MAC covers the sequence number."""
    sealer = frames.Sealer(KEY)
    first, second = (b"".join(sealer.seal(body)) for body in (b"1", b"2"))
    opener = frames.Opener(KEY, 1000)
    assert opener.feed(first) == [b"1"]
    with pytest.raises(ForeignPeer):
        opener.feed(first)
    with pytest.raises(ForeignPeer):
        frames.Opener(KEY, 1000).feed(second)


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    """No memory is taken for it."""
    with pytest.raises(ForeignPeer):
        frames.Opener(KEY, 1000).feed(frames.HEADER.pack(1001, bytes(8), bytes(16)))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x92\xa1x\x00"])
def test_bodies_that_are_not_ours_are_refused(body: bytes) -> None:
    """Any bytes give a body or ForeignPeer."""
    with pytest.raises(ForeignPeer):
        frames.unpack(body)


@asynccontextmanager
async def ports(
    secrets: tuple[str, str] = ("s", "s"),
) -> AsyncIterator[tuple[PeerPort, PeerPort]]:
    """Two running peer ports, a and b."""
    addresses = {name: ("127.0.0.1", free_port()) for name in "ab"}
    made = [
        PeerPort(
            me=name, peers=addresses, listen=addresses[name], secret=secret, frame_bytes_max=10_000
        )
        for name, secret in zip("ab", secrets, strict=True)
    ]
    async with asyncio.TaskGroup() as tasks:
        running = []
        for port in made:
            started = asyncio.Event()
            running.append(tasks.create_task(port.run(started)))
            await started.wait()
        try:
            yield made[0], made[1]
        finally:
            for task in running:
                task.cancel()


async def until(condition, timeout_s: float = 5.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_closed_link_takes_nothing() -> None:
    """The product's event loop raises on a write to a closed connection; a link says no."""

    async def scenario() -> list[bool]:
        async with ports() as (a, _):
            await until(lambda: a.connected("b"))
            link = a._links["b"]
            link.close()
            at_once = link.send(PING, None)
            await until(lambda: a._links.get("b") is not link)
            return [at_once, link.send(PING, None)]

    assert uvloop.run(scenario()) == [False, False]


async def test_messages_of_all_groups_arrive_in_order() -> None:
    """One connection, any number of groups, order kept."""
    async with ports() as (a, b):
        got: list[tuple[str, int, bytes]] = []
        a.on_raft = lambda *x: got.append(x)
        await until(lambda: a.connected("b") and b.connected("a"))
        for number in range(100):
            b.post_raft("a", number % 3, b"%03d" % number + b"x" * 500)
        await until(lambda: len(got) == 100)
        assert [int(item[2][:3]) for item in got] == list(range(100))


async def test_a_peer_without_the_secret_is_not_connected() -> None:
    """Both directions prove that they know it."""
    async with ports(("s", "other")) as (a, b):
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await until(lambda: a.connected("b") or b.connected("a"), 1.0)


async def test_bytes_from_strangers_do_no_harm() -> None:
    """Random bytes, half a handshake and a foreign name leave the port in service."""
    async with ports() as (a, b):
        host, port = a._listen
        for data in (os.urandom(500), frames.MAGIC, frames.hello("zed", bytes(32)), b"GET / \r\n"):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(data)
            writer.close()
        await until(lambda: a.connected("b") and b.connected("a"))
        assert not a.connected("zed")


async def test_calls_answer_fail_and_time_out() -> None:
    """An answer, an error of the tree, silence, and a lost connection."""
    async with ports() as (a, b):
        calls = {name: CallChannel(port) for name, port in (("a", a), ("b", b))}
        b.on_disconnected = calls["b"].disconnected
        await until(lambda: a.connected("b") and b.connected("a"))
        loop = asyncio.get_running_loop()

        async def add(sender: str, body: int) -> int:
            return body + 1

        async def refuse(sender: str, body: object) -> object:
            raise NotLeader("not here", leader="c")

        async def hang(sender: str, body: object) -> object:
            await asyncio.Event().wait()
            raise AssertionError

        for name, handler in (("add", add), ("refuse", refuse), ("hang", hang)):
            calls["a"].serve(name, handler)
        soon = loop.time() + 5
        assert await calls["b"].call("a", "add", 41, soon) == 42
        with pytest.raises(NotLeader) as error:
            await calls["b"].call("a", "refuse", None, soon)
        assert error.value.leader == "c"
        with pytest.raises(DeadlineExceeded):
            await calls["b"].call("a", "hang", None, loop.time() + 0.05)
        with pytest.raises(Unavailable):
            await calls["b"].call("a", "nothing", None, soon)
        with pytest.raises(Unavailable):
            await calls["b"].call("z", "add", 1, soon)
        waiting = loop.create_task(calls["b"].call("a", "hang", None, soon))
        await asyncio.sleep(0)
        b._links["a"].close()
        with pytest.raises(Unavailable):
            await waiting


async def test_what_is_too_large_to_travel_costs_no_connection() -> None:
    """The caller is told, question or answer, and what else is under way goes on."""
    async with ports() as (a, b):
        calls = {name: CallChannel(port) for name, port in (("a", a), ("b", b))}
        lost: list[str] = []
        a.on_disconnected = b.on_disconnected = lost.append
        await until(lambda: a.connected("b") and b.connected("a"))
        loop, gate = asyncio.get_running_loop(), asyncio.Event()

        async def times(sender: str, body: int) -> bytes:
            return b"x" * body

        async def wait(sender: str, body: object) -> str:
            await gate.wait()
            return "done"

        calls["a"].serve("times", times)
        calls["a"].serve("wait", wait)
        soon = loop.time() + 5
        waiting = loop.create_task(calls["b"].call("a", "wait", None, soon))
        with pytest.raises(PayloadTooLarge):
            await calls["b"].call("a", "times", b"x" * 10_000, soon)
        with pytest.raises(BadRequest, match="ask for less"):
            await calls["b"].call("a", "times", 10_000, soon)
        assert await calls["b"].call("a", "times", 9_000, soon) == b"x" * 9_000
        gate.set()

        assert (await waiting, lost) == ("done", [])


async def test_an_answer_to_an_earlier_process_is_nobodys() -> None:
    """A node that died and came back must not take the old call's answer for the new one's."""
    async with ports() as (a, b):
        calls, gate = CallChannel(a), asyncio.Event()

        async def slow(sender: str, body: object) -> object:
            if body == "old":
                await gate.wait()
                return "answer to old"
            await asyncio.Event().wait()
            raise AssertionError

        calls.serve("write", slow)
        loop = asyncio.get_running_loop()
        await until(lambda: a.connected("b") and b.connected("a"))
        before = CallChannel(b)
        with pytest.raises(DeadlineExceeded):
            await before.call("a", "write", "old", loop.time() + 0.05)
        after = CallChannel(b)
        waiting = loop.create_task(after.call("a", "write", "new", loop.time() + 0.5))
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(DeadlineExceeded):
            await waiting
