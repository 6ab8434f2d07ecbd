"""Typed calls between nodes, and errors that arrive as they left."""

from typing import Any

import msgspec
import pytest

from cluster.errors import (
    BadRequest,
    CollectionNotFound,
    DeadlineExceeded,
    NotLeader,
    NotReady,
    RecollectError,
    ShardsUnavailable,
    StorageFull,
    Unavailable,
)
from cluster.peer import Method, Peers, decode_error, encode_error


class Question(msgspec.Struct, array_like=True):
    text: str
    timeout_ms: int


class Reply(msgspec.Struct, array_like=True):
    words: list[str]


SPLIT = Method("test/split", Question, Reply)


class Loopback:
    """A channel from a node to itself; what it carries goes through msgpack."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def connected(self, node: str) -> bool:
        return node == "here"

    async def call(self, node: str, method: str, body: Any, deadline_s: float) -> Any:
        carried = msgspec.msgpack.decode(msgspec.msgpack.encode(body))
        return await self.handlers[method]("here", carried)

    def serve(self, method: str, handler: Any) -> None:
        self.handlers[method] = handler


async def split(question: Question) -> Reply:
    return Reply(question.text.split())


async def test_a_call_is_typed_on_both_sides():
    """The handler gets the request's structure, the caller the answer's."""
    peers = Peers(Loopback())
    peers.serve(SPLIT, split)

    assert await peers.call("here", SPLIT, Question("a b", 10), 1.0) == Reply(["a", "b"])
    assert peers.connected("here")
    assert not peers.connected("elsewhere")


@pytest.mark.parametrize("body", [b"\x91\xa1a", b"\xc1", b"", "text", None, 7])
async def test_a_foreign_request_is_a_bad_request(body):
    """What does not decode to the request's structure never reaches the handler."""
    channel = Loopback()
    Peers(channel).serve(SPLIT, split)
    with pytest.raises(BadRequest, match="foreign form"):
        await channel.handlers["test/split"]("node2", body)


@pytest.mark.parametrize("answer", [b"\x91\x01", b"\xc1", "text", None])
async def test_a_foreign_answer_is_a_node_that_fails(answer):
    """An answer that does not decode says that this node is no help, not that we are wrong."""
    channel = Loopback()

    async def handler(sender: str, body: Any) -> Any:
        return answer

    channel.serve("test/split", handler)
    with pytest.raises(Unavailable, match="foreign form"):
        await Peers(channel).call("here", SPLIT, Question("a", 10), 1.0)


ERRORS = [
    BadRequest("wrong", field="points[3].vector"),
    CollectionNotFound("no such collection"),
    NotLeader("another node leads", leader="node3"),
    NotLeader("nobody leads"),
    ShardsUnavailable("two are missing", shards=(1, 7)),
    DeadlineExceeded("too late"),
    NotReady("starting"),
    StorageFull("no space"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_arrive_as_they_left(error):
    """Class, message, field, leader and shards survive the way over the wire."""
    carried = msgspec.msgpack.decode(msgspec.msgpack.encode(encode_error(error)))
    arrived = decode_error(carried)

    assert type(arrived) is type(error)
    assert (arrived.message, arrived.field) == (error.message, error.field)
    assert getattr(arrived, "leader", None) == getattr(error, "leader", None)
    assert getattr(arrived, "shards", None) == getattr(error, "shards", None)


def test_every_error_of_the_tree_can_be_sent():
    """No class of the tree turns into another one on the way."""
    kinds = [RecollectError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    # What other modules add, such as the refusal of a data folder, never crosses the wire.
    tree = [kind for kind in kinds if kind.__module__ == RecollectError.__module__]
    codes = {kind.code: kind for kind in reversed(tree)}

    assert {code: type(decode_error({"code": code, "message": ""})) for code in codes} == codes


def test_unforeseen_errors_keep_their_text_to_themselves():
    """What an unforeseen exception says may be secret: it arrives as `internal`, without it."""
    encoded = encode_error(ValueError("password=hunter2"))

    assert encoded["code"] == "internal"
    assert "hunter2" not in str(encoded)
    assert decode_error(encoded).status == 500


@pytest.mark.parametrize("raw", [None, 7, [], {}, {"code": 3, "message": "x"}, {"code": "gone"}])
def test_a_malformed_error_is_internal(raw):
    """An error that makes no sense is still an error."""
    assert decode_error(raw).code == "internal"
