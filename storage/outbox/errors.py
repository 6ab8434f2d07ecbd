"""What can go wrong around an outbox, beside what can go wrong with any Postgres.

CheckpointError (storage.checkpoint.errors: Postgres is down, refuses, has no space)
├── OutboxRefused ─ what was asked for cannot be: no such table, column or source
└── OutboxMoved ─ somebody else went on with the source meanwhile: look again
"""

from __future__ import annotations

from storage.checkpoint.errors import CheckpointError


class OutboxRefused(CheckpointError):
    """The table, its columns or the state of the outbox do not allow it."""


class OutboxMoved(CheckpointError):
    """What was taken is not what is in flight any more."""
