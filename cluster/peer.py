"""Node-to-node calls: what the wire has to offer, and the typed layer above it.

A call is a method's name, a request and an answer, each a msgspec structure encoded as msgpack,
so that both sides validate what they read. Nodes' clocks are not comparable: a deadline crosses
the wire as the time that is left (`timeout_ms` in the request), and each side counts it on its
own clock.

An error crosses as {code, message, field, leader, shards} and is raised again on the other side
as the same class. Whatever else went wrong over there arrives as `internal`, without its text:
what an unforeseen exception says may be secret, and is in that node's log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from cluster.errors import BadRequest, NotLeader, RecollectError, ShardsUnavailable, Unavailable

RequestType = TypeVar("RequestType")
AnswerType = TypeVar("AnswerType")


class PeerChannel(Protocol):
    """The wire between nodes. Bodies and answers are anything that msgpack can carry."""

    def connected(self, node: str) -> bool:
        """Return whether a call to `node` has a connection to travel on."""
        ...

    async def call(self, node: str, method: str, body: Any, deadline_s: float) -> Any:
        """Return the answer of `node`.

        Raises Unavailable, DeadlineExceeded, or the error that the handler raised over there.
        """
        ...

    def serve(self, method: str, handler: Callable[[str, Any], Awaitable[Any]]) -> None:
        """Answer calls of `method` with `handler(sender, body)`."""
        ...


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """An error as it crosses the wire."""

    code: str
    message: str
    field: str | None = None
    leader: str | None = None
    shards: tuple[int, ...] = ()


def encode_error(error: BaseException) -> dict[str, Any]:
    """Return an error's wire form; anything but a RecollectError becomes `internal`."""
    if not isinstance(error, RecollectError):
        return {"code": RecollectError.code, "message": "the node met an internal error"}
    body = ErrorBody(error.code, error.message, error.field)
    if isinstance(error, NotLeader):
        body.leader = error.leader
    if isinstance(error, ShardsUnavailable):
        body.shards = error.shards
    encoded: dict[str, Any] = msgspec.to_builtins(body)
    return encoded


def decode_error(raw: Any) -> RecollectError:
    """Return the error of a wire form; an unknown code or form gives `internal`."""
    try:
        body = msgspec.convert(raw, ErrorBody, strict=False)
    except msgspec.ValidationError:
        return RecollectError("a node answered with a malformed error")
    kind = _KINDS.get(body.code, RecollectError)
    if issubclass(kind, NotLeader):
        return kind(body.message, leader=body.leader)
    if issubclass(kind, ShardsUnavailable):
        return kind(body.message, shards=body.shards)
    return kind(body.message, field=body.field)


def _kinds(kind: type[RecollectError]) -> dict[str, type[RecollectError]]:
    found = {kind.code: kind}
    for below in kind.__subclasses__():
        found.update(_kinds(below))
    return found


_KINDS: Final = _kinds(RecollectError)


class Method(Generic[RequestType, AnswerType]):
    """A call's name and the types of its request and answer."""

    def __init__(self, name: str, request: type[RequestType], answer: type[AnswerType]) -> None:
        self.name = name
        self._requests = msgspec.msgpack.Decoder(request)
        self._answers = msgspec.msgpack.Decoder(answer)

    def read_request(self, raw: bytes) -> RequestType:
        """Decode a request; raises msgspec.MsgspecError."""
        return self._requests.decode(raw)

    def read_answer(self, raw: bytes) -> AnswerType:
        """Decode an answer; raises msgspec.MsgspecError."""
        return self._answers.decode(raw)


class Peers:
    """Typed calls over a channel."""

    def __init__(self, channel: PeerChannel) -> None:
        self._channel = channel
        self._encoder = msgspec.msgpack.Encoder()

    def connected(self, node: str) -> bool:
        """Return whether a call to `node` has a connection to travel on."""
        return self._channel.connected(node)

    async def call(
        self,
        node: str,
        method: Method[RequestType, AnswerType],
        request: RequestType,
        deadline_s: float,
    ) -> AnswerType:
        """Return the answer of `node`; raises what `PeerChannel.call` raises."""
        body = self._encoder.encode(request)
        raw = await self._channel.call(node, method.name, body, deadline_s)
        try:
            return method.read_answer(raw)
        except (msgspec.MsgspecError, TypeError) as error:
            raise Unavailable(f"{node} answered {method.name} in a foreign form") from error

    def serve(
        self,
        method: Method[RequestType, AnswerType],
        handler: Callable[[RequestType], Awaitable[AnswerType]],
    ) -> None:
        """Answer `method` with `handler`."""

        async def answer(sender: str, body: Any) -> bytes:
            try:
                request = method.read_request(body)
            except (msgspec.MsgspecError, TypeError) as error:
                raise BadRequest(f"{sender} asked {method.name} in a foreign form") from error
            return self._encoder.encode(await handler(request))

        self._channel.serve(method.name, answer)
