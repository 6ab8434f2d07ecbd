"""Between node and worker: messages whole, connections with them, and an end that both see."""

import os
import socket

import pytest

from cluster.workers.channel import (
    MESSAGE_BYTES_MAX,
    Back,
    Channel,
    Leaving,
    Lent,
    MessageTooLarge,
    Needed,
    Payloads,
    Ready,
    Report,
)
from cluster.workers.lent import READ_BYTES

MESSAGES = [
    Ready(),
    Leaving(),
    Report({"/r": [0.1]}, 2, [(1, b"v")], [(1, b"{}")], [(2, b"{}")]),
    Needed(7, 1, [(b"\x01" * 9, 3)]),
    Payloads(7, [(b"\x01" * 9, 4, b"{}")], {3: 4}),
    Payloads(8, None, {}),
]


@pytest.fixture
def pair():
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_come_as_they_were_sent(pair):
    """In order, and without a connection where none was sent."""
    ours, theirs = pair
    for message in MESSAGES:
        theirs.send(message)

    assert [ours.receive() for _ in MESSAGES] == [(message, None) for message in MESSAGES]


def test_a_connection_comes_with_what_was_read_of_it(pair):
    """It goes on where it was, though the sender has closed its own descriptor."""
    ours, theirs = pair
    near, far = socket.socketpair()
    ours.send(Lent(b"u" * READ_BYTES, 16), near.fileno())
    near.close()
    message, connection = theirs.receive()

    assert message == Lent(b"u" * READ_BYTES, 16)
    far.sendall(b"hello")
    assert connection.recv(9) == b"hello"
    theirs.send(Back(b"", 32, is_moving=True), connection.fileno())
    connection.close()
    _, back = ours.receive()
    back.sendall(b"bye")
    assert far.recv(9) == b"bye"
    back.close()
    assert far.recv(9) == b""
    far.close()


def test_the_end_is_seen_after_what_was_sent_before(pair):
    """And the other way goes on."""
    ours, theirs = pair
    ours.send(Ready())
    ours.end()
    ours.end()

    assert theirs.receive() == (Ready(), None)
    assert theirs.receive() is None
    theirs.send(Leaving())
    assert ours.receive() == (Leaving(), None)
    theirs.close()
    assert ours.receive() is None


def test_what_does_not_fit_into_a_packet_is_said(pair):
    """Nothing of it is sent, and the channel goes on."""
    ours, theirs = pair
    with pytest.raises(MessageTooLarge):
        ours.send(Payloads(1, [(b"i", 1, b"x" * MESSAGE_BYTES_MAX)], {}))
    ours.send(Ready())

    assert theirs.receive() == (Ready(), None)


def test_what_a_process_sent_before_it_died_is_received(pair):
    """Also when it died with messages that it had not read."""
    ours, theirs = pair
    ours.send(Ready())
    theirs.send(Leaving())
    theirs.send(Ready())
    theirs.close()

    assert ours.receive() == (Leaving(), None)
    assert ours.receive() == (Ready(), None)
    assert ours.receive() is None


def test_nothing_to_receive_is_said_without_waiting(pair):
    """A node's side never waits; nor does it where a worker is far behind."""
    ours, _ = pair
    ours.set_blocking(blocking=False)

    with pytest.raises(BlockingIOError):
        ours.receive()

    def fill():
        for _ in range(10_000):
            ours.send(Lent(b"u" * READ_BYTES, 1))

    with pytest.raises(OSError, match=r"unavailable|space"):
        fill()


def test_a_forked_process_keeps_its_channel_alone(pair):
    """Files of the parent are closed in the child, where they are not the child's to flush."""
    ours, theirs = pair
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        theirs.alone()
        opened = set(range(3, 200))
        for each in range(3, 200):
            try:
                os.fstat(each)
            except OSError:
                opened.discard(each)
        if opened == {theirs.descriptor}:
            theirs.send(Ready())
        os._exit(0)
    os.waitpid(child, 0)

    assert ours.receive() == (Ready(), None)
    os.close(reading)
    os.close(writing)
