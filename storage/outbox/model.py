"""What an outbox consists of. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 4 << 20
"""A batch has rows of so many bytes, but for its last one, which may go beyond."""
IMAGE_BYTES_MAX: Final = 1 << 20
"""A larger row is a dead letter, and is never read."""
APPLY_S: Final = 24.0
"""By then a batch is written, or has failed: before Postgres cuts a connection that is silent."""
SOURCES_MAX: Final = 64
DETAIL_MAX: Final = 500
"""Characters that are kept of what a row or a source failed with."""

Operation = Literal["upsert", "delete"]
Reason = Literal["invalid_payload", "embedding_failed", "max_retries_exceeded", "manual_nack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table whose rows become points.

    `table` is quoted as in SQL; empty: it was dropped. `payload_columns` None: all but the
    vector's.
    """

    source: int
    uid: str
    table: str
    collection: str
    id_column: str
    text_column: str | None = None
    vector_column: str | None = None
    payload_columns: tuple[str, ...] | None = None
    cluster_id: str | None = None
    paused: bool = False
    waiting: bool = False
    """Whether a change waits."""
    dead: int = 0
    """Changes that could not be applied."""


class Event(NamedTuple):
    """A change of a row. `image` is JSON; None: a deletion, or `oversized`."""

    seq: int
    op: Operation
    key: str | None
    image: str | None
    oversized: bool = False


class Rejected(NamedTuple):
    """A change that cannot be applied, and why."""

    event: Event
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The changes that are being applied, in order.

    `attempts` were begun before this one; `sole`: none of them can still be under way.
    """

    events: tuple[Event, ...]
    attempts: int
    sole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a source is, as Postgres has it, in the time of Postgres.

    `pending` counts up to a limit. `attended`: somebody consumes it. `attached`: the triggers are
    on the table, which exists.
    """

    source: Source
    lag_ms: float
    pending: int
    committed_seq: int
    applied_seq: int
    applied: int
    repeated: int
    attended: bool
    attached: bool
    circuit: str
    problem: str | None
