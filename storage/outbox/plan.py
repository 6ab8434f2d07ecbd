"""In which order changes may be applied, and why none is passed over. Pure.

**A sequence is no position.** It is drawn when a row is written, and transactions commit in any
order: to read what is beyond the last sequence would skip whoever drew early and committed late.
So there is no position. The outbox is a queue: a change is read as long as it is there, and is
removed when it has been applied. What commits late is simply there from then on.

**Order by transaction number is wrong as well.** A transaction gets its number with its first
write. It may then wait for a row that a younger one has changed: of that row the older transaction
has the later change. Nor need one wait for all older transactions to end (the horizon of a
snapshot), which would let a single forgotten transaction, anywhere on the server, hold up
everything.

**Of one key the order of sequences is the order of commits.** Whoever changes a row holds its lock
until the commit, whoever inserts a key waits for those who deleted or inserted it, since its index
is unique and checked at once. So the next change of the key is written, and its sequence drawn,
after the commit of the one before. And a snapshot that shows the later one shows the earlier one:
that had left the list of running transactions before its locks were free. Changes of one key that
are read together are therefore complete up to the last of them, and sorted by sequence they are in
the order of their commits. Changes of different keys may be applied in any order.

**A repeat does no harm.** Which changes make up a batch is committed in Postgres before the first
of them is applied. Who comes after a crash applies the same batch again, under the same request
ids: the shards recognise it. Should they have forgotten it, nothing of a later batch has been
applied, so the rows are written once more as they were, and what came later still comes later. Of
the changes of a key in a batch the last one counts.

A batch that was being sent by a node which lost its place ends with its deadline, seconds later,
by a clock that goes on while a process is stopped; its request ids are known for ten minutes and
10,000 entries at least. So what it may still do late is recognised, too. A batch from which dead
letters are taken has other request ids; that waits, therefore, until no earlier attempt is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

import orjson

from storage.outbox.model import Event


def last_of_each_key(events: Sequence[Event]) -> list[Event]:
    """Return the changes that decide what becomes of their keys, by sequence.

    Rows without a key have nothing in common.
    """
    assert all(a.seq < b.seq for a, b in pairwise(events)), "events are sorted"
    last = {event.seq if event.key is None else event.key: event for event in events}
    return sorted(last.values(), key=lambda event: event.seq)


def request_id(source_uid: str, events: Sequence[Event], op: str) -> str:
    """Return the name under which a batch's upserts, or its deletions, are applied once.

    It follows from the source and the changes: a batch that lost a dead letter has another name,
    and so has one that got old sequences because Postgres was set back to an earlier time.
    """
    assert events, "a batch has changes"
    digest = blake2b(digest_size=16)
    for event in events:
        digest.update(orjson.dumps(tuple(event)))
    return f"outbox/{source_uid}/{op}/{events[0].seq}-{events[-1].seq}/{digest.hexdigest()}"
