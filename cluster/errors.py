"""Every way a request can fail, in one tree.

    RecollectError
    ├── BadRequest 400 ─ the caller's input; `field` names the culprit
    │   ├── UnsupportedFeature 400
    │   └── EmbeddingSpaceMismatch 400
    ├── Unauthorized 401
    ├── NotFound 404
    │   ├── NotServed 404 ─ a route that this server's backend does not have
    │   ├── CollectionNotFound 404
    │   └── GraphNotFound 404
    ├── MethodNotAllowed 405
    ├── NotAcceptable 406 ─ no form of an answer that the client takes
    ├── RequestTimeout 408 ─ the client stopped sending its request
    ├── Conflict 409
    │   ├── CollectionExists 409
    │   ├── GraphConflict 409 ─ the graph is not as the change needs it
    │   └── VersionConflict 409 ─ `current_version` of `point`
    ├── PayloadTooLarge 413
    ├── UnsupportedMediaType 415
    ├── IdempotencyKeyReused 422
    ├── Unavailable 503 ─ retryable: nothing is known to be wrong with the request
    │   ├── NotLeader ─ `leader` may say who is
    │   ├── OutcomeUnknown ─ proposed, but not known to be committed; safe to retry (request ids)
    │   ├── DeadlineExceeded
    │   ├── ShardsUnavailable ─ `shards` names them
    │   ├── NotReady
    │   ├── CheckpointFailed ─ the database of checkpoints, or the way to it
    │   ├── OutboxFailed ─ the database of the outbox, or the way to it
    │   └── Overloaded
    └── StorageFull 507 ─ retryable once there is space

A caller asks two questions, whose fault and whether to retry; `status` and `retryable` answer
them. Any other exception that reaches the HTTP edge is a bug, answered as 500 `internal`.
"""

from __future__ import annotations

from typing import ClassVar

from storage.ids import PointId


class RecollectError(Exception):
    """Base of all errors that are part of the product's contract."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    retry_after_s: float | None = None

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class BadRequest(RecollectError):
    """The request is malformed; retrying it unchanged can never succeed."""

    status = 400
    code = "bad_request"


class UnsupportedFeature(BadRequest):
    """A feature of the public API shape that this version does not have."""

    code = "unsupported_feature"


class EmbeddingSpaceMismatch(BadRequest):
    """Vectors of one embedding space were offered to a collection of another."""

    code = "embedding_space_mismatch"


class Unauthorized(RecollectError):
    """No API key, or not one of ours."""

    status = 401
    code = "unauthorized"


class NotFound(RecollectError):
    """The thing asked for does not exist."""

    status = 404
    code = "not_found"


class NotServed(NotFound):
    """A route of the API that a cluster serves, and the backend of this server does not."""

    code = "not_served"


class CollectionNotFound(NotFound):
    """No collection of that name."""

    code = "collection_not_found"


class GraphNotFound(NotFound):
    """No graph of that name."""

    code = "graph_not_found"


class MethodNotAllowed(RecollectError):
    """The route exists, but not with this method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(RecollectError):
    """The client stopped sending its request; it may send it again."""

    status = 408
    code = "request_timeout"
    retryable = True


class NotAcceptable(RecollectError):
    """The client accepts none of the media types that answers have."""

    status = 406
    code = "not_acceptable"


class Conflict(RecollectError):
    """The request contradicts what is stored."""

    status = 409
    code = "conflict"


class GraphConflict(Conflict):
    """A change would leave an edge without a node, or the graph is another than was expected."""

    code = "graph_conflict"


class CollectionExists(Conflict):
    """A collection of that name exists with other parameters."""

    code = "collection_exists"


class VersionConflict(Conflict):
    """A condition did not hold: `point` has `current_version`, 0 when it does not exist."""

    code = "version_conflict"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        point: PointId = 0,
        current_version: int = 0,
    ) -> None:
        super().__init__(message, field=field)
        self.point = point
        self.current_version = current_version


class PayloadTooLarge(RecollectError):
    """The body is larger than the limit; refused before it is read."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(RecollectError):
    """A Content-Type or Content-Encoding that is not served."""

    status = 415
    code = "unsupported_media_type"


class IdempotencyKeyReused(RecollectError):
    """The idempotency key stands for another request, which is still remembered."""

    status = 422
    code = "idempotency_key_reused"

    def __init__(self, message: str = "", *, field: str | None = "Idempotency-Key") -> None:
        text = "this key was used for another request, which is still remembered"
        super().__init__(message or text, field=field)


class Unavailable(RecollectError):
    """The cluster cannot answer now; the same request may succeed later."""

    status = 503
    code = "unavailable"
    retryable = True
    retry_after_s: float | None = 1.0


class NotLeader(Unavailable):
    """This replica does not lead the shard; `leader` is a hint and may be None."""

    code = "not_leader"

    def __init__(self, message: str, *, leader: str | None = None) -> None:
        super().__init__(message)
        self.leader = leader


class OutcomeUnknown(Unavailable):
    """The command was proposed and its fate is not known; its request id makes a retry safe."""

    code = "outcome_unknown"


class DeadlineExceeded(Unavailable):
    """The request's time ran out."""

    code = "deadline_exceeded"


class ShardsUnavailable(Unavailable):
    """Some shards have no replica that can answer; `shards` names them."""

    code = "shards_unavailable"

    def __init__(self, message: str, *, shards: tuple[int, ...]) -> None:
        super().__init__(message)
        self.shards = shards


class NotReady(Unavailable):
    """The node is starting, or not yet part of a formed cluster; `reasons` says what it lacks."""

    code = "not_ready"

    def __init__(
        self, message: str, *, field: str | None = None, reasons: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, field=field)
        self.reasons = reasons


class CheckpointFailed(Unavailable):
    """A checkpoint could not be made or read; what was whole before is whole."""

    code = "checkpoint_failed"


class OutboxFailed(Unavailable):
    """The database of the outbox cannot be asked; what waits there waits on."""

    code = "outbox_failed"


class Overloaded(Unavailable):
    """A queue is at its limit; slow down."""

    code = "overloaded"


class StorageFull(RecollectError):
    """The disk or memory limit is reached; reads go on, writes are refused."""

    status = 507
    code = "storage_full"
    retryable = True
    retry_after_s: float | None = 5.0


class CommandFailed(Exception):
    """A command of the command line could not do its work. No part of HTTP, so not in the tree.

    One sentence for the user, a `hint` that says what to do, and a stable `code`: the answer's
    own when a node refused the request.
    """

    def __init__(
        self, message: str, *, hint: str = "", code: str = "command_failed", retryable: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.retryable = retryable
