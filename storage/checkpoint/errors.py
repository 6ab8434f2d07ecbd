"""Every way in which a checkpoint can fail, in one tree.

    CheckpointError
    ├── DatabaseUnavailable ─ down, slow, overloaded, or a transaction lost a race: worth a retry
    │   └── DatabaseFull ─ no space there: worth a retry once somebody made some
    ├── DatabaseRefused ─ a wrong URL or password, or a right that lacks
    ├── ShardMoved ─ the shard is not where this attempt thought: begin the attempt anew
    │   ├── ReplicaBehind ─ the replica is older than the last checkpoint: ask another, or wait
    │   └── Superseded ─ a newer checkpoint has this shard already
    ├── NoRoom ─ no space on this node's disk for what is to be sent
    ├── CheckpointMissing ─ no such checkpoint, or it was never finished
    ├── FormatMismatch ─ written by another version
    └── CheckpointDamaged ─ the rows are not those that were written

No message holds the URL of a database.
"""

from __future__ import annotations


class CheckpointError(Exception):
    """Base of what can go wrong around checkpoints."""


class DatabaseUnavailable(CheckpointError):
    """Postgres cannot do it now."""


class DatabaseFull(DatabaseUnavailable):
    """Postgres has no space left."""


class DatabaseRefused(CheckpointError):
    """Postgres will not do it, however often it is asked."""


class ShardMoved(CheckpointError):
    """What this attempt built upon is not the shard's last checkpoint any more."""


class ReplicaBehind(ShardMoved):
    """The replica has not applied what the last checkpoint of its shard has."""


class Superseded(ShardMoved):
    """A newer checkpoint has been begun."""


class NoRoom(CheckpointError):
    """The disk of this node has no space for what would be sent."""


class CheckpointMissing(CheckpointError):
    """There is no such checkpoint, or it is not whole."""


class FormatMismatch(CheckpointError):
    """Another version of this software wrote it."""


class CheckpointDamaged(CheckpointError):
    """What is in Postgres is not what was written."""
